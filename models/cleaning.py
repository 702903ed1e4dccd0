"""Between a log or an export and training: what is no demand leaves the panel or becomes a gap, and every change is reported.

Panels in, a cleaned panel and a report out; the raw panel stays as it was, and models are tested on raw panels only.

**Cancelled bulk orders are left as they were known.** While an order's step is open, a cancellation takes its units off that step; these are
gone before a panel exists. What is cancelled after the step closed was demand for all that anyone could know then, and stays: taking
it off later would train on hindsight that no forecast ever has. What such an order does to a model is limited by `outliers`.

**Sizes of products are not made alike here**: the network's inputs and outputs are divided by each product's own scale (`models.features.scales`).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from models.dataset import Panel
from models.features import F32, FeatureSpec
from models.seasons import DAY_MS, season

Mask = npt.NDArray[np.bool_]

ADJUSTMENTS: Final = "adjustments"
STOCK_OUTS: Final = "stock-outs"
OUTAGES: Final = "outages"
OUTLIERS: Final = "outliers"
RULES: Final = (ADJUSTMENTS, STOCK_OUTS, OUTAGES, OUTLIERS)  # in the order in which they are applied

# Ids under which a British gift shop books postage, fees, discounts, samples, vouchers, donations, write-offs and tests. Whole ids only.
_ADJUSTMENT_IDS: Final = (
    r"POST|DOT|[MDSB]|C[23]|PADS|CRUK|BANK CHARGES|AMAZON ?FEE|GIFT|GIFT_\d+(_\d+)?|ADJUST(MENT)?\d*|TEST[-_ ]?\d*|SAMPLES?|CARRIAGE"
)
_MOST_EXAMPLES: Final = 10
# A silence counts as an outage only if chance alone would rarely make it: less often than once in a million.
_SILENCE_ODDS: Final = 1e-6
# … and if it is so many times as long as the longest silence of 95 % of all weeks.
_USUAL_FACTOR: Final = 2.0
_USUAL_SHARE: Final = 0.95
# A product that sells in more than this share of the steps that began and ended without stock sells without stock.
_UNBOUND_SHARE: Final = 0.5
_UNBOUND_STEPS: Final = 3
# A cap is judged by the newest sales before a step: enough for a median, few enough to follow a product's growth.
_CAP_WINDOW: Final = 64
_CAP_FEWEST: Final = 12
# Products that sell the same number each time have no spread; a sale of twice as many must not count as far off.
_LEAST_SPREAD: Final = 0.35
# Medians are taken of so many windows at a time: 50 MB.
_CHUNK: Final = 100_000


@dataclass(frozen=True, slots=True)
class Policy:
    """Which rules are applied, and how sharp they are."""

    rules: tuple[str, ...] = (ADJUSTMENTS, STOCK_OUTS, OUTAGES)
    adjustment_ids: str = _ADJUSTMENT_IDS  # regular expression over whole product ids, upper and lower case alike
    adjustments_share: float = 0.05  # a pattern that fits a larger share of the products is not about adjustments
    closed_days: float = 4.0  # open days that a shop may be closed in a row: bank holidays around a weekend
    outlier_spreads: float = 6.0  # spreads above the median, on a logarithmic scale, from which a step's demand is cut

    def without(self, rules: Sequence[str]) -> "Policy":
        """The policy with some rules switched off."""
        return replace(self, rules=tuple(rule for rule in self.rules if rule not in rules))


@dataclass(frozen=True, slots=True)
class Change:
    """What one rule did."""

    rule: str
    did: str  # in words
    products: int  # touched
    cells: int  # product steps touched; rows, where rows were read
    units_before: float  # of the whole panel
    units_after: float
    examples: tuple[str, ...] = ()  # ten at most


def clean(source: Panel, spec: FeatureSpec, policy: Policy = Policy()) -> tuple[Panel, list[Change]]:
    """The panel after all rules of the policy, and what each did, rules without effect included."""
    steps = {ADJUSTMENTS: adjustments, STOCK_OUTS: stock_outs, OUTAGES: outages, OUTLIERS: outliers}
    unknown = sorted(set(policy.rules) - set(RULES))
    if unknown:
        raise ValueError(f"there is no rule {', '.join(unknown)}; choose from {', '.join(RULES)}")
    changes = []
    for rule in RULES:
        if rule in policy.rules:
            source, change = steps[rule](source, spec, policy)
            changes.append(change)
    return source, changes


def adjustments(source: Panel, spec: FeatureSpec, policy: Policy) -> tuple[Panel, Change]:
    """Without the products whose id says that they are none: postage, bank charges, test lines.

    Where the pattern fits more than a small share of the products it is not about adjustments, and nothing is left out.
    """
    pattern = re.compile(policy.adjustment_ids, re.IGNORECASE)
    found = np.array([pattern.fullmatch(name) is not None for name in source.product_ids], bool)
    if found.sum() > policy.adjustments_share * len(found):
        examples = tuple(name for name, fits in zip(source.product_ids, found, strict=True) if fits)[:_MOST_EXAMPLES]
        did = f"nothing: the pattern fits {found.mean():.0%} of the products"
        return source, _change(ADJUSTMENTS, did, source, source, np.zeros((0, 0), bool), examples)
    touched = found[:, None] & (np.nan_to_num(source.demand[..., 0]) > 0)
    units = np.nansum(source.demand[..., 0], axis=1)
    largest = [i for i in np.argsort(-units, kind="stable") if found[i]][:_MOST_EXAMPLES]
    kept = source.only(np.flatnonzero(~found)) if found.any() else source
    examples = tuple(f"{source.product_ids[i]}: {units[i]:,.0f} units" for i in largest)
    change = _change(ADJUSTMENTS, "products left out", source, kept, touched, examples)
    return kept, replace(change, products=int(found.sum()))


def stock_outs(source: Panel, spec: FeatureSpec, policy: Policy) -> tuple[Panel, Change]:
    """Gaps where a step ended without stock: what was sold is less than what was wanted.

    A product that goes on selling while its stock stands at 0 (made to order, stock not kept) is left alone.
    """
    if source.stock is None:
        return source, _change(STOCK_OUTS, "nothing: no stock is known", source, source, np.zeros((0, 0), bool))
    empty = (source.stock == 0) & _alive(source)
    sold = np.nan_to_num(source.demand[..., 0]) > 0
    throughout = empty[:, 1:] & empty[:, :-1]
    sales = (throughout & sold[:, 1:]).sum(axis=1)
    unbound = (sales >= _UNBOUND_STEPS) & (sales > _UNBOUND_SHARE * throughout.sum(axis=1))
    gaps = empty & ~unbound[:, None] & np.isfinite(source.demand[..., 0])
    cleaned = with_gaps(source, gaps)
    examples = tuple(_spans_of_products(source, spec, gaps))
    did = "demand unknown: out of stock"
    if unbound.any():
        did += f" ({unbound.sum()} products sell without stock: left alone)"
    return cleaned, _change(STOCK_OUTS, did, source, cleaned, gaps, examples)


def outages(source: Panel, spec: FeatureSpec, policy: Policy) -> tuple[Panel, Change]:
    """Gaps where the whole shop, clicks included, was silent for so long that its data must be missing, or that it was closed for a holiday.

    Hours and days at which the shop is usually silent (nights, every Saturday) count as much as it usually sells at them: hardly. A silence is
    an outage if it
    - is longer than `closed_days` open days, so that bank holidays stay the zeros that a calendar can foretell,
    - would come about by chance less than once in a million, so that a small shop may have quiet days, and
    - is more than twice as long as the longest silence of 95 % of the weeks.
    """
    silent = ~np.asarray((np.nan_to_num(source.demand) > 0).any(axis=(0, 2)))
    silent &= np.asarray(_alive(source).any(axis=0))
    wide = np.zeros(source.columns, bool)
    examples = []
    starts, ends = _runs(silent)
    if len(starts):
        length, odds, week = _silences(source, spec, starts, ends)
        longest = np.zeros(int(source.columns // week) + 1)
        np.maximum.at(longest, (starts // week).astype(np.int64), length)
        usual = float(np.quantile(longest, _USUAL_SHARE, method="lower"))
        lost = (length > policy.closed_days) & (odds < math.log(_SILENCE_ODDS)) & (length > _USUAL_FACTOR * usual)
        for start, end in zip(starts[lost].tolist(), ends[lost].tolist(), strict=True):
            wide[start:end] = True
            examples.append(f"{_span(source, spec, start, end)}: {end - start} steps")
    gaps = wide & _alive(source) & np.isfinite(source.demand[..., 0])
    cleaned = with_gaps(source, gaps)
    return cleaned, _change(OUTAGES, "demand unknown: the whole shop silent", source, cleaned, gaps, examples[:_MOST_EXAMPLES])


def outliers(source: Panel, spec: FeatureSpec, policy: Policy) -> tuple[Panel, Change]:
    """Steps whose demand is far above what the product sold before are cut to a cap: winsorised.

    The cap is the median of log(1 + units) over the product's 64 newest steps with a sale *before* the step, plus `outlier_spreads` robust
    spreads (1.4826 times the median absolute deviation, at least 0.35). Causal: a step's value never depends on later ones, and a rise that lasts
    becomes the rule. Steps with fewer than twelve sales before them are left alone.

    Off by default: real promotions are spikes too, and a stream's features see them uncut.
    """
    units = source.demand[..., 0]
    product, column = np.nonzero(np.nan_to_num(units) > 0)
    values = np.log1p(units[product, column].astype(np.float64))
    rank = np.arange(len(product)) - np.searchsorted(product, product)
    caps = np.full(len(values), np.inf)
    for first in range(0, len(values), _CHUNK):
        chunk = np.arange(first, min(first + _CHUNK, len(values)))
        caps[chunk] = _caps(values, rank, chunk, policy.outlier_spreads)
    cut = values > caps
    product, column, capped = product[cut], column[cut], np.expm1(caps[cut]).astype(np.float32)
    touched = np.zeros(units.shape, bool)
    touched[product, column] = True
    worst = np.argsort(capped - units[product, column], kind="stable")[:_MOST_EXAMPLES]
    examples = tuple(
        f"{source.product_ids[product[i]]} {_local(source, spec, int(column[i]))}: {units[product[i], column[i]]:,.0f} to {capped[i]:,.0f}"
        for i in worst
    )
    if not len(product):
        return source, _change(OUTLIERS, "demand cut to a cap", source, source, touched)
    demand = source.demand.copy()
    demand[product, column, 0] = capped
    cleaned = replace(source, demand=demand)
    return cleaned, _change(OUTLIERS, "demand cut to a cap", source, cleaned, touched, examples)


def repeated_rows(frame: Any, keys: Sequence[str] = ("product_id", "start_ms"), value: str = "units") -> tuple[Any, Change]:
    """A pandas frame with one row for each product and step, the last one given, and which others were left out."""
    repeated = frame.duplicated(list(keys), keep="last").to_numpy(bool)
    kept = frame[~repeated]
    rows = frame.loc[repeated, list(keys)]
    examples = tuple(" ".join(map(str, row)) for row in rows.head(_MOST_EXAMPLES).itertuples(index=False))
    before, after = float(frame[value].sum()), float(kept[value].sum())
    return kept, Change("repeated rows", "all but the last left out", rows[keys[0]].nunique(), len(rows), before, after, examples)


def with_gaps(source: Panel, gaps: Mask) -> Panel:
    """The panel with nothing known of these cells, (n, columns)."""
    if not gaps.any():
        return source
    demand = source.demand.copy()
    demand[gaps] = 0
    demand[gaps, 0] = np.nan
    return replace(source, demand=demand)


def with_stock(source: Panel, product_ids: Sequence[str], step: npt.ArrayLike, stock: npt.ArrayLike) -> Panel:
    """The panel with what was on hand at the end of some products' steps, three arrays of one length; of several at one step, the last."""
    index = {name: i for i, name in enumerate(source.product_ids)}
    product = np.array([index.get(name, -1) for name in product_ids], np.int64)
    column = np.asarray(step, np.int64) - source.first_step
    inside = (product >= 0) & (column >= 0) & (column < source.columns)
    filled: F32 = np.full((len(source.product_ids), source.columns), np.nan, np.float32)
    filled[product[inside], column[inside]] = np.asarray(stock, np.float32)[inside]
    return replace(source, stock=filled)


def _change(rule: str, did: str, before: Panel, after: Panel, touched: Mask, examples: Sequence[str] = ()) -> Change:
    units = [float(np.nansum(panel.demand[..., 0], dtype=np.float64)) for panel in (before, after)]
    products = int(touched.any(axis=1).sum()) if touched.size else 0
    return Change(rule, did, products, int(touched.sum()), units[0], units[1], tuple(examples))


def _alive(source: Panel) -> Mask:
    return np.asarray(np.arange(source.columns) >= source.born[:, None], bool)


def _runs(flags: Mask) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Starts and ends of the runs of True.

    >>> [part.tolist() for part in _runs(np.array([True, False, True, True]))]
    [[0, 2], [1, 4]]
    """
    edges = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _silences(
    source: Panel, spec: FeatureSpec, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], int]:
    """Of each silence its length in open days and the logarithm of its odds; and the length of a week in steps.

    A step counts by how often the shop sells something at its phase of the week, in all weeks but the silence's own.
    """
    period = max(spec.periods, default=1)
    week = period if period > 1 else max(7 * DAY_MS // spec.step_ms, 1)
    if period > 1:
        whole = season(source.first_step, source.columns, step_ms=spec.step_ms, periods=(period,), timezone=source.timezone)
        phase = whole.phases[0]
    else:
        phase = np.zeros(source.columns, np.int64)
    silent = np.zeros(source.columns, bool)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        silent[start:end] = True
    seen = np.bincount(phase, minlength=period).astype(np.float64)
    sold = np.bincount(phase[~silent], minlength=period).astype(np.float64)
    per_day = max(DAY_MS // spec.step_ms, 1)
    length, odds = np.empty(len(starts)), np.empty(len(starts))
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        own = np.bincount(phase[start:end], minlength=period)
        sells = (sold + 0.5) / (np.maximum(seen - own, 0) + 1)
        open_day = sells.reshape(-1, per_day).sum(axis=1).max() if period % per_day == 0 else sells.mean() * per_day
        here = sells[phase[start:end]]
        length[i] = here.sum() / open_day * max(spec.step_ms / DAY_MS, 1)
        odds[i] = np.log1p(-here).sum()
    return length, odds, week


def _caps(
    values: npt.NDArray[np.float64], rank: npt.NDArray[np.int64], chunk: npt.NDArray[np.int64], spreads: float
) -> npt.NDArray[np.float64]:
    """Caps of log demand of some sales, each by the sales of its product before it; infinite where these are too few."""
    count = np.minimum(rank[chunk], _CAP_WINDOW)
    back = np.arange(1, _CAP_WINDOW + 1)
    window = np.where(back <= count[:, None], values[np.maximum(chunk[:, None] - back, 0)], np.nan)
    median = _median(window, count)
    spread = 1.4826 * _median(np.abs(window - median[:, None]), count)
    return np.where(count >= _CAP_FEWEST, median + spreads * np.maximum(spread, _LEAST_SPREAD), np.inf)


def _median(window: npt.NDArray[np.float64], count: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Median of each row's `count` numbers, the rest of it NaN; NaN where there are none."""
    ordered = np.sort(window, axis=1)  # NaN last
    each = np.arange(len(window))
    return np.asarray((ordered[each, np.maximum(count - 1, 0) // 2] + ordered[each, count // 2]) / 2)


def _local(source: Panel, spec: FeatureSpec, column: int) -> str:
    """Local time of a column's start, as a date where steps are days."""
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=(source.first_step + column) * spec.step_ms)
    return f"{start:%Y-%m-%d}" if spec.step_ms >= DAY_MS else f"{start.astimezone(ZoneInfo(source.timezone)):%Y-%m-%d %H:%M}"


def _span(source: Panel, spec: FeatureSpec, start: int, end: int) -> str:
    return f"{_local(source, spec, start)} until {_local(source, spec, end)}"


def _spans_of_products(source: Panel, spec: FeatureSpec, gaps: Mask) -> list[str]:
    """The longest gap of each of the products with the most."""
    most = [int(i) for i in np.argsort(-gaps.sum(axis=1), kind="stable")[:_MOST_EXAMPLES] if gaps[i].any()]
    spans = []
    for i in most:
        starts, ends = _runs(gaps[i])
        longest = int(np.argmax(ends - starts))
        spans.append(f"{source.product_ids[i]} {_span(source, spec, int(starts[longest]), int(ends[longest]))}")
    return spans
