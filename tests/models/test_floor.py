"""The floor: worse than the naive forecast for a week, of days that are whole, and what it holds back of alerts' lives."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.alerts import Action, Transitions
from models.announcing import announce
from models.calibration import CLASSES, LAG_DAYS, Memory, Outcomes
from models.floor import FEWEST_OUTCOMES, FLOOR_DAYS, held

LEVELS = (0.05, 0.1, 0.5, 0.9)
DAY = 20_000


def a_day(*, loss: float, naive: int = 10_000, count: int = 1_000) -> Outcomes:
    """Of every class; `loss`: mean over the scored levels of twice the pinball loss, relative to the naive forecast's."""
    found = Outcomes.none(len(LEVELS))
    found.count[:], found.demand[:], found.naive[:] = count, 20_000, naive
    found.published[:, 0] = 10**9  # a level that is not scored
    found.published[:, 1:] = round(naive * loss / 2)
    return found


def test_a_class_is_held_where_the_week_was_worse_than_so_many_times_the_naive_forecast() -> None:
    mixed = a_day(loss=1.2)
    mixed.published[1] //= 2
    by_day = dict.fromkeys(range(DAY, DAY + FLOOR_DAYS), mixed)
    first = DAY + FLOOR_DAYS - 1 + LAG_DAYS
    assert held(by_day, first, LEVELS, 1.0).tolist() == [True, False, True]
    assert not held(by_day, first, LEVELS, 1.3).any()
    assert not held(by_day, first, LEVELS, 0).any()


def test_only_days_that_are_whole_count_and_only_a_week_of_them() -> None:
    by_day = {DAY: a_day(loss=3.0)}
    found = [day for day in range(DAY - 3, DAY + 20) if held(by_day, day, LEVELS, 1.0).all()]
    assert found == list(range(DAY + LAG_DAYS, DAY + LAG_DAYS + FLOOR_DAYS))
    rest = {day: a_day(loss=0.5) for day in range(DAY + 1, DAY + FLOOR_DAYS)}
    assert not held(by_day | rest, DAY + FLOOR_DAYS - 1 + LAG_DAYS, LEVELS, 1.0).any()  # a good week with one bad day


def test_little_evidence_and_no_demand_hold_nothing() -> None:
    assert not held({DAY: a_day(loss=3.0, count=FEWEST_OUTCOMES - 1)}, DAY + LAG_DAYS, LEVELS, 1.0).any()
    silent = a_day(loss=3.0)
    silent.demand[:] = 0
    assert not held({DAY: silent}, DAY + LAG_DAYS, LEVELS, 1.0).any()
    assert not held({}, DAY, LEVELS, 1.0).any()


def test_a_memory_asks_once_a_day() -> None:
    asked: list[int] = []

    def hold(_: object, day: int) -> np.ndarray:
        asked.append(day)
        return np.ones(CLASSES, np.bool_)

    memory = Memory(3, {}, hold)
    assert all(memory.held(day).all() for day in (1, 2, 1, 2))
    assert asked == [1, 2]


def transition(action: Action) -> Transitions:
    one, tile = np.zeros(1), np.zeros(1, np.int64)
    return Transitions(
        rows=np.zeros(1, np.int64),
        spike=np.ones(1, np.bool_),
        action=np.array([action], np.int8),
        reason=np.zeros(1, np.int8),
        start_tile=tile,
        tile=tile,
        observed=one,
        expected=one,
        expected_sd=one,
        score=one,
        funnel=np.zeros((1, 4)),
        usual=np.zeros((1, 4)),
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=6))
def test_of_an_alert_s_life_everything_is_said_from_its_first_message_on(lives: list[tuple[int, bool, bool]]) -> None:
    """Alerts of one product: updates, held when it fires, held afterwards. A reader sees a beginning before an end, and an end after each beginning."""
    scores = np.zeros((1, 1))
    for updates, held_first, held_later in lives:
        said: list[Action] = []
        for i, action in enumerate([Action.FIRE, *[Action.UPDATE] * updates, Action.RESOLVE]):
            now = np.array([held_first if i == 0 else held_later])
            told, kept = announce(scores, 0, transition(action), now)
            assert len(told) + len(kept) == 1
            said += [action] * len(told)
        if not held_first:
            assert said == [Action.FIRE, *[Action.UPDATE] * updates, Action.RESOLVE]
        elif not held_later and updates:
            assert said == [*[Action.UPDATE] * updates, Action.RESOLVE]
        else:
            assert said == []
        assert scores[0, 0] == 0
