"""What operators' commands share: a namespace opened to look at, moments as people write them, bytes that a terminal may show."""

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from redis.exceptions import RedisError

from feature_store.calls import StoreUnusable
from feature_store.store import FeatureStore
from streaming.contracts import MAX_TIME_MS, MIN_TIME_MS
from streaming.errors import UserError
from streaming.settings import DAY_MS, HOUR_MS, MINUTE_MS, Settings

# A day less than messages may say, so that any time zone can show it.
_LAST_MS: Final = MAX_TIME_MS - DAY_MS
_UNITS: Final = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
_AGO: Final = re.compile(r"(\d{1,6})([mhd])")


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[FeatureStore]:
    """The namespace's store, which must be there. Raises UserError where it is not, is another's, or Redis fails meanwhile."""
    try:
        store = await FeatureStore.open(settings, create=False)
    except StoreUnusable as error:
        raise UserError(str(error)) from error
    except RedisError as error:
        raise UserError(f"Redis at {settings.redis_address}: {error}") from error
    try:
        yield store
    except RedisError as error:
        raise UserError(f"Redis at {settings.redis_address}: {error}") from error
    finally:
        await store.close()


def moment_ms(text: str, now_ms: Callable[[], float] = lambda: time.time() * 1000) -> int:
    """Epoch ms of what people write: ISO 8601 (UTC unless it says otherwise), epoch ms, `now`, or how long ago. Raises UserError.

    >>> moment_ms("2026-01-05"), moment_ms("2026-01-05T01:00+01:00"), moment_ms("1767571200000")
    (1767571200000, 1767571200000, 1767571200000)
    >>> moment_ms("2h", now_ms=lambda: 1767571200000) == moment_ms("2026-01-04T22:00Z")
    True
    """
    if ago := _AGO.fullmatch(text):
        moment = int(now_ms()) - int(ago[1]) * _UNITS[ago[2]]
    elif text == "now":
        moment = int(now_ms())
    elif re.fullmatch(r"\d{11,15}", text):
        moment = int(text)
    else:
        moment = _iso_ms(text)
    if not MIN_TIME_MS <= moment <= _LAST_MS:
        raise UserError(
            f"{text!r} is too far from now; years from {moment_text(MIN_TIME_MS)[:4]} to {moment_text(MAX_TIME_MS)[:4]} can be said"
        )
    return moment


def _iso_ms(text: str) -> int:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"{text!r} is no moment; write it like 2026-01-05, 2026-01-05T12:00+01:00, epoch ms, or how long ago: 30m, 2h, 7d"
        ) from error
    try:
        return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)
    except OverflowError as error:
        raise UserError(f"{text!r} is too far from now") from error


def moment_text(ms: int) -> str:
    """As `moment_ms` reads it.

    >>> moment_text(1_767_571_200_000)
    '2026-01-05T00:00:00Z'
    """
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def printable(content: bytes) -> str:
    r"""Bytes for a terminal: text where they are UTF-8, everything that a terminal may obey or hide escaped.

    >>> print(printable('{"price": "4 €"}'.encode()), printable(b"\x1b[2J\xff\n"))
    {"price": "4 €"} \x1b[2J\xff\n
    """
    text = content.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
