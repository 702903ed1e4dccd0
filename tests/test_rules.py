"""Prometheus's rules ask for what the program tells, each has its section in the runbook, and promtool sees each fire and rest."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from models import artefact
from models.drift import CLASSES, MEASURES
from streaming import health, ingest, metrics
from streaming.forecast import CONDITIONS
from streaming.settings import SHIPPED_MODEL

RUNBOOK: Final = "docs/operating.md"
# Prometheus's own, and what every process tells of itself.
FOREIGN: Final = {"up": set[str](), "process_start_time_seconds": set[str](), "process_resident_memory_bytes": set[str]()}
OF_TARGETS: Final = {"job", "instance"}
ENDINGS: Final = {"histogram": {"_bucket": {"le"}, "_sum": set[str](), "_count": set[str]()}}
# Values that a selector may ask for.
VALUES: Final = {
    "job": {"ingest", "forecast"},
    "role": {metrics.SERVING, metrics.CHALLENGER},
    "outcome": {*metrics.RECORD_OUTCOMES, *metrics.APPLY_OUTCOMES},
    "condition": {health.ASSIGNMENT, health.STORE, health.MODEL},
    "kind": {*metrics.FORECAST_KINDS},
    "volume": {*CLASSES},
    "measure": {*MEASURES},
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rules(repository: Path) -> list[dict[str, Any]]:
    return [rule for group in load(repository / "deploy" / "rules.yml")["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def alerts(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for rule in rules if "alert" in rule]


@pytest.fixture(scope="module")
def told(rules: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Every series that a rule may ask for, and its labels."""
    found = {name: set(labels) for name, labels in FOREIGN.items()}
    for metric in metrics.described():
        for ending, labels in ENDINGS.get(metric.type, {"": set()}).items():
            found[metric.name + ending] = {*metric.labels, *labels}
    for rule in rules:
        if "record" in rule:
            found[rule["record"]] = {"job", "volume", "measure", "level"}
    return {name: labels | OF_TARGETS for name, labels in found.items()}


def selectors(expression: str) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """Series that a rule's expression reads: name, and by label the operator and the value."""
    for name, braces in re.findall(r"\b((?:[a-z_]+:)*(?:trendcast|process)_[a-z0-9_:]+|up)\b(?:\{([^}]*)\})?", expression):
        yield name, {label: (how, value) for label, how, value in re.findall(r'(\w+)(=~|!=|!~|=)"([^"]*)"', braces)}


def aggregated(expression: str) -> set[str]:
    """Labels in `by`, `on` and `group_left`."""
    lists = re.findall(r"\b(?:by|on|group_left|without)\s*\(([^)]*)\)", expression)
    return {label.strip() for some in lists for label in some.split(",") if label.strip()}


def test_rules_read_what_the_program_tells(rules: list[dict[str, Any]], told: dict[str, set[str]]) -> None:
    for rule in rules:
        name, read = rule.get("alert") or rule["record"], list(selectors(rule["expr"]))
        assert read or "vector(" in rule["expr"], name
        labels = set[str]()
        for series, asked in read:
            assert series in told, f"{name} asks for {series}"
            assert set(asked) <= told[series], f"{name}: {series} has no labels {set(asked) - told[series]}"
            labels |= told[series]
            for label, (how, value) in asked.items():
                for each in value.split("|") if how in ("=~", "!~") else [value]:
                    assert each in VALUES[label], f"{name}: {label} is never {each!r}"
        assert aggregated(rule["expr"]) <= labels, name


def test_the_parser_of_this_test_sees_what_is_wrong() -> None:
    read = dict(selectors('sum by (job, le) (rate(trendcast_x_seconds_bucket{a="b",c=~"d|e"}[5m])) > job:trendcast_y:share and up == 0'))
    assert read == {"trendcast_x_seconds_bucket": {"a": ("=", "b"), "c": ("=~", "d|e")}, "job:trendcast_y:share": {}, "up": {}}
    assert aggregated("sum by (job, le) (x) / on (job) group_left () y") == {"job", "le"}


def test_a_workers_conditions_are_the_metrics() -> None:
    assert {*CONDITIONS, *ingest.CONDITIONS} == VALUES["condition"]


def test_levels_are_those_of_the_shipped_model(rules: list[dict[str, Any]]) -> None:
    [numbers] = [rule["expr"] for rule in rules if rule.get("record") == "level:trendcast_forecast_level:number"]
    found = re.findall(r'vector\(([0-9.]+)\), "level", "([0-9.]+)"', numbers)
    assert [(float(number), label) for number, label in found] == [(level, str(level)) for level in artefact.read(SHIPPED_MODEL).levels]


def test_every_alert_says_what_to_do(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}
        assert alert["annotations"]["runbook"] == f"{RUNBOOK}#{alert['alert'].lower()}"
        for label in re.findall(r"\$labels\.(\w+)", str(alert["annotations"])):
            asked = {each for _, labels in selectors(alert["expr"]) for each in labels}
            by = re.search(r"\bby \(([^)]*)\)", alert["expr"])
            kept = set(by[1].replace(" ", "").split(",")) if by else OF_TARGETS | asked
            recorded = {each for name, _ in selectors(alert["expr"]) for each in name.partition(":trendcast")[0].split("_") if ":" in name}
            assert label in kept | recorded, f"{alert['alert']} has no label {label}"


def test_the_runbook_has_a_section_for_each_alert_and_no_other(alerts: list[dict[str, Any]], repository: Path) -> None:
    text = (repository / RUNBOOK).read_text(encoding="utf-8")
    sections = re.split(r"^### (\w+)\n", text, flags=re.MULTILINE)[1:]
    assert sections[::2] == list(dict.fromkeys(alert["alert"] for alert in alerts))
    for name, body in zip(sections[::2], sections[1::2], strict=True):
        assert "**Means**" in body, name
        assert re.search(r"\*\*[Dd]o\*\*", body), name
    assert {f"#{name.lower()}" for name in sections[::2]} >= set(re.findall(r"\]\((#\w+)\)", text))


def test_every_alert_is_seen_to_fire_and_to_rest(alerts: list[dict[str, Any]], repository: Path) -> None:
    fires, rests = set[tuple[str, str]](), set[tuple[str, str]]()
    for case in load(repository / "deploy" / "rules_test.yml")["tests"]:
        checks = [{label for sample in check["exp_samples"] for label in _alert(sample["labels"])} for check in case["promql_expr_test"]]
        fires |= set.union(*checks)
        if set() in checks:
            rests |= set.union(*checks)
    assert (
        fires
        == rests
        == {(alert["alert"], alert["labels"].get("job") or alert["labels"]["severity"]) for alert in alerts}
        - {("TrendcastNoWorkers", "forecast")}
    )


def _alert(labels: str) -> Iterator[tuple[str, str]]:
    found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
    yield found["alertname"], found.get("job") or found["severity"]


@pytest.mark.system
@pytest.mark.parametrize(
    "arguments",
    [["check", "config", "prometheus.yml"], ["check", "rules", "--lint-fatal", "rules.yml"], ["test", "rules", "rules_test.yml"]],
)
def test_promtool_accepts_the_rules_and_sees_each_fire(repository: Path, arguments: list[str]) -> None:
    told = subprocess.run(["promtool", *arguments], cwd=repository / "deploy", capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
