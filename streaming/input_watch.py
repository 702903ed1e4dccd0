"""What the network sees, by day, against what it was trained on: gauges, and a line in the log when a group of inputs leaves home or returns."""

from collections import defaultdict
from typing import Final

import numpy as np
import structlog

from models import calibration
from models.features import I64, FeatureSpec
from models.input_shift import InputSums, shifts
from streaming import metrics
from streaming.calibrations import day_text
from streaming.settings import DAY_MS

# A day's sums say something when nearly all of its steps are in them: the calendar's inputs have another mean each hour.
WHOLE_SHARE: Final = 0.9
# A mean that lies a training deviation away is another shop; back home well below it.
LEAVES: Final = 1.0
RETURNS: Final = 0.75

log = structlog.stdlib.get_logger("trendcast")


class InputWatch:
    """Of the products that this process forecasts; each is seen once a horizon, when its turn comes to be on trial."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self._by_day: dict[int, InputSums] = {}
        self._steps: defaultdict[int, set[int]] = defaultdict(set)
        self._away: set[str] = set()

    def add(self, seen: dict[int, InputSums], steps: I64) -> None:
        """Sums by day, and the steps after which they were seen."""
        for day, sums in seen.items():
            self._by_day[day] = self._by_day[day] + sums if day in self._by_day else sums
        for step in np.unique(steps).tolist():
            self._steps[calibration.day_of(step, self._spec.step_ms)].add(step)

    def day_ended(self, day: int) -> None:
        """Show the day, if it was seen as a whole, and forget older ones."""
        per_day = max(DAY_MS // self._spec.step_ms, 1)
        if day in self._by_day and len(self._steps[day]) >= WHOLE_SHARE * per_day:
            self._show(day)
        for old in [known for known in self._by_day if known < day]:
            del self._by_day[old], self._steps[old]

    def _show(self, day: int) -> None:
        found = shifts(self._spec, self._by_day[day])
        metrics.show_inputs(found)
        for group, shift in found.items():
            if group not in self._away and abs(shift.mean) >= LEAVES:
                self._away.add(group)
                log.warning("inputs.drift_begins", group=group, deviations=round(shift.mean, 2), day=day_text(day))
            elif group in self._away and abs(shift.mean) < RETURNS:
                self._away.remove(group)
                log.warning("inputs.drift_ends", group=group, deviations=round(shift.mean, 2), day=day_text(day))
