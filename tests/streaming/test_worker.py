"""How parts of a process end together."""

import asyncio
import logging

import pytest

from streaming.errors import UserError
from streaming.logs import _is_news
from streaming.worker import first_end


async def test_a_part_that_misses_its_cancellation_is_cancelled_again() -> None:
    missed: list[int] = []

    async def deaf() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if missed:
                    raise
                missed.append(1)

    async with asyncio.timeout(10):
        await first_end(deaf(), asyncio.sleep(0))
    assert missed


async def test_what_the_first_part_raised_is_raised_once_the_others_have_ended() -> None:
    ended: list[int] = []

    async def other() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(1)

    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        await first_end(other(), failing())
    assert ended


@pytest.mark.parametrize(
    ("error", "is_news"), [(UserError("said once"), False), (RuntimeError("Event loop is closed"), False), (RuntimeError("a bug"), True)]
)
def test_what_is_told_anyway_has_no_traceback(error: Exception, is_news: bool) -> None:
    record = logging.LogRecord("mode", logging.ERROR, "", 0, "Error while stopping child", None, (type(error), error, None))
    assert _is_news((UserError,), record) is is_news
