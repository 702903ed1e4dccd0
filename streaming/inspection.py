"""What is known of one product now: its rolling features from its stored tiles and steps, as of a moment."""

import difflib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from feature_store.calls import NO_WATERMARK
from feature_store.rolling import rolling_features
from feature_store.sharding import shard_of
from feature_store.store import FeatureStore
from feature_store.tiles import Grid
from feature_store.windows import History, Kept
from streaming.errors import UserError
from streaming.operators import moment_text
from streaming.schedule import shard_time
from streaming.settings import Clock, Settings

NEAR_NAMES: Final = 5
# Names that share most pairs of letters are compared with care, which takes about 20 µs each; counting pairs takes 2 µs.
COMPARED_NAMES: Final = 200
# What difflib's authors call a close match.
NEAR_RATIO: Final = 0.6


@dataclass(frozen=True, slots=True)
class ProductFeatures:
    """A product's features in their units; None: undefined. Times in epoch ms."""

    product_id: str
    shard: int
    as_of_ms: int
    last_event_ms: int
    complete_through_ms: int | None  # end of the last step that has been rolled up; None: none has
    features: dict[str, float | None]


async def features_of(store: FeatureStore, settings: Settings, product: str, as_of_ms: int | None = None) -> ProductFeatures:
    """Features as of a moment, by default the one that the product's shard has reached. Raises UserError.

    A moment before the end of the last rolled-up step can't be answered: that step is known as a whole only.
    """
    shard = shard_of(product, settings.shards)
    last_event_ms = await store.last_event_ms(shard, product)
    if last_event_ms is None:
        raise UserError(await unknown_product(store, settings, product))
    [held] = await store.history([(shard, product)])
    grid = Grid(settings.tile_ms, settings.step_ms)
    rolled_ms = None if held[2] is None else grid.step_end_ms(held[2])
    if as_of_ms is None:
        as_of_ms = await reached_ms(store, settings, shard, last_event_ms, rolled_ms)
    elif rolled_ms is not None and as_of_ms < rolled_ms:
        raise UserError(
            f"{product!r} is known tile by tile from {moment_text(rolled_ms)} on, what is before is rolled up into whole steps: ask for that moment "
            "or a later one (`trendcast export features` writes all steps)"
        )
    kept = Kept(grid, settings.tile_retention_ms, settings.step_retention_ms)
    matrix = rolling_features(History.of([held], grid), as_of_ms, kept, settings.timezone)
    return ProductFeatures(product, shard, as_of_ms, last_event_ms, rolled_ms, matrix.of_product(0))


async def reached_ms(store: FeatureStore, settings: Settings, shard: int, last_event_ms: int, rolled_ms: int | None) -> int:
    """The moment that a product's shard has reached: what forecasts are made for (`as_of`)."""
    sources = await store.sources()
    watermarks, idle = await store.heard(shard)
    lagging_ms = settings.lagging_source_ms if settings.clock is Clock.WALL else None
    watermark_ms = shard_time(sources, watermarks, idle, lagging_ms=lagging_ms).watermark_ms
    return as_of(watermark_ms, settings.lateness_ms, last_event_ms, rolled_ms)


def as_of(watermark_ms: int, lateness_ms: int, last_event_ms: int, rolled_ms: int | None) -> int:
    """The moment for which forecasts are made; while a source has never been heard, that of the product's last event.

    >>> as_of(1_000, 100, 5_000, None), as_of(NO_WATERMARK, 100, 5_000, None)
    (1100, 5000)
    >>> as_of(1_000, 100, 5_000, 1_200)  # rolled up between two looks
    1200
    """
    reached_ms = last_event_ms if watermark_ms == NO_WATERMARK else watermark_ms + lateness_ms
    return reached_ms if rolled_ms is None else max(reached_ms, rolled_ms)


async def unknown_product(store: FeatureStore, settings: Settings, product: str) -> str:
    """What to say of a product that is not there, with names like it."""
    near: list[str] = []
    n = 0
    for shard in range(settings.shards):
        names = [name for name, _ in await store.live(shard)]
        n += len(names)
        near = nearest(product, [*near, *names])
    if not n:
        return (
            f"nothing is known of any product yet in namespace {settings.namespace!r}: nothing was counted (is `trendcast ingest` running?)"
        )
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ", and none has a name like it"
    return (
        f"nothing is known of product {product!r}: it was never heard of, or forgotten after a long silence. {n} products are known{hint}"
    )


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """At most NEAR_NAMES names that look like `name`, the likest first.

    >>> nearest("SKU-0042", ["sku-0042", "SKU-042", "SKU-0043", "teapot"])
    ['sku-0042', 'SKU-042', 'SKU-0043']
    """
    wanted, folded = _pairs(name), name.casefold()

    def shared(other: str) -> tuple[float, str]:
        pairs = _pairs(other)
        return len(wanted & pairs) / (len(wanted) + len(pairs)), other

    likely = heapq.nlargest(COMPARED_NAMES, names, key=shared)
    ratios = {other: difflib.SequenceMatcher(None, folded, other.casefold()).ratio() for other in likely}
    return sorted((other for other in ratios if ratios[other] >= NEAR_RATIO), key=lambda other: (-ratios[other], other))[:NEAR_NAMES]


def _pairs(name: str) -> set[str]:
    """Pairs of letters, ends included; never empty."""
    padded = f" {name.casefold()} "
    return {padded[i : i + 2] for i in range(len(padded) - 1)}
