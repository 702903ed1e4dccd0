"""Pages neither repeat nor skip what does not change."""

import base64
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.listing import ProductOrder, UnknownCursor, matches, products
from gateway.rows import Row, row
from tests.gateway.messages import facts, forecast

ORDERS = get_args(ProductOrder)


def some(n: int) -> list[Row]:
    return [
        row(forecast(f"p{i:02}", mean=float(i % 5)), facts(f"p{i:02}", title=f"T{i % 3}", stock=None if i % 4 == 0 else float(i % 7 * 40)))
        for i in range(n)
    ]


@pytest.mark.parametrize("order", ORDERS)
@given(limit=st.integers(1, 9))
def test_pages_one_after_another_are_the_whole_list(order: ProductOrder, limit: int) -> None:
    rows = some(20)
    whole = products(rows, order, 100, None).items
    assert sorted(one.id for one in whole) == [one.id for one in rows]
    found: list[Row] = []
    cursor = None
    for _ in range(21):
        page = products(rows, order, limit, cursor)
        found += page.items
        cursor = page.next
        if cursor is None:
            break
    assert found == whole


def test_a_page_goes_on_behind_a_row_that_is_gone() -> None:
    rows = some(10)
    page = products(rows, "id", 3, None)
    left = [one for one in rows if one.id != "p02"]
    assert [one.id for one in products(left, "id", 3, page.next).items] == ["p03", "p04", "p05"]


@pytest.mark.parametrize(
    "cursor", ["", "x", "!!!!", base64.urlsafe_b64encode(b'["-risk",[],{}]').decode(), base64.urlsafe_b64encode(b"7").decode()]
)
def test_a_cursor_that_was_not_given_is_refused(cursor: str) -> None:
    with pytest.raises(UnknownCursor):
        products(some(3), "-risk", 1, cursor)


def test_a_cursor_of_another_order_is_refused() -> None:
    with pytest.raises(UnknownCursor):
        products(some(3), "id", 1, products(some(3), "-risk", 1, None).next)


def test_a_search_looks_in_titles_and_ids_whatever_the_case() -> None:
    one = row(forecast("SKU-7"), facts("SKU-7", title="Straße"))
    assert matches(one, "sku")
    assert matches(one, "STRASSE")
    assert not matches(one, "sku-8")
