"""The nowcast's rule on a shop whose truth is known: calibrated, never worse than the forecast from the step's start, and the fit finds what is true."""

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from models import metrics
from models.fit_nowcast import Cases, fit_rule, losses, relative, seen
from models.nowcast import NowcastRule

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SHARES = (0.1, 0.5, 0.9)
HORIZON = 6
N = 4_000
RATES = (0.2, 2.0, 25.0)  # orders a step: slow, medium, fast
Ints = npt.NDArray[np.int64]


def units(orders: Ints, rng: np.random.Generator, bulk: float) -> Ints:
    """Of so many orders: one unit each, and now and then twenty more."""
    return orders + 20 * rng.binomial(orders, bulk)


@cache
def shop(doubt: float, bulk: float, seed: int = 0) -> Cases:
    """Forecasts that know the distribution, but not that a product sells Gamma(1/doubt, 1/doubt) times its usual rate all along the horizon."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, len(RATES), N)
    usual = np.array(RATES)[group]

    def drawn(n_rates: npt.NDArray[np.float64]) -> tuple[Ints, Ints]:
        rate = n_rates * (rng.gamma(1 / doubt, doubt, len(n_rates)) if doubt else 1)
        pieces = np.diff([0, *SHARES, 1])
        running = units(rng.poisson(rate[:, None] * pieces), rng, bulk)
        later = units(rng.poisson(rate[:, None], (len(rate), HORIZON - 1)), rng, bulk)
        return running, np.concatenate([running.sum(axis=1, keepdims=True), later], axis=1)

    means, quantiles = np.empty((len(RATES), HORIZON + 1)), np.empty((len(RATES), HORIZON + 1, len(LEVELS)))
    for i, rate in enumerate(RATES):
        _, many = drawn(np.full(40_000, rate))
        targets = np.concatenate([many, many.sum(axis=1, keepdims=True)], axis=1)
        means[i], quantiles[i] = targets.mean(axis=0), np.quantile(targets, LEVELS, axis=0).T
    running, demand = drawn(usual)
    return Cases(
        means[group].astype(np.float32),
        quantiles[group].astype(np.float32),
        np.full((N, 1), HORIZON),
        np.concatenate([demand, demand.sum(axis=1, keepdims=True)], axis=1).astype(np.float64),
        np.cumsum(running, axis=1)[:, :-1].astype(np.float32),
        np.broadcast_to(np.array(SHARES, np.float32), (N, len(SHARES))),
        group,
    )


SHOPS = {"steady": (0.0, 0.0), "doubtful": (0.25, 0.0), "bulk orders": (0.0, 0.05), "doubtful, with bulk orders": (0.25, 0.05)}


@cache
def fitted(name: str) -> NowcastRule:
    """From other products of the same shop."""
    return fit_rule(shop(*SHOPS[name], seed=1), LEVELS, whole_units=True)


def blind(some: Cases) -> Cases:
    return replace(some, observed=0 * some.observed, passed=0 * some.passed)


@pytest.mark.parametrize("name", SHOPS)
def test_it_is_never_worse_than_the_forecast_from_the_steps_start(name: str) -> None:
    some = shop(*SHOPS[name])
    for rule in (NowcastRule(), fitted(name)):
        assert np.nanmax(relative(some, rule, LEVELS, whole_units=True)) <= 1.01
        for share in range(len(SHARES)):
            now, start = (seen(each, rule, LEVELS, share, whole_units=True) for each in (some, blind(some)))
            for group in range(len(RATES)):
                members = some.group == group
                for truth, mean, before in (
                    (some.demand[:, 0], now.running.step_mean, start.running.step_mean),
                    (some.demand[:, -1], now.cumulative_mean[:, 0], start.cumulative_mean[:, 0]),
                ):
                    assert metrics.mae(truth[members], mean[members]) <= 1.01 * metrics.mae(truth[members], before[members])


@pytest.mark.parametrize("name", SHOPS)
def test_quantiles_of_the_running_step_are_calibrated(name: str) -> None:
    some = shop(*SHOPS[name])
    for share in range(len(SHARES)):
        quantiles = seen(some, fitted(name), LEVELS, share, whole_units=True).running.step_quantiles
        for group in range(len(RATES)):
            members = some.group == group
            for i, level in enumerate(LEVELS):
                below, at_most = metrics.coverage(some.demand[members, 0], quantiles[members, i])
                # Counts of a unit or two move the middle by a tenth when they are rounded.
                far = 0.09 if level in (0.1, 0.9) else 0.14
                assert metrics.Calibration(level, below, at_most).distance <= far, (share, group, level)


def test_the_fit_believes_what_is_seen_where_rates_are_in_doubt() -> None:
    steady, doubtful = fitted("steady"), fitted("doubtful")
    assert doubtful.weight < steady.weight
    assert doubtful.carry > steady.carry
    assert doubtful.carry * doubtful.persistence > 0.25


def test_a_rule_that_believes_every_order_is_worse() -> None:
    """What the tests above would say if the rule were wrong."""
    rash = NowcastRule(weight=0.05, carry=1.0, persistence=0.99)
    assert np.nanmax(relative(shop(*SHOPS["bulk orders"]), rash, LEVELS, whole_units=True)) > 1.05


def test_losses_are_those_of_each_case() -> None:
    some = shop(*SHOPS["doubtful"]).at(np.arange(3))
    out = seen(some, NowcastRule(), LEVELS, 1, whole_units=False)
    found = losses(some, out, LEVELS)
    for i in range(3):
        each = [metrics.pinball(some.demand[i, h], out.quantiles[i, :, h], np.array(LEVELS)).mean() for h in range(HORIZON)]
        total = metrics.pinball(some.demand[i, -1], out.cumulative_quantiles[i, 0], np.array(LEVELS)).mean()
        assert np.allclose(found[i], [each[0], np.mean(each[1:]), total])
