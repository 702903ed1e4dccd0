"""What is stored of what the shop knows ahead, for the products that are about to be decided on."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from feature_store.store import FeatureStore
from models import calendar
from models.artefact import Artefact
from models.calendar import InvalidCalendar
from models.known_future import KnownFuture, Place
from streaming.errors import UserError
from streaming.ownership import Owned, Product
from streaming.settings import Settings

_OF_HOLIDAYS: Final = ("holiday", "day_before", "day_after")


def place_of(settings: Settings) -> Place:
    """The shop's calendar. Raises UserError where the settings do not make one."""
    try:
        events = calendar.read_events(settings.events_file or calendar.DEFAULT_EVENTS)
        place = Place(settings.timezone, settings.country, settings.subdivision, events)
        place.columns(calendar.COLUMNS, 0, 1, settings.step_ms)
    except InvalidCalendar as error:
        raise UserError(f"TRENDCAST_COUNTRY, TRENDCAST_SUBDIVISION or TRENDCAST_EVENTS_FILE: {error}") from error
    return place


def calendar_meta(artefact: Artefact, settings: Settings) -> dict[str, str]:
    """What the namespace remembers of the calendar, so that all workers see the same holidays; nothing for a model that does not look at them.

    The events are not remembered: next year's are added to a shop that runs.
    Raises UserError where the model learned from holidays and the settings name no country, or the other way round.
    """
    if not set(artefact.spec.covariates) & set(_OF_HOLIDAYS):
        return {}
    learned = artefact.training.get("country")
    if (learned is None) != (settings.country is None):
        raise UserError(
            f"the model {artefact.name} learned from the holidays of {learned}; name the shop's country in TRENDCAST_COUNTRY"
            if learned
            else f"the model {artefact.name} was trained without holidays: train it with --country, or leave TRENDCAST_COUNTRY out"
        )
    return {"holidays": f"{settings.country or ''}/{settings.subdivision or ''}"}


class KnownAhead:
    """Reads facts and context where a topic of them is named, or the model looks at any covariate."""

    def __init__(self, settings: Settings, store: FeatureStore, covariates: tuple[str, ...]) -> None:
        self._settings, self._store, self._names = settings, store, covariates
        self._wanted = bool(settings.ahead_topics or covariates)
        self._place = place_of(settings) if covariates else Place(settings.timezone)

    async def of(self, products: Sequence[Product], owned: Owned | None = None) -> KnownFuture | None:
        """Of these products; None: nobody asks. With `owned`, raises ShardRolledBack where less is stored than when the shards were looked at."""
        if not self._wanted:
            return None
        known = None if owned is None else {shard: owned[shard].sequence for shard, _ in products}
        facts, contexts = await self._store.known_ahead(products, known=known)
        distinct = sorted(set(contexts.values()))  # nearly always one: all shards hear the same
        rows = np.array([distinct.index(contexts[shard]) for shard, _ in products], np.int64)
        return KnownFuture.of(self._names, self._settings.step_ms, self._place, facts, distinct or [()], rows)
