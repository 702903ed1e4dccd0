"""One reader's stream: subscribe, look back, then frames of what changed, at most two a second and at least one in two seconds."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from gateway import frames
from gateway.hub import Reader
from gateway.service import Service
from streaming import metrics

# Browsers paint a frame when it comes: two a second is what eyes follow.
FRAME_S: Final = 0.5
# A frame without news, so that readers know that there are none: with FRAME_S less than two seconds after the one before.
HEARTBEAT_S: Final = 1.4
BOARD_S: Final = 2.0


async def events(service: Service, product: str | None, category: str | None, since: str | None) -> AsyncIterator[bytes]:
    """Server-sent events for as long as the reader stays. `since`: its position; None: from now on."""
    woken = asyncio.Event()
    reader = Reader(product, woken.set)
    hub, view = service.hub, service.view
    hub.add(reader)
    metrics.GATEWAY_STREAMS.inc()
    try:
        yield b"retry: %d\n\n" % frames.RETRY_MS
        if since is not None:
            position = frames.resume(since, service.epoch, view)
            if position is None:
                metrics.GATEWAY_RESETS.inc()
                yield frames.event("reset", frames.name(service.epoch, view.position), b'{"reason":"unknown position"}')
                return
            hub.catch_up(reader, position)
        next_board = 0.0
        while not service.closing:
            woken.clear()
            now = time.monotonic()
            due = now >= next_board
            if due:
                next_board = now + BOARD_S
            board = service.board(category) if due else None
            # Values and position are of one moment: nothing is awaited between them.
            data = frames.frame(view, reader.take(), product, about=service.about(), board=board)
            metrics.GATEWAY_FRAMES.inc()
            metrics.GATEWAY_MERGED.inc(reader.merged)
            reader.merged = 0
            yield frames.event("frame", frames.name(service.epoch, view.position), data)
            await asyncio.sleep(FRAME_S)
            if not reader.dirty:
                with suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), HEARTBEAT_S)
    finally:
        hub.remove(reader)
        metrics.GATEWAY_STREAMS.dec()
