"""`/metrics`, `/healthz` and `/readyz` of a worker, served by the worker's own event loop.

A loop that hangs answers nobody, which is the right answer: the orchestrator ends the process. The server starts before Faust joins its
group, so that a worker that waits for its assignment is seen to live and seen not to be ready.
"""

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from aiohttp import web

from streaming import metrics
from streaming.errors import UserError

# What a worker needs before it can serve. The forecast worker has all three; the ingest worker has no model.
ASSIGNMENT = "assignment"
STORE = "store"
MODEL = "model"


class Health:
    """What a worker says of itself. Times are seconds of one monotonic clock and are given by the caller."""

    def __init__(self, conditions: Iterable[str]) -> None:
        """`conditions`: names of everything that must hold before the worker is ready; none holds at the start."""
        self._missing: dict[str, str | None] = {}
        for condition in conditions:
            self._hold(condition, "not yet")
        self._watched: dict[str, tuple[float, float]] = {}  # activity: (longest silence, last sign of life)

    def met(self, condition: str) -> None:
        """The condition holds from now on."""
        self.lost(condition, None)

    def lost(self, condition: str, reason: str | None) -> None:
        """The condition does not hold, and why: shown to operators, so no secrets. KeyError for a condition that was not declared."""
        if condition not in self._missing:
            raise KeyError(condition)
        self._hold(condition, reason)

    def _hold(self, condition: str, reason: str | None) -> None:
        self._missing[condition] = reason
        metrics.WORKER_CONDITIONS.labels(condition).set(reason is None)

    def watch(self, activity: str, within_s: float, now_s: float) -> None:
        """From now on the activity must show progress at least every `within_s` seconds. Watching again sets a new limit."""
        self._watched[activity] = (within_s, now_s)

    def unwatch(self, activity: str) -> None:
        """The activity has ended as it should."""
        self._watched.pop(activity, None)

    def progressed(self, activity: str, now_s: float) -> None:
        """A sign of life. KeyError for an activity that nobody watches."""
        within_s, _ = self._watched[activity]
        self._watched[activity] = (within_s, now_s)

    def conditions(self) -> dict[str, str]:
        """Every condition: "ok", or the reason why it does not hold."""
        return {name: reason or "ok" for name, reason in self._missing.items()}

    def ready(self) -> bool:
        """Whether every condition holds."""
        return not any(self._missing.values())

    def stuck(self, now_s: float) -> dict[str, str]:
        """Activities without progress for longer than they may be, each with a reason.

        >>> health = Health([])
        >>> health.watch("loop", 30.0, now_s=100.0)
        >>> health.stuck(now_s=130.0), health.stuck(now_s=130.5)
        ({}, {'loop': 'no progress for 30.5 s, allowed are 30 s'})
        """
        return {
            name: f"no progress for {now_s - last_s:.1f} s, allowed are {within_s:g} s"
            for name, (within_s, last_s) in self._watched.items()
            if now_s - last_s > within_s
        }


class HealthServer:
    """HTTP server of one worker; `async with HealthServer(...) as server: server.port`."""

    def __init__(self, health: Health, host: str, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`port` 0 takes any free one. `clock` gives the seconds that `Health.watch` and `Health.progressed` are given."""
        self._health = health
        self._host = host
        self._clock = clock
        self.port = port  # after the start: the real one
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Serves from now on. UserError where the address cannot be used."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self.port).start()
        except OSError as error:
            await runner.cleanup()
            where, hint = f"{self._host}:{self.port}", "set TRENDCAST_METRICS_HOST and TRENDCAST_METRICS_PORT"
            raise UserError(f"cannot serve metrics on {where} ({error.strerror}); {hint}") from error
        self._runner = runner
        self.port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Ends the server; open connections are closed. Harmless where it does not run."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, _: web.Request) -> web.Response:
        stuck = self._health.stuck(self._clock())
        return _answer(not stuck, {"live": not stuck, "stuck": stuck})

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._health.ready()
        return _answer(ready, {"ready": ready, "conditions": self._health.conditions()})


def _answer(good: bool, body: dict[str, object]) -> web.Response:
    return web.json_response(body, status=200 if good else 503, headers={"Cache-Control": "no-store"})
