"""The shop's calendar: whose holidays a model may be served with, and what is said of a wrong one."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.artefact import Artefact
from models.features import FeatureSpec
from streaming.errors import UserError
from streaming.known_ahead import calendar_meta, place_of
from streaming.settings import HOUR_MS, Settings
from tests.models.test_artefact import untrained


def model(*covariates: str, country: str | None = None) -> Artefact:
    spec = FeatureSpec.for_step(HOUR_MS, ("orders",), covariates=covariates)
    return replace(untrained(), spec=spec, training={"country": country})


def test_the_namespace_keeps_to_its_country() -> None:
    scotland = Settings(country="GB", subdivision="SCT")
    assert calendar_meta(model("holiday", "price", country="US"), scotland) == {"holidays": "GB/SCT"}
    assert calendar_meta(model("price", "weekend", country="GB"), scotland) == {}
    assert calendar_meta(model(), Settings()) == {}


def test_a_model_that_learned_from_holidays_wants_a_country() -> None:
    with pytest.raises(UserError, match="holidays of GB; name the shop's country in TRENDCAST_COUNTRY"):
        calendar_meta(model("day_before", country="GB"), Settings())


def test_a_model_that_saw_no_holiday_is_not_served_with_some() -> None:
    with pytest.raises(UserError, match="train it with --country"):
        calendar_meta(model("holiday"), Settings(country="GB"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(country="XX"), "XX"),
        (Settings(country="GB", subdivision="CA"), "CA"),
        (Settings(events_file=Path("/no/such/file.toml")), "cannot be read"),
    ],
)
def test_a_wrong_calendar_names_the_settings(settings: Settings, says: str) -> None:
    with pytest.raises(UserError, match=f"TRENDCAST_COUNTRY, TRENDCAST_SUBDIVISION or TRENDCAST_EVENTS_FILE: .*{says}"):
        place_of(settings)


def test_events_are_the_shops_own(tmp_path: Path) -> None:
    path = tmp_path / "events.toml"
    path.write_text('[[event]]\nname = "Opening day"\non = "03-01"\n')
    assert [event.name for event in place_of(Settings(events_file=path)).events] == ["Opening day"]
    assert "Opening day" not in [event.name for event in place_of(Settings()).events]
