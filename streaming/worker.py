"""The shell of the long-running processes: logging, `/metrics`, signals, a bounded end, exit status. What they do is a `Worker`'s affair."""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import structlog
import uvloop
from redis.exceptions import RedisError

from feature_store.calls import StoreRolledBack, StoreUnusable
from streaming import logs
from streaming.errors import UserError
from streaming.health import Health, HealthServer
from streaming.settings import Settings
from streaming.transport import BatchApp, CoordinatorDied, TopicReplaced

# SIGTERM must end the process within 10 s, whatever hangs. Nothing is lost by ending hard: what counts is in Redis, atomically.
HARD_END_S: Final = 8.0
# For what is in flight (one round of calls to Redis), and for Faust to leave its group.
RELEASE_S: Final = 3.0
STOP_S: Final = 3.0
CANCEL_AGAIN_S: Final = 0.5
# How long the event loop may be silent before `/healthz` says so; a batch takes it about 0.1 s.
LOOP_SILENCE_S: Final = 30.0
LOOP: Final = "event loop"

# Ends that need no traceback: the message says it all.
_EXPECTED: Final = (UserError, StoreUnusable, StoreRolledBack, CoordinatorDied, TopicReplaced, RedisError)

log = structlog.stdlib.get_logger("trendcast")


class Worker(Protocol):
    """One kind of long-running process. The app's `read_positions` and agents are set when it is made."""

    async def open(self) -> None:
        """Connects and checks; raises UserError (or StoreUnusable) where something is missing. Before Faust starts."""

    async def run(self) -> None:
        """Works until it is cancelled; what it raises ends the process with status 1."""

    async def release(self) -> None:
        """Ends what is in flight and takes nothing new; also called when partitions are revoked."""

    async def close(self) -> None:
        """Closes connections."""


MakeWorker = Callable[[Settings, BatchApp, Health], Worker]


def run_worker(settings: Settings, kind: str, make: MakeWorker, conditions: tuple[str, ...], *, consumes: bool = True) -> int:
    """Runs a worker until SIGTERM or SIGINT, and ends the process with status 0; returns 1 where it failed.

    `consumes`: it reads topics, as a member of its kind's consumer group; else it only sends. Raises UserError where something outside the program is wrong.
    """
    logs.configure(settings.log_level, _EXPECTED)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # a policy, because Faust's threads make their own loops
    # Not asyncio.run: it would wait for tasks of Faust's that swallow their cancellation.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    stopping = asyncio.Event()
    _on_signals(lambda: loop.call_soon_threadsafe(stopping.set))
    try:
        loop.run_until_complete(_serve(settings, kind, make, conditions, stopping, consumes))
    except _EXPECTED as error:
        if isinstance(error, UserError | StoreUnusable):
            raise UserError(str(error)) from error
        log.error("worker.failed", worker=kind, reason=f"{type(error).__name__}: {error}")
        return 1
    except Exception:
        log.exception("worker.failed", worker=kind)
        return 1
    log.info("worker.ended", worker=kind)
    sys.stderr.flush()
    os._exit(0)  # what counts is in Redis; Faust's threads may still wait for a broker that is about to answer


def _on_signals(wake: Callable[[], object]) -> None:
    """SIGTERM and SIGINT end the worker; a second one, or HARD_END_S later, at once."""
    asked: list[int] = []

    def end(number: int, _: object) -> None:
        if asked:
            os._exit(1)
        asked.append(number)
        _arm_hard_end()
        wake()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _arm_hard_end() -> None:
    timer = threading.Timer(HARD_END_S, os._exit, (1,))
    timer.daemon = True
    timer.start()


async def _serve(
    settings: Settings, kind: str, make: MakeWorker, conditions: tuple[str, ...], stopping: asyncio.Event, consumes: bool
) -> None:
    app, health = BatchApp(settings, kind), Health(conditions)
    worker = make(settings, app, health)
    app.released = worker.release
    async with HealthServer(health, settings.metrics_host, settings.metrics_port) as server:
        log.info(
            "worker.starting", worker=kind, namespace=settings.namespace, metrics=f"http://{settings.metrics_host}:{server.port}/metrics"
        )
        try:
            await first_end(worker.open(), _until(stopping))  # loading a model takes longer than an end may
            if stopping.is_set():
                return
            _calm_collector()
            reading = [_app_until_it_ends(app)] if consumes else []
            await first_end(*reading, worker.run(), _beat(health), _until(stopping))
        except BaseException:
            _arm_hard_end()  # the end of something that failed may hang, too
            raise
        finally:
            await _bounded(worker.release(), RELEASE_S)
            await _bounded(app.stop(), STOP_S)
            await _bounded(worker.close(), 1.0)


def _calm_collector() -> None:
    """Records and rows hold no cycles, but the collector looks for some at every 700 new containers: a sixth of the CPU at full load."""
    gc.collect()
    gc.freeze()  # what is there now stays until the end
    gc.set_threshold(100_000, 50, 100)


async def _app_until_it_ends(app: BatchApp) -> None:
    starting = asyncio.create_task(app.start())
    crashed = asyncio.create_task(app.wait_until_stopped())
    try:
        await asyncio.wait({starting, crashed}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
        await crashed
    finally:
        starting.cancel()
        crashed.cancel()
    if app.crash_reason is not None:
        raise app.crash_reason


async def _beat(health: Health) -> None:
    health.watch(LOOP, LOOP_SILENCE_S, time.monotonic())
    while True:
        await asyncio.sleep(1.0)
        health.progressed(LOOP, time.monotonic())


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def first_end(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs all until one ends, cancels the others, and raises what the one raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        left = {task for task in tasks if not task.done()}
        while left:  # a task whose own timeout ends at the same moment may miss that it was cancelled: it is told again
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
        await asyncio.gather(*tasks, return_exceptions=True)


async def _bounded(ending: Coroutine[Any, Any, None], limit_s: float) -> None:
    """Waits for the end of something, but not for long, and not for its complaints. What takes longer is left to the process's end.

    Not `wait_for`: that waits until the cancelled thing has ended, and Faust's `stop` swallows its cancellation.
    """
    task = asyncio.create_task(ending)
    await asyncio.wait({task}, timeout=limit_s)
    if task.done() and not task.cancelled():
        task.exception()
