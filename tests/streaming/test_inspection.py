"""Near names, and moments as people write them."""

import pytest

from streaming.errors import UserError
from streaming.inspection import NEAR_NAMES, nearest
from streaming.operators import moment_ms


def test_near_names_are_few_and_do_not_depend_on_their_order() -> None:
    names = [f"SKU-{i:05}" for i in range(2_000)]
    near = nearest("sku-00420", names)
    assert near[0] == "SKU-00420"
    assert len(near) == NEAR_NAMES
    assert nearest("sku-00420", reversed(names)) == near


@pytest.mark.parametrize("name", ["", "x", "ß", "q" * 500])
def test_nothing_near_is_nothing(name: str) -> None:
    assert nearest(name, ["SKU-00001", "teapot"]) == []
    assert nearest(name, []) == []


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "12", "2h30m", "0001-01-01", "9999-12-31T23:59", "999999999999999", "-5m"])
def test_what_is_no_moment_is_a_users_error(text: str) -> None:
    with pytest.raises(UserError, match=r"moment|far from now"):
        moment_ms(text)
