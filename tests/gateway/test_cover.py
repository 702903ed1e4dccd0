"""What the stock means: sentences of the page stand on these numbers."""

from gateway.cover import cover
from gateway.rows import row
from tests.gateway.messages import HOUR_MS, NOW_MS, STEP_MS, facts, forecast

# 10 units an hour, 4 of them sold already; over 48 hours 480 are likely, and 547.2 nine times in ten.


def test_a_stock_that_does_not_last_the_lead_time() -> None:
    found = cover(forecast(), facts(stock=236.0))
    assert found is not None
    assert [round(value or 0, 6) for value in (found.median, found.high, found.low)] == [476.0, 543.2, 428.0]
    assert [round(value or 0, 6) for value in (found.short_median, found.short)] == [240.0, 307.2]
    assert found.cover_steps == round(236 / 476 * 48, 2)
    assert found.out_at is not None
    assert found.out_early is not None
    assert found.out_at == STEP_MS + int(236 / 476 * 48 * HOUR_MS)
    assert found.out_early < found.out_at


def test_a_stock_that_lasts_and_one_that_outlasts_the_forecast() -> None:
    found = cover(forecast(), facts(stock=600.0))
    assert found is not None
    assert (found.short, found.short_median) == (0.0, 0.0)
    assert found.cover_steps is not None
    assert found.cover_steps > 48
    beyond = cover(forecast(), facts(stock=10_000.0))
    assert beyond is not None
    assert (beyond.cover_steps, beyond.out_at) == (None, None)


def test_what_was_sold_after_the_stock_was_counted_is_demanded_from_it() -> None:
    before = cover(forecast(), facts(stock=236.0, stock_at=STEP_MS - 1))
    assert before is not None
    assert before.median == 480.0


def test_without_stock_there_is_no_answer_and_without_lead_time_half_a_one() -> None:
    assert cover(forecast(), None) is None
    assert cover(forecast(), facts(stock=None)) is None
    found = cover(forecast(), facts(lead_time_steps=None))
    assert found is not None
    assert (found.short, found.median) == (None, None)
    assert found.cover_steps is not None
    other = cover(forecast(lead=72), facts(lead_time_steps=48))  # the forecast does not know of that lead time yet
    assert other is not None
    assert other.short is None


def test_an_empty_stock_has_run_out_now() -> None:
    found = cover(forecast(), facts(stock=0.0))
    assert found is not None
    assert found.cover_steps == 0.0
    assert found.out_at == forecast().as_of


def test_value_at_risk_is_what_may_be_missing_at_the_list_price() -> None:
    assert row(forecast(), facts(stock=236.0)).risk == 1536.0
    assert row(forecast(), facts(stock=236.0, unit_price=None)).risk is None
    assert row(forecast(), facts(stock=600.0)).risk == 0.0
    assert row(forecast(), facts(stock=236.0, stock_at=NOW_MS)).cover_steps == round(236 / 476 * 48, 2)
