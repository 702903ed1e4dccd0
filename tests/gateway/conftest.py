"""One shop and one gateway a module; what a test says is taken back at its end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.running import Gateway, Shop, until


@pytest.fixture(scope="module")
def lasting_shop(kafka: str) -> Iterator[Shop]:
    shop = Shop(kafka)
    yield shop
    shop.close()


@pytest.fixture(scope="module")
def gateway(lasting_shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(lasting_shop, Path(tmp_path_factory.mktemp("gateway"))) as running:
        yield running


@pytest.fixture
def shop(lasting_shop: Shop, gateway: Gateway) -> Iterator[Shop]:
    """The gateway's shop, empty."""
    yield lasting_shop
    lasting_shop.clear()
    until(lambda: not gateway.get("/overview")["alerts"] and not gateway.get("/products")["items"], "the shop is empty again")
