"""Rolling-origin backtest with the real product: trained up to the first cut-off, then streamed on with frozen weights and carried state."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from models import calibration, metrics, timeline
from models.artefact import Artefact
from models.bench import COVARIATE_PREFIX, STREAM_PREFIX, BacktestForecasts, Bench, Progress, no_progress
from models.calibration import Outcomes, Trials
from models.cold_start import Facts, Launches, Lived, Prior
from models.dataset import UnusableData
from models.features import F32, I64, scales, seasonal_naive
from models.forecaster import Forecaster
from models.nowcast import Forecasts
from models.seasons import DAY_MS

# Lead times whose sums have quantiles of their own.
SUM_DAYS: Final = (7, 14)


def stream(bench: Bench, artefact: Artefact, progress: Progress = no_progress) -> BacktestForecasts:
    """Forecasts of the model as it serves: every product advanced step by step, read out at each cut-off, quantiles calibrated by what came before."""
    forecaster = Forecaster(artefact, bench.spec.timezone)
    if bench.horizon > forecaster.horizon:
        raise UnusableData(f"the model reaches {forecaster.horizon} steps, the bench asks for {bench.horizon}")
    steps = (min(max(days * DAY_MS // bench.spec.step_ms, 1), forecaster.longest_sum) for days in SUM_DAYS)
    shop = Streamed(bench, forecaster, sorted(set(steps)))
    forecasts = BacktestForecasts.nothing(bench)
    shape = forecasts.mean.shape[:2]
    forecasts.sums.update({int(steps): {level: np.full(shape, np.nan) for level in metrics.LEVELS} for steps in shop.sums})
    wanted = [forecaster.levels.index(level) for level in metrics.LEVELS]
    for column in range(bench.cutoffs[-1] + 1):
        shop.live(column)
        if column in bench.cutoffs:
            k, alive = bench.cutoffs.index(column), bench.alive(column)
            out = forecaster.published(shop.forecast(column, np.arange(alive))[0])
            forecasts.mean[k, :alive] = out.mean[:, : bench.horizon]
            for level, index in zip(metrics.LEVELS, wanted, strict=True):
                forecasts.quantiles[level][k, :alive] = out.quantiles[:, index, : bench.horizon]
                for s, steps in enumerate(shop.sums):
                    forecasts.sums[int(steps)][level][k, :alive] = out.cumulative_quantiles[:, s, index]
        progress(column + 1, bench.cutoffs[-1] + 1)
    return forecasts


class Streamed:
    """All products of a bench as one shard: their states, forecasts on trial, and outcomes by day."""

    def __init__(self, bench: Bench, forecaster: Forecaster, sums: Sequence[int] = ()) -> None:
        """`sums`: lead times in steps that forecasts tell the sums of."""
        self._bench, self._forecaster = bench, forecaster
        n, horizon = len(bench.panel.product_ids), forecaster.horizon
        self._features, self._state = forecaster.fresh(n)
        days = calibration.MEMORY_DAYS + calibration.LAG_DAYS
        # Forecasts go on trial early enough for the first cut-off to have full memory.
        self._first_trial = bench.cutoffs[0] - horizon - max(days * DAY_MS // bench.spec.step_ms, 1)
        self._turn = calibration.turn(bench.panel.product_ids, horizon)
        self._trials = calibration.no_trials(n, horizon, len(forecaster.levels))
        self._outcomes: defaultdict[int, Outcomes] = defaultdict(lambda: Outcomes.none(len(forecaster.levels)))
        self._lived = Lived()
        self._launches: dict[int, Launches | None] = {}
        self.sums: I64 = np.array(sums, np.int64)

    def live(self, column: int) -> None:
        """Consume a step, judge what was forecast of it, and put new forecasts on trial."""
        bench, alive = self._bench, self._bench.alive(column)
        demand = np.ascontiguousarray(bench.panel.demand[:alive, column])
        step = np.full(alive, bench.panel.first_step + column, np.int64)
        covariates = None if bench.panel.covariates is None else bench.panel.covariates[:alive, column]
        if column > self._first_trial:
            on_trial = self._trials.at(np.arange(alive))
            self._outcomes[self._day(column)] += calibration.outcomes(
                on_trial,
                step,
                demand[:, 0],
                seasonal_naive(self._forecaster.spec, self._features[:alive], step),
                self._forecaster.levels,
                whole_units=self._forecaster.artefact.whole_units,
            )
        facts, pool = Facts.of(bench.panel.known, np.arange(alive), step), np.zeros(alive, np.int64)
        self._lived.add(self._forecaster.spec, self._features[:alive], demand[:, 0], pool, self._day(column), facts)
        self._forecaster.advance(self._features[:alive], self._state[:alive], demand, step, covariates=covariates, in_place=True)
        due = np.flatnonzero(step % self._forecaster.horizon == self._turn[:alive])
        if column >= self._first_trial and len(due):
            out, group, factors = self.forecast(column, due)
            self._trials.put(due, Trials.of(step[due], group, out.mean, out.quantiles.transpose(0, 2, 1), factors))

    def forecast(self, column: int, rows: npt.NDArray[np.intp]) -> tuple[Forecasts, I64, F32]:
        """Calibrated forecasts of some products, their volume classes, and the factors in their quantiles, (n, levels)."""
        forecaster, features = self._forecaster, self._features[rows]
        step = np.full(len(rows), self._bench.panel.first_step + column, np.int64)
        nothing = np.zeros((len(rows), 1 + len(forecaster.spec.streams)), np.float32)
        ahead = self._bench.panel.ahead(rows, np.full(len(rows), column), max(forecaster.horizon, int(self.sums.max(initial=1))))
        group = calibration.volume_class(scales(forecaster.spec, features), forecaster.artefact.volume_limits)
        factors = calibration.factors_of(self._outcomes, self._day(column), len(forecaster.levels))[group]
        out = forecaster.read_out(
            features,
            self._state[rows],
            step,
            nothing,
            nothing[:, 0],
            self.sums,
            ahead=ahead,
            factors=factors,
            prior=self.prior(column, rows),
        )
        return out, group, factors

    def prior(self, column: int, rows: npt.NDArray[np.intp]) -> Prior:
        """What is known of some products beside what the model says, after a step."""
        day, step = self._day(column), np.full(len(rows), self._bench.panel.first_step + column, np.int64)
        if day not in self._launches:
            self._launches[day] = calibration.launches_of(
                {at: found for (_, at), found in self._lived.by_day.items()}, day, self._bench.spec.step_ms
            )
        known = self._bench.panel.known
        return timeline.prior_of(self._forecaster.spec, [self._launches[day]] * len(rows), known, rows, self._features[rows], step)

    def _day(self, column: int) -> int:
        return calibration.day_of(self._bench.panel.first_step + column, self._bench.spec.step_ms)


def unfit(bench: Bench, artefact: Artefact) -> str | None:
    """Why a model that is trained already cannot be measured on a bench; None where it can.

    A panel that it learned from must not reach into the time in which it would be tested, whatever shop it is of.
    """
    taken, offered = (_plain(spec.streams) for spec in (artefact.spec, bench.spec))
    if (artefact.spec.step_ms, taken) != (bench.spec.step_ms, offered):
        steps = f"steps of {artefact.spec.step_ms} ms", f"of {bench.spec.step_ms} ms"
        return (
            f"it takes {', '.join(taken) or 'no streams'} in {steps[0]}; the bench has {', '.join(offered) or 'none'} in steps {steps[1]}"
        )
    known = [tuple(name.removeprefix(COVARIATE_PREFIX) for name in spec.covariates) for spec in (artefact.spec, bench.spec)]
    if known[0] != known[1]:
        return "it knows {} ahead, the bench {}".format(*(", ".join(names) or "nothing" for names in known))
    if artefact.horizon < bench.horizon:
        return f"it reaches {artefact.horizon} steps, and the bench asks for {bench.horizon}"
    first, last = bench.panel.first_step + bench.cutoffs[0] + 1, bench.panel.first_step + bench.cutoffs[-1] + bench.horizon
    for panel in artefact.training.get("panels", []):
        if panel["first_step"] <= last and panel["first_step"] + panel["steps"] > first:
            return "it learned from the time in which it would be tested"
    return None


def _plain(streams: Sequence[str]) -> tuple[str, ...]:
    """Names without the mark of a bench's columns."""
    return tuple(name.removeprefix(STREAM_PREFIX) for name in streams)
