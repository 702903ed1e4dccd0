"""Which model is to serve next: watched, loaded beside the one that serves, and handed over when it is ready."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from feature_store.calls import ModelPointer
from models.forecaster import Forecaster
from streaming import metrics
from streaming.errors import UserError

# A model that cannot be loaded may be mended (files copied, permissions set) without another promotion.
RETRY_S: Final = 30.0

Load = Callable[[ModelPointer], Forecaster]  # raises UserError; takes seconds, and runs in a thread of its own

log = structlog.stdlib.get_logger("trendcast")


class Takeover:
    """Tell it what was promoted as often as you like; ask it whether a model is ready between two rounds."""

    def __init__(self, load: Load, serving: Forecaster) -> None:
        self._load, self._serving = load, serving
        self._wanted: ModelPointer | None = None
        self._loading: tuple[ModelPointer, asyncio.Task[Forecaster]] | None = None
        self._not_before = 0.0

    def promoted(self, pointer: ModelPointer | None) -> None:
        """What is to serve, by the store; None: nothing was ever promoted, whatever serves goes on."""
        if pointer != self._wanted:
            self._wanted, self._not_before = pointer, 0.0
        if pointer is None or not self.pending or self._loading is not None or time.monotonic() < self._not_before:
            return
        log.info("model.loading", name=pointer.name, version=pointer.version, files=pointer.files)
        self._loading = pointer, asyncio.create_task(asyncio.to_thread(self._loaded, pointer))

    @property
    def pending(self) -> bool:
        """Whether another model is to serve than the one that does."""
        return self._wanted is not None and self._wanted.version != self._serving.version

    def ready(self) -> Forecaster | None:
        """The model that serves from now on; None: the one that serves goes on, because it shall, or because another is not there yet or cannot be had."""
        if self._loading is None or not self._loading[1].done():
            return None
        (pointer, task), self._loading = self._loading, None
        if pointer != self._wanted:  # another was promoted meanwhile
            task.exception()
            return None
        try:
            self._serving = task.result()
        except Exception as error:  # whatever is wrong with it: the one that serves goes on
            self._not_before = time.monotonic() + RETRY_S
            metrics.FORECAST_LOAD_FAILURES.inc()
            reason = f"{type(error).__name__}: {error}"
            log.warning("model.not_loaded", version=pointer.version, reason=reason, serves=self._serving.version, again_in_s=RETRY_S)
            return None
        return self._serving

    def _loaded(self, pointer: ModelPointer) -> Forecaster:
        model = self._load(pointer)
        if model.spec.hash != self._serving.spec.hash:
            raise UserError(
                f"{pointer.label} wants features of specification {model.spec.hash}, this namespace holds {self._serving.spec.hash}: "
                "replay into another TRENDCAST_NAMESPACE to serve it"
            )
        return model
