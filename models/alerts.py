"""Spikes and drops of demand: what is judged per product and tile, in order, and the life of the alerts that follow. Pure.

**What is counted.** Orders, not units: one order of 500 pieces is one decision of one customer. Their number is nearly Poisson where units
are heavy-tailed, and a trend is more customers. Units are carried along, for the message.

**What is expected.** The forecast's units in the tile times the product's own orders per forecast unit (`models.alert_evidence`), moved towards no
alert by `doubt` standard errors.

**The test.** A CUSUM of the log-likelihood ratio between `factor` times the expectation and the expectation, which has the least delay for a given
rate of false alarms (Moustakides 1986). For Poisson counts that is the walk `W <- max(0, W + x - k m)` with `k = (factor - 1) / ln factor`; x are
the tile's orders, m their expectation. It fires at `h / s`, where Lundberg's exponent `s` solves `ln E exp(s (x - k m)) = 0` for a negative binomial
count with the product's dispersion; for Poisson `s = ln factor`. False alarms then come at about `0.35 exp(-h)` a unit of mass (expected orders over
dispersion), whatever the dispersion, so that `h` follows from the rate that the policy allows: rare products need fewer orders than busy ones.
A drop is the mirror image; silence needs no case of its own, as the expectation accumulates.

**The life of an alert.** It fires when its walk reaches the level and is re-sent every `update_tiles`. The walk is held at the level, let down by
at most a part of it per tile, and the alert ends when it is back at zero: as much evidence for the end as for the beginning. While one is open the
other kind does not accumulate. An alert is named by kind, product and the tile in which its walk left zero.

**Nothing to sell.** A tile of a product that is out of stock tells nothing of demand: both walks go back to zero, which ends an open alert, nothing is
learned, and no time of silence passes.
"""

from dataclasses import dataclass, fields
from enum import IntEnum, StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from models import alert_evidence as row
from models.alert_evidence import SCORE_SIZE, Bools, Floats, Known, known, learn, reference, usual
from models.alert_policy import AlertPolicy

__all__ = ["SCORE_SIZE", "Action", "AlertPolicy", "Kind", "Reason", "Transitions", "close_all", "fresh", "judge"]

# A walk, the tile in which it left zero, and what was seen since: units observed and expected, orders, carts, views.
UP_COLUMNS: Final = (row.UP, row.UP_START, [row.UP_UNITS, row.UP_EXPECTED, row.UP_ORDERS, row.UP_CARTS, row.UP_VIEWS])
DOWN_COLUMNS: Final = (row.DOWN, row.DOWN_START, [row.DOWN_UNITS, row.DOWN_EXPECTED, row.DOWN_ORDERS, row.DOWN_CARTS, row.DOWN_VIEWS])
# Walks, and the forecast that moves them, are rounded: the last bit of a float32 from another device should decide nothing.
DECIMALS: Final = 6
# A product is silent when so many orders should have come since its last one: exp(-5) is less than one in a hundred.
SILENT_ORDERS: Final = 5.0
# A new model's bias is another one: what was learned with the old one keeps a quarter of its weight, enough to go on judging older products.
MODEL_CHANGE_WEIGHT: Final = 0.25


class Kind(StrEnum):
    """What an alert says of its product."""

    SPIKE = "spike"
    DROP = "drop"


class Action(IntEnum):
    """What happens to an alert at a tile's end; the messages of `FIRE` and `UPDATE` say that it fires."""

    FIRE = 1
    UPDATE = 2
    RESOLVE = 3


class Reason(StrEnum):
    """Why an alert ended."""

    RECOVERED = "recovered"
    SILENCE = "silence"
    STOCK_OUT = "stock_out"
    EVICTED = "evicted"
    MODEL_CHANGED = "model_changed"


REASONS: Final = tuple(Reason)


@dataclass(frozen=True, slots=True)
class Transitions:
    """What happened at one call, at most one transition a product, by ascending row; k of them."""

    rows: npt.NDArray[np.int64]  # (k,) rows of the call's batch
    spike: Bools  # (k,) spike, else drop
    action: npt.NDArray[np.int8]  # (k,) Action
    reason: npt.NDArray[np.int8]  # (k,) of those that end: index into REASONS
    start_tile: npt.NDArray[np.int64]  # (k,) first tile of the window
    tile: npt.NDArray[np.int64]  # (k,) last tile of the window
    observed: Floats  # (k,) units in the window
    expected: Floats  # (k,) units that the forecast expected in it
    expected_sd: Floats  # (k,) their standard deviation
    score: Floats  # (k,) present evidence in nats; an alert that evidence ends, ends at 0
    funnel: Floats  # (k, 4) views, carts, orders and units in the window
    usual: Floats  # (k, 4) the same that usually come for one unit of the forecast; 0 where clicks are not known

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, chosen: Bools) -> "Transitions":
        """Those of `chosen`, (k,)."""
        return Transitions(*(getattr(self, part.name)[chosen] for part in fields(self)))


def fresh(n: int) -> Floats:
    """Rows of n products never judged, (n, SCORE_SIZE)."""
    return np.zeros((n, SCORE_SIZE), dtype=np.float64)


def judge(
    scores: Floats,
    observed: Floats,
    orders: Floats,
    expected: Floats,
    tile: npt.ArrayLike,
    policy: AlertPolicy,
    *,
    tile_ms: int,
    clicks: Floats | None = None,
    sold_out: Bools | None = None,
) -> tuple[Floats, Transitions]:
    """Judges one tile of each product: (new scores, what happened). A product's tiles come in order; one that was judged already is left out.

    scores (n, SCORE_SIZE); observed, orders (n,): units and orders in the tile; expected (n,): units that the forecast made before the tile's step
    expected in it; tile: its index, one for all or (n,); clicks (n, 2): carts and views in the tile, for explanations only (None: nobody counts
    them); sold_out (n,): there is nothing to sell in the tile (None: not known of any). Rows do not depend on each other. Tiles without an order are
    judged too.
    """
    tiles = np.broadcast_to(np.asarray(tile, dtype=np.float64), (len(scores),))
    due = np.flatnonzero(tiles >= scores[:, row.TILE])
    s, index, x = scores[due], tiles[due], np.maximum(orders[due], 0.0)
    units_expected: Floats = np.maximum(expected[due], 0.0).round(DECIMALS)
    clicked = np.zeros((len(due), 2)) if clicks is None else np.maximum(clicks[due], 0.0)
    empty = np.zeros(len(due), np.bool_) if sold_out is None else sold_out[due]
    seen = np.column_stack((np.maximum(observed[due], 0.0), units_expected, x, clicked))
    before = known(s, policy, tile_ms)
    s[:, row.TILE] = index + 1
    s[:, row.LAST_SALE] = np.where((x > 0) | (s[:, row.LAST_SALE] == 0), index + 1, s[:, row.LAST_SALE] + empty)
    _accumulate(s, seen, index, before, policy)
    s[empty, row.UP] = s[empty, row.DOWN] = 0.0
    is_open = s[:, row.FIRED] != 0
    stale = index + 1 - np.abs(s[:, row.FIRED]) >= policy.fade_tiles
    learn(s, seen, index, before, ~empty & (~is_open | stale), policy, tile_ms)
    s[:, row.COARSE] = s[:, row.COARSE].astype(np.float32)  # as stored: nothing depends on when that is
    happened = _live(s, due, before, empty, policy)
    after = scores.copy()
    after[due] = s
    return after, happened


def close_all(scores: Floats, reason: Reason, policy: AlertPolicy, *, tile_ms: int) -> tuple[Floats, Transitions]:
    """Ends every open alert at its product's last judged tile, because the product goes (EVICTED) or its expectation does (MODEL_CHANGED).

    Returns the rows to store (of evicted products: to delete) and the ends.
    """
    s = scores.copy()
    action, why = np.where(s[:, row.FIRED] != 0, Action.RESOLVE, 0), np.full(len(s), REASONS.index(reason))
    happened = _transitions(s, np.arange(len(s)), action, s[:, row.FIRED] > 0, why, known(s, policy, tile_ms))
    s[:, row.FIRED] = s[:, row.UP] = s[:, row.DOWN] = 0.0
    if reason is Reason.MODEL_CHANGED:
        s[:, [row.AGE, row.ORDERS, row.EXPECTED, row.UNITS, row.CARTS, row.VIEWS]] *= MODEL_CHANGE_WEIGHT
    return s, happened


def _accumulate(s: Floats, seen: Floats, tile: Floats, before: Known, policy: AlertPolicy) -> None:
    """One step of both walks, in place. `seen`: (n, 5) units observed and expected in the tile, orders, carts, views."""
    orders = seen[:, 2]
    levels = before.h[:, np.newaxis] / before.exponent
    spike, drop = s[:, row.FIRED] > 0, s[:, row.FIRED] < 0
    mass = seen[:, 1] * before.orders_per_unit
    doubt = np.exp(policy.doubt * np.sqrt(before.relative_variance))
    up = orders - reference(policy.spike_factor) * np.maximum(mass, policy.floor_orders) * doubt
    # One large order lifts the forecast for days: what has just risen is not yet owed. (A spike is held against the whole: promotions are expected.)
    down = reference(policy.drop_factor) * mass / (doubt * before.risen) - orders
    _step(s, UP_COLUMNS, up, levels[:, 0], spike, seen, tile, policy)
    _step(s, DOWN_COLUMNS, down, levels[:, 1], drop, seen, tile, policy)
    s[:, row.UP] *= before.warm & ~drop
    s[:, row.DOWN] *= drop | (before.warm & ~spike & (s[:, row.ORDERS] >= policy.drop_history))


def _step(
    s: Floats,
    columns: tuple[int, int, list[int]],
    increment: Floats,
    level: Floats,
    is_open: Bools,
    seen: Floats,
    tile: Floats,
    policy: AlertPolicy,
) -> None:
    """One step of one walk, in place; a window begins with the tile in which the walk may leave zero."""
    walk, start, window = columns
    begins = (s[:, walk] == 0) & ~is_open
    # Bounded both ways: one tile alone neither fires nor ends an alert. An open one fades where evidence does not come again.
    fastest = np.where(is_open, -level / policy.resolve_tiles, -np.inf)
    step = np.clip(increment, fastest, policy.max_share * level) - np.where(is_open, level / policy.fade_tiles, 0.0)
    s[:, walk] = np.clip(s[:, walk] + step, 0.0, np.where(is_open, level, np.inf)).round(DECIMALS)
    s[:, start] = np.where(begins, tile, s[:, start])
    s[:, window] = np.where(begins[:, np.newaxis], 0.0, s[:, window]) + seen


def _live(s: Floats, rows: npt.NDArray[np.intp], before: Known, empty: Bools, policy: AlertPolicy) -> Transitions:
    """Fires, re-sends and ends alerts, in place, after the walks' step. `empty`: there is nothing to sell."""
    levels, now = before.h[:, np.newaxis] / before.exponent, s[:, row.TILE]
    spike, drop = s[:, row.FIRED] > 0, s[:, row.FIRED] < 0
    is_open = spike | drop
    fires_up = ~is_open & (s[:, row.UP] >= levels[:, 0]) & (s[:, row.UP_UNITS] >= policy.min_units)
    fires_down = ~is_open & ~fires_up & (s[:, row.DOWN] >= levels[:, 1]) & (s[:, row.DOWN_EXPECTED] >= policy.min_units)
    quiet = now - s[:, row.LAST_SALE]
    # At a spike's own rate at least its six or so orders would have come again.
    gone = spike & (quiet >= np.maximum(policy.silence_tiles, s[:, row.LAST_SALE] - s[:, row.UP_START]))
    silent = gone | (quiet * s[:, row.ORDERS] >= SILENT_ORDERS * np.maximum(s[:, row.AGE], 1.0))
    ends = gone | (spike & (s[:, row.UP] == 0)) | (drop & (s[:, row.DOWN] == 0))
    updates = is_open & ~ends & ((now - np.abs(s[:, row.FIRED])) % policy.update_tiles == 0)
    action = np.select([fires_up | fires_down, updates, ends], [Action.FIRE, Action.UPDATE, Action.RESOLVE], 0)
    why = np.select([empty, silent], [REASONS.index(Reason.STOCK_OUT), REASONS.index(Reason.SILENCE)], REASONS.index(Reason.RECOVERED))
    happened = _transitions(s, rows, action, spike | fires_up, why, before)
    s[:, row.FIRED] = np.select([fires_up, fires_down, ends], [now, -now, 0.0], s[:, row.FIRED])
    s[ends, row.UP] = s[ends, row.DOWN] = 0.0
    return happened


def _transitions(
    s: Floats, rows: npt.NDArray[np.intp], action: npt.NDArray[np.int64], spike: Bools, why: npt.NDArray[np.int64], before: Known
) -> Transitions:
    """The rows where `action` is not 0, with the window of their alert."""
    some = np.flatnonzero(action)
    s, spike = s[some], spike[some]
    walk, start = (np.where(spike, s[:, up], s[:, down]) for up, down in zip(UP_COLUMNS[:2], DOWN_COLUMNS[:2], strict=True))
    seen = np.where(spike[:, np.newaxis], s[:, UP_COLUMNS[2]], s[:, DOWN_COLUMNS[2]])
    units, expected, orders, carts, views = seen.T
    variance = before.dispersion[some] * expected / before.orders_per_unit[some] + before.relative_variance[some] * expected**2
    return Transitions(
        rows=rows[some].astype(np.int64),
        spike=spike,
        action=action[some].astype(np.int8),
        reason=why[some].astype(np.int8),
        start_tile=start.astype(np.int64),
        tile=s[:, row.TILE].astype(np.int64) - 1,
        observed=units,
        expected=expected,
        expected_sd=np.sqrt(variance),
        score=(walk * before.exponent[some, np.where(spike, 0, 1)]).round(3),
        funnel=np.column_stack((views, carts, orders, units)),
        usual=usual(s),
    )
