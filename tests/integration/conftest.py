"""What tests of the engine begin with: the shipped model, and a store in which one source is expected. Each says for itself with which settings."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from feature_store.store import FeatureStore
from models.forecaster import Forecaster
from streaming.settings import Settings
from tests.integration.shop import SOURCE


@pytest.fixture(scope="session")
def model(repository: Path) -> Forecaster:
    loaded = Forecaster.load(repository / "models" / "default")
    loaded.warm_up()  # compiling takes longer than a worker may be silent
    return loaded


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[FeatureStore]:
    """Of the `settings` that the test's own file has."""
    opened = await FeatureStore.open(settings)
    await opened.register_sources({SOURCE: "orders/0"})
    yield opened
    await opened.close()
