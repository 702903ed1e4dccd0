"""Sums over products, and the distribution of what comes of them."""

from collections.abc import Iterable
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import levels
from models.features import F32
from models.levels import MEMORY_DAYS, SHOP, Adding, ByGroup, Sums
from models.metrics import pinball
from models.seasons import DAY_MS, HOUR_MS

HORIZON, LENGTHS, RECENT = 3, (4, 8), 5
AT: Final = (0.1, 0.5, 0.9)


def products(seed: int, n: int) -> tuple[list[str | None], F32, F32, F32]:
    rng = np.random.default_rng(seed)
    recent = rng.integers(0, 5, (n, RECENT)).astype(np.float32)
    for row in recent:
        row[: rng.integers(0, RECENT)] = np.nan
    categories = [(None, "cups", "plates")[i] for i in rng.integers(0, 3, n)]
    return categories, rng.gamma(1, 2, (n, HORIZON)).astype(np.float32), rng.gamma(3, 2, (n, 2)).astype(np.float32), recent


def added(parts: Iterable[tuple[list[str | None], F32, F32, F32]]) -> ByGroup:
    adding = Adding(HORIZON + 2, RECENT)
    for part in parts:
        adding.add(*part)
    groups, whole = adding.done()
    assert whole
    return groups


def naive(categories: list[str | None], mean: F32, cumulative: F32, recent: F32) -> ByGroup:
    """Product by product, as readers would add up what they read."""
    found: ByGroup = {}
    for name in {SHOP, *(c for c in categories if c)}:
        members = [i for i, c in enumerate(categories) if name in (SHOP, c)]
        forecast = [0.0] * (HORIZON + 2)
        for i in members:
            for h, value in enumerate([*mean[i].tolist(), *cumulative[i].tolist()]):
                forecast[h] += round(value, 4)
        known = [max(0.0, *[RECENT - r for r in range(RECENT) if np.isfinite(recent[i, r])]) for i in members]
        units = [sum(float(recent[i, r]) for i in members if np.isfinite(recent[i, r])) for r in range(RECENT)]
        found[name] = Sums([round(f * 10_000) for f in forecast], [round(u * 1_000) for u in units[RECENT - int(max(known)) :]])
    return found


@given(st.integers(0, 1_000), st.integers(1, 20), st.data())
@settings(max_examples=50, deadline=None)
def test_sums_do_not_depend_on_cuts_order_or_shards(seed: int, n: int, data: st.DataObject) -> None:
    categories, mean, cumulative, recent = products(seed, n)
    order = np.array(data.draw(st.permutations(range(n))))
    cut = data.draw(st.integers(0, n))
    halves = [([categories[i] for i in rows], mean[rows], cumulative[rows], recent[rows]) for rows in (order[:cut], order[cut:])]
    expected = naive(categories, mean, cumulative, recent)
    assert added(halves) == expected
    shards = [added([half]) for half in halves if half[0]]
    assert levels.total(shards) == levels.total(reversed(shards)) == expected
    assert levels.decode(levels.encode((expected, True))) == (expected, True)


def test_with_too_many_categories_the_shop_alone_is_kept() -> None:
    adding = Adding(HORIZON + 2, RECENT)
    n = levels.MOST_CATEGORIES + 1
    _, *numbers = products(1, n)
    adding.add([f"c{i}" for i in range(n)], *numbers)
    groups, whole = adding.done()
    assert set(groups) == {SHOP}
    assert not whole


def test_nothing_adds_up_to_nothing() -> None:
    assert Adding(HORIZON + 2, RECENT).done() == ({}, True)


@pytest.mark.parametrize("step_ms", [HOUR_MS // 4, HOUR_MS, DAY_MS, 7 * DAY_MS])
def test_origins_are_at_most_a_day_and_what_products_remember_apart(step_ms: int) -> None:
    every = levels.origin_every(step_ms, 72)
    origins = [step for step in range(1_000, 2_000) if levels.is_origin(step, every)]
    assert set(np.diff(origins)) == {every}
    assert every * step_ms <= max(DAY_MS, step_ms)
    assert every <= 72
    for step in (1_000, 1_001, 1_071):
        assert levels.next_origin(step, every) == min(o for o in origins if o > step)


def record(
    demand: npt.NDArray[np.float64], means: npt.NDArray[np.float64], sums: npt.NDArray[np.float64], every: int, first: int = 0
) -> dict[int, Sums]:
    """Origins at the ends of the days of a demand by step, whose forecasts are given by day."""
    found = {}
    for day in range(len(means)):
        forecast = np.rint(np.concatenate([means[day], sums[day]]) * levels.MEAN_SCALE).astype(np.int64).tolist()
        units = np.rint(demand[day * every : (day + 1) * every] * levels.UNIT_SCALE).astype(np.int64).tolist()
        found[first + (day + 1) * every - 1] = Sums(forecast, units)
    return found


def naive_errors(origins: dict[int, Sums], every: int, step_ms: int) -> tuple[list[list[float]], list[list[float]]]:
    """`levels.errors` in loops: what a step's errors are in units of mean^.75, what sums' are as shares, at the levels AT."""
    units = {step - len(s.demand) + 1 + i: u / 1_000 for step, s in origins.items() for i, u in enumerate(s.demand)}
    newest, memory, normal = max(origins), MEMORY_DAYS * DAY_MS // step_ms, NormalDist()

    def grown(m: float) -> float:
        return float(max(m, 1.0) ** 0.75)

    def at_levels(values: list[float], weight: float) -> list[float]:
        weighted = sorted([(v, weight / len(values)) for v in values] + [(normal.inv_cdf((i + 0.5) / 41), 8 / 41) for i in range(41)])
        whole, places, reached = sum(w for _, w in weighted), [], 0.0
        for _, w in weighted:
            places.append((reached + w / 2) / whole)
            reached += w
        return [float(np.interp(level, places, [v for v, _ in weighted])) for level in AT]

    def spread(values: list[float], weight: float, prior: float, prior_weight: float) -> float:
        median = float(np.median([abs(v) for v in values])) if values else 0.0
        return (weight * median / normal.inv_cdf(0.75) + prior_weight * prior) / (weight + prior_weight)

    pairs = [
        (s.forecast[h] / 10_000, units[step + 1 + h])
        for step, s in sorted(origins.items())
        for h in range(HORIZON)
        if newest - memory < step + 1 + h <= newest
    ]
    weight = len(pairs) / HORIZON * every * step_ms / DAY_MS
    of_step = spread([(y - m) / grown(m) for m, y in pairs], weight, 2.0, 1.0)
    steps = at_levels([(y - m) / (of_step * grown(m)) for m, y in pairs], weight)

    def total(length: int, mean_of: dict[int, float], prior: float) -> tuple[float, list[float]]:
        shares = [
            (sum(units[step + 1 + i] for i in range(length)) - mean_of[step]) / max(mean_of[step], 1.0)
            for step in sorted(origins)
            if newest - memory < step + length <= newest
        ]
        n = len(shares) * every / max(length, every)
        relative = spread(shares, n, prior, 8.0)
        return relative, [relative * q for q in at_levels([s / relative for s in shares], n)] if shares else [
            relative * q for q in at_levels([0.0], 0)
        ]

    relative = of_step * sum(grown(m) for m, _ in pairs) / max(sum(m for m, _ in pairs), 1.0)
    whole, _ = total(HORIZON, {step: sum(s.forecast[:HORIZON]) / 10_000 for step, s in origins.items()}, relative / HORIZON**0.25)
    sums = [
        total(length, {step: s.forecast[HORIZON + i] / 10_000 for step, s in origins.items()}, whole * (HORIZON / length) ** 0.25)[1]
        for i, length in enumerate(LENGTHS)
    ]
    return [[of_step * q for q in steps]], sums


@given(st.integers(0, 1_000), st.integers(2, 90), st.sampled_from([(1, DAY_MS), (2, DAY_MS // 2)]), st.floats(0.01, 1_000))
@settings(max_examples=40, deadline=None)
def test_errors_are_those_of_the_naive_count(seed: int, days: int, grid: tuple[int, int], size: float) -> None:
    rng, (every, step_ms) = np.random.default_rng(seed), grid
    demand = rng.poisson(size, days * every).astype(float)
    origins = record(demand, rng.gamma(4, size / 4, (days, HORIZON)), rng.gamma(9, size / 2, (days, 2)), every, first=7 * every)
    found = levels.errors(origins, HORIZON, every=every, step_ms=step_ms, lengths=LENGTHS, levels=AT)
    steps, sums = naive_errors(origins, every, step_ms)
    np.testing.assert_allclose(found.steps, steps[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.sums, sums, rtol=1e-9, atol=1e-12)
    of_steps, of_sums = found.quantiles(rng.gamma(1, size, HORIZON), rng.gamma(1, size, 2))
    for quantiles in (of_steps.T, of_sums):
        assert (np.diff(quantiles, axis=1) >= 0).all()
        assert (quantiles >= 0).all()


def test_without_outcomes_the_interval_is_wide_and_says_so() -> None:
    found = levels.errors({}, HORIZON, every=24, step_ms=HOUR_MS, lengths=LENGTHS, levels=AT)
    assert found.cold
    steps, sums = found.quantiles(np.full(HORIZON, 100.0), np.array([400.0, 800.0]))
    assert (steps[0] < 50).all()
    assert (steps[-1] > 150).all()
    np.testing.assert_allclose(steps[1], 100)
    assert (sums[:, 0] < 350).all()


HOURS, WEEK, FORTNIGHT = 24, 168, 336


def test_intervals_of_a_simulated_shop_hold_what_they_promise() -> None:
    """300 independent products with Poisson demand by the hour, and a day's weather that moves all of them: neither the sum of the products'
    quantiles nor that of independent products would do."""
    rng = np.random.default_rng(5)
    days = 170
    rates = rng.gamma(0.5, 1, 300)
    profile = 1 + 0.8 * np.sin(np.arange(HOURS) / HOURS * 2 * np.pi)
    weather = np.exp(rng.normal(0, 0.12, days))
    means = np.outer(np.ones(days), profile * rates.sum())
    demand = rng.poisson(means * weather[:, None]).astype(float).ravel()
    sums = np.outer(np.ones(days), [7, 14]) * means[0].sum()
    origins = record(demand, means, sums, HOURS)
    products_of_hour = rng.poisson(profile[:, None, None] * rates, (HOURS, 400, 300))
    marginal = np.quantile(products_of_hour, AT, axis=1).sum(axis=2)  # (levels, hours)
    inside: dict[str, list[bool]] = {"steps": [], "week": [], "fortnight": []}
    ours = theirs = 0.0
    for day in range(64, days - 14):
        known = {step: s for step, s in origins.items() if step < (day + 1) * HOURS and step >= (day - 70) * HOURS}
        errors = levels.errors(known, HOURS, every=HOURS, step_ms=HOUR_MS, lengths=(WEEK, FORTNIGHT), levels=AT)
        assert not errors.cold
        steps, totals = errors.quantiles(means[day], sums[day])
        came = demand[(day + 1) * HOURS : (day + 1) * HOURS + FORTNIGHT]
        inside["steps"] += ((steps[0] <= came[:HOURS]) & (came[:HOURS] <= steps[-1])).tolist()
        for name, length, quantiles in (("week", WEEK, totals[0]), ("fortnight", FORTNIGHT, totals[1])):
            inside[name].append(bool(quantiles[0] <= came[:length].sum() <= quantiles[-1]))
        ours += sum(pinball(came[:HOURS], steps[k], level).sum() for k, level in enumerate(AT))
        theirs += sum(pinball(came[:HOURS], marginal[k], level).sum() for k, level in enumerate(AT))
    assert 0.75 <= np.mean(inside["steps"]) <= 0.85
    assert 0.7 <= np.mean(inside["week"]) <= 0.95  # some 13 weeks and 6 fortnights that do not overlap
    assert 0.7 <= np.mean(inside["fortnight"]) <= 1
    assert ours < 0.8 * theirs
