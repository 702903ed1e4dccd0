"""The page is whole, needs nothing else, and says what the numbers say, on benches of any kind."""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models import report
from models.bench import BacktestForecasts, Bench, no_progress
from models.contenders import BASELINES
from models.dataset import Panel
from models.features import FeatureSpec
from models.report import Study
from models.report.findings import findings
from models.seasons import DAY_MS, HOUR_MS
from tests.models.benches import daily_bench

VOID = {"meta", "link", "br", "hr", "img", "input"}
EVIL = '<script>alert("1")</script> & $x$'


class Page(HTMLParser):
    """What a page holds; fails where its elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def answers(bench: Bench) -> dict[str, BacktestForecasts]:
    return {name: contender(bench, no_progress) for name, contender in BASELINES.items()}


def study(bench: Bench, **more: Any) -> Study:
    return Study("A shop", bench, answers(bench), **more)


def sales(products: int, steps: int) -> np.ndarray:
    return np.random.default_rng(4).poisson(np.linspace(0.2, 9, products)[:, None], (products, steps)).astype(float)


def of_freq(freq: str, step_ms: int, season: int) -> Bench:
    steps = 120
    demand = sales(6, steps)[..., None].astype(np.float32)
    panel = Panel(tuple("abcdef"), 1_000, np.zeros(6, np.int64), demand, "UTC")
    dates = pd.date_range("2024-01-01", periods=steps, freq=freq)
    return Bench(panel, FeatureSpec.for_step(step_ms, ()), dates, (90, 100), 12, season)


def unborn() -> Bench:
    history = sales(8, 80)
    history[-3:, :60] = np.nan
    return daily_bench(history, 7, cutoffs=(50, 65))


BENCHES: dict[str, Callable[[], Bench]] = {
    "usual": lambda: daily_bench(sales(30, 90), 7, cutoffs=(60, 67, 74)),
    "one product": lambda: daily_bench(sales(1, 60), 7, cutoffs=(40, 47)),
    "one cut-off, one step": lambda: daily_bench(sales(4, 60), 1, cutoffs=(40,)),
    "nothing sold": lambda: daily_bench(np.zeros((5, 60)), 7, cutoffs=(40, 47)),
    "unborn": unborn,
    "hourly": lambda: of_freq("h", HOUR_MS, 24),
    "weekly": lambda: of_freq("W-SUN", 7 * DAY_MS, 1),
    "monthly": lambda: of_freq("MS", 31 * DAY_MS, 1),
}


@pytest.mark.parametrize("name", BENCHES)
def test_the_page_is_whole_and_alone(name: str) -> None:
    text = report.html(study(BENCHES[name]()))
    page = Page(text)
    assert "<h1>A shop</h1>" in text
    assert len(text) < 4_000_000
    assert not [value for value in (*page.values("src"), *page.values("href")) if not value.startswith("#")]
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in page.values("href")} | set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    assert "nan" not in page.text.lower()


def test_everybody_can_read_it() -> None:
    page = Page(report.html(study(BENCHES["usual"]())))
    drawings = [tag for tag, name, value in page.attributes if (name, value) == ("role", "img")]
    assert drawings == ["svg"] * len(drawings)
    alternatives = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert len(alternatives) == len(drawings) > 10
    assert all(len(value) > 15 for value in alternatives)
    assert set(page.values("scope")) == {"col", "row"}
    assert ("html", "lang", "en") in page.attributes
    assert "prefers-color-scheme: dark" in report.html(study(BENCHES["usual"]()))


def test_drawings_take_their_colours_from_the_page() -> None:
    drawings = re.findall(r"<svg.*?</svg>", report.html(study(BENCHES["usual"]())), flags=re.DOTALL)
    colours = {colour for drawing in drawings for colour in re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)}
    assert {colour for colour in colours if not colour.startswith("var(--")} <= {"none", "#000000"}


def test_names_are_text_wherever_they_stand() -> None:
    bench = daily_bench(sales(6, 60), 7, cutoffs=(40, 47))
    panel = replace(bench.panel, product_ids=(EVIL, *bench.panel.product_ids[1:5], f"{EVIL}2"))
    bench = replace(bench, panel=panel)
    models = {f"{EVIL} {name}": answer for name, answer in answers(bench).items()}
    changes = [{EVIL: EVIL, "rows": 3}]
    text = report.html(Study(EVIL, bench, models, changes=changes, importance={EVIL: 0.1}))
    page = Page(text)
    assert "<script" not in text
    assert EVIL in page.text


def test_the_same_study_gives_the_same_page() -> None:
    assert report.html(study(BENCHES["usual"]())) == report.html(study(BENCHES["usual"]()))


def test_what_is_given_is_shown() -> None:
    curve = [{"iteration": 100 * i, "loss": 1 / i, "held_out_loss": 1.2 / i, "kept": True} for i in range(1, 6)]
    changes = [{"rule": "cancelled pairs", "lines": 12_345}, {"rule": "manual entries", "lines": 7}]
    bench = BENCHES["usual"]()
    plain = Page(report.html(study(bench))).text
    full = Page(report.html(study(bench, curve=curve, importance={"recent demand": 0.31, "calendar": -0.01}, changes=changes))).text
    for text in ("iteration 500", "recent demand", "12,345", "What cleaning changed"):
        assert text in full
        assert text not in plain


def test_sums_over_lead_times_are_shown_where_they_were_forecast() -> None:
    bench = BENCHES["usual"]()
    models = answers(bench)
    sums = {5: {level: values.sum(axis=-1) for level, values in models["28-day mean"].quantiles.items()}}
    text = Page(report.html(Study("A shop", bench, {"28-day mean": replace(models["28-day mean"], sums=sums)}))).text
    assert "5 days" in text


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        (
            {"a": 0.5, "b": 0.6},
            "a forecasts best of 2 models: its loss (MWQL) of 0.500 is 17\N{NO-BREAK SPACE}% below that of the next, b (0.600)",
        ),
        ({"a": 0.599, "b": 0.6}, "a and b forecast equally well"),
        ({"b": 0.6}, "no other model"),
    ],
)
def test_the_first_sentence_ranks(losses: Mapping[str, float], says: str) -> None:
    made = study(BENCHES["usual"]())
    one = next(iter(made.answers.values()))
    made = replace(made, answers=dict.fromkeys(losses, one))
    made.__dict__["rows"] = {name: {**next(iter(study(made.bench).rows.values())), "MWQL": loss} for name, loss in losses.items()}
    sentences = findings(made)
    assert len(sentences) == 3
    assert says in sentences[0]


def test_without_sales_there_is_one_sentence() -> None:
    assert len(findings(study(BENCHES["nothing sold"]()))) == 1


def test_products_are_chosen_by_rule() -> None:
    made = study(BENCHES["usual"]())
    chosen = dict(made.products())
    assert len(chosen) == len(set(chosen.values())) == 6
    assert [made.classes[chosen[f"typical {name} seller"]] for name in ("slow", "medium", "fast")] == [0, 1, 2]
    sold = made.bench.panel.demand[:, 74 - 27 : 74 + 8, 0].sum(axis=1)
    assert sold[chosen["best seller"]] >= np.sort(sold)[-2]


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, package: str | None = None) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("models.report.plots.import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'trendcast\[training\]'"):
        report.require()


def test_the_page_is_written_where_asked(tmp_path: Path) -> None:
    report.write(study(BENCHES["one product"]()), tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_matplotlib_is_loaded_late() -> None:
    code = "import sys, models.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
