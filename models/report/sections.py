"""The report's sections, from what a planner asks first to what a modeller asks last; each is HTML, empty where there is nothing to say."""

from typing import Final

import numpy as np

from models import metrics, scores
from models.metrics import VOLUMES
from models.report import plots
from models.report.markup import NOTHING, Cell, definitions, figure, grid, legend, number, percent, section, table, units
from models.report.shared import colour, key
from models.report.study import Study

_MEASURES: Final = {
    "MWQL": "Mean weighted quantile loss: how far the 10 %, 50 % and 90 % quantiles are off, relative to demand. The one to compare models by.",
    "WQL.9": "The same for the 90 % quantile alone: what safety stock lives on.",
    "RMSSE": "Root mean squared error of each product relative to its usual step-to-step change; mean over products.",
    "MASE": "Mean absolute error of each product's median relative to its usual season-to-season change; mean over products.",
    "WAPE": "Absolute error of the medians relative to demand. Where most steps are without sales, a forecast of nothing scores well.",
    "SUMW": "Absolute error of the sum over the horizon relative to demand: what replenishment needs.",
    "bias": "Mean forecasts minus demand, relative to demand; below 0: too low.",
    "cov80": "Share of outcomes in the 80 % interval; nearest to 80 % is best, but counts are lumpy and may rightly exceed it.",
    "MSE": "Mean squared error of the means, in units squared: the few largest products decide it.",
    "RMSE": "Its root, in units.",
    "MAE": "Mean absolute error of the medians, in units.",
    "MAPE": "Mean absolute error relative to the same step's demand, over steps with demand only: it prefers forecasts that are too low.",
    "R2": "Share of the variance of demand, over all products and steps together, that the means explain; 1 would be perfect.",
}
_SHOWN_AS: Final = {"R2": "R²", "cov80": "80 % interval", "WQL.9": "WQL at .9"}
_AS_PERCENT: Final = frozenset({"bias", "cov80", "MAPE"})


def models(study: Study) -> str:
    """All models by all measures."""
    best = {name: min((_badness(name, row[name]) for row in study.rows.values()), default=np.inf) for name in _MEASURES}
    rows = []
    for model, row in study.rows.items():
        texts = [percent(row[name]) if name in _AS_PERCENT else number(row[name]) for name in _MEASURES]
        rows.append(
            (model, [Cell(text, _badness(name, row[name]) == best[name] < np.inf) for name, text in zip(_MEASURES, texts, strict=True)])
        )
    head = [("model", ""), *((_SHOWN_AS.get(name, name), meaning) for name, meaning in _MEASURES.items())]
    return section(
        "models",
        "Which model is best",
        "All models forecast the same products from the same cut-offs, knowing nothing later. Less is better everywhere but in R² and the interval.",
        table("Errors of all models, the least loss first; the best of each column in bold", head, rows, study.subject),
        definitions("What the columns mean", {_SHOWN_AS.get(name, name): meaning for name, meaning in _MEASURES.items()}),
    )


def _badness(measure: str, value: float) -> float:
    """The best of a column has the least of it."""
    if not np.isfinite(value):
        return np.inf
    return {"R2": -value, "cov80": abs(value - 0.8), "bias": abs(value)}.get(measure, value)


def volume(study: Study) -> str:
    """MWQL by class and model; what the classes are."""
    names = [name for name in VOLUMES if np.isfinite([row[name] for row in study.by_class.values()]).any()]
    if not names:
        return ""
    least = {name: min(row[name] for row in study.by_class.values()) for name in names}
    rows = [(model, [Cell(number(row[name]), row[name] == least[name]) for name in names]) for model, row in study.by_class.items()]
    classes = [
        (
            label,
            [
                Cell(f"{row['products']:,.0f}"),
                Cell(f"{row['most units']:,.0f}"),
                *(Cell(percent(row[name])) for name in ("share", "zeros")),
                Cell(number(row["SUMW"])),
                *(Cell(percent(row[name])) for name in ("bias", "cov80")),
            ],
        )
        for label, row in study.class_rows().items()
    ]
    head = [
        ("class", ""),
        ("products", ""),
        ("sold before, at most", "Units of the newest 28 days or four seasons before the first cut-off, of the class's best seller"),
        ("share of demand", "Of all units sold after the cut-offs"),
        ("steps without sales", ""),
        *((_SHOWN_AS.get(name, name), _MEASURES[name]) for name in ("SUMW", "bias", "cov80")),
    ]
    coloured = {colour(study, model): [row[name] for name in names] for model, row in reversed(study.by_class.items())}
    drawn = plots.drawing(
        "classes", f"Loss of each model by volume class; {study.subject}: {_listed(study, names)}", plots.dots(names, coloured, "MWQL")
    )
    return section(
        "volume",
        "How it depends on how much a product sells",
        "Products in thirds by what they sold before the first cut-off. Slow sellers are hard for everybody: compare models, not classes.",
        grid(
            figure("Loss by volume class", drawn, "One dot a model; further left is better.", key(study)),
            table("MWQL by volume class", [("model", ""), *((name, "") for name in names)], rows, study.subject),
        ),
        table(f"The classes, and how {study.subject} does with them", head, classes),
    )


def products(study: Study) -> str:
    """Actual against forecast, and fans of typical products."""
    truth, mean, whole = study.truth, study.forecasts.mean, study.known[..., 0]
    row = study.rows[study.subject]
    clouds = [
        ("steps", f"Single {study.step}s", truth[study.known], mean[study.known], f"R² {number(row['R2'])}"),
        (
            "sums",
            f"Sums of {study.steps(study.bench.horizon)}",
            truth[whole].sum(-1),
            mean[whole].sum(-1),
            f"absolute error {percent(row['SUMW'])} of demand",
        ),
    ]
    drawn = [
        figure(
            title,
            plots.drawing(f"cloud-{name}", f"Forecast against actual units, {title.lower()}: {says}", plots.cloud(forecast, actual), 3.6),
            f"The stronger the colour, the more pairs ({len(actual):,} in all). Pairs on the dashed line were forecast exactly; above it more was sold. "
            + (
                "Single outcomes scatter: a mean of 0.4 meets a 0 or a 1."
                if name == "steps"
                else "Sums scatter less, and should lie around the line."
            ),
        )
        for name, title, actual, forecast, says in clouds
        if len(actual)
    ]
    last = study.bench.cutoffs[-1]
    fans = [_fan(study, i, reason, product, last) for i, (reason, product) in enumerate(study.products())]
    return section(
        "products",
        "Forecast and actual",
        f"First all products, then six chosen by rule, as {study.subject} saw them from the last cut-off ({study.date(last)}).",
        grid(*drawn),
        legend({"others": "before (▲ beyond the top)", "ink": "actual", "accent": "mean", "narrow": "50 % band", "wide": "80 % band"}),
        grid(*fans, narrow=True),
    )


def _fan(study: Study, i: int, reason: str, product: int, cutoff: int) -> str:
    bench, k = study.bench, len(study.bench.cutoffs) - 1
    length = min(max(3 * bench.horizon, 2 * bench.season), cutoff + 1)
    past = bench.panel.demand[product, cutoff + 1 - length : cutoff + 1, 0]
    future = study.truth[k, product]
    quantiles = {level: values[k, product] for level, values in study.forecasts.quantiles.items()}
    marks = [
        (at, study.date(cutoff + 1 + at))
        for at in sorted({-length, -length // 2, 0, bench.horizon - 1})
        if abs(at) > length // 6 or at == 0
    ]
    mean = study.forecasts.mean[k, product]
    inside = metrics.inside(future, quantiles[0.1], quantiles[0.9])
    reason = reason[0].upper() + reason[1:]
    sold = f"sold {units(float(future.sum()))} in {study.steps(bench.horizon)}, forecast {units(float(mean.sum()))}"
    drawn = plots.drawing(f"fan-{i}", f"{reason}: {sold}", plots.fan(past, future, quantiles, mean, marks))
    caption = f"{reason}: {sold}; {percent(inside)} of the {study.step}s lay in the 80 % band."
    return figure(bench.panel.product_ids[product], drawn, caption)


def calibration(study: Study, rng: np.random.Generator) -> str:
    """PIT, coverage by step, table of the levels."""
    known, quantiles = study.known, study.forecasts.quantiles
    if not known.any():
        return ""
    transformed = metrics.pit(study.truth[known], {level: quantiles[level][known] for level in metrics.LEVELS}, rng)
    shares = np.histogram(transformed, bins=10, range=(0, 1))[0] / len(transformed)
    steps = range(study.bench.horizon)
    covered = {
        shade: [metrics.inside(*(part[..., h][known[..., h]] for part in (study.truth, quantiles[low], quantiles[high]))) for h in steps]
        for shade, low, high in ((plots.ACCENT, 0.1, 0.9), (plots.SECOND, 0.25, 0.75))
    }
    tenths = [f"{i * 10}–{i * 10 + 10}" for i in range(10)]
    return section(
        "calibration",
        "Can the quantiles be believed",
        "A 90 % quantile should be above the outcome nine times in ten. Counts often equal a quantile, so a level is right if it lies between "
        "the shares of outcomes below it, and at or below it; from these it should be at most "
        f"{scores.OVERALL_LIMIT} away over everything, {scores.PART_LIMIT} in parts.",
        grid(
            figure(
                "Where outcomes fell in their forecasts",
                plots.drawing(
                    "pit",
                    f"Histogram of the randomised PIT in tenths: {', '.join(percent(float(share)) for share in shares)}",
                    plots.bars(tenths, shares.tolist(), "share of outcomes", "percent of the forecast distribution", 0.1),
                ),
                "All bars at the dashed line: calibrated. A U: too narrow; a hill: too wide; more on the right: too low. Counts are spread at random "
                "over the unit around them.",
            ),
            figure(
                "Coverage by step",
                plots.drawing(
                    "coverage",
                    f"Share of outcomes in the 80 % interval from {percent(min(covered[plots.ACCENT]))} to {percent(max(covered[plots.ACCENT]))}",
                    plots.lines(covered, f"{study.step}s ahead", "share inside", (0.5, 0.8)),
                ),
                "The lines should run along the dashed ones, or above them where most outcomes are 0.",
                {"accent": "80 % interval", "second": "50 % interval"},
            ),
        ),
        _levels(study),
        _lead_times(study),
    )


def _levels(study: Study) -> str:
    steps = [name for name in study.calibration if name.startswith("step")]
    worst = max(steps, key=lambda name: max(one.distance for one in study.calibration[name]))
    rows = []
    for name in ("all", *VOLUMES, worst):
        found = study.calibration.get(name, ())
        limit = scores.OVERALL_LIMIT if name == "all" else scores.PART_LIMIT
        cells = [
            Cell(f"{one.below:.3f} – {one.at_most:.3f}{f' (off {one.distance:.3f})' if one.distance > limit else ''}") for one in found
        ]
        if cells:
            rows.append((f"{study.step} {name.split()[1]}, the worst" if name == worst else name, cells))
    head = [
        ("outcomes", ""),
        *((f"{level * 100:.0f} % quantile", f"Should hold {level} between its two shares") for level in metrics.LEVELS),
    ]
    return table("Shares of outcomes below, and at or below, each quantile", head, rows)


def _lead_times(study: Study) -> str:
    found = scores.sums(study.bench, study.forecasts)
    rows = [(study.steps(steps), [Cell(number(row["MWQL"])), Cell(percent(row["cov80"]))]) for steps, row in found.items()]
    return table("Sums over lead times", [("lead time", ""), ("MWQL", _MEASURES["MWQL"]), ("80 % interval", "")], rows) if rows else ""


def cleaning(study: Study) -> str:
    """What cleaning changed, where rows were given."""
    if not study.changes:
        return ""
    columns = list(study.changes[0])
    rows = [(str(row.get(columns[0], "")), [Cell(_plain(row.get(name))) for name in columns[1:]]) for row in study.changes]
    return section(
        "cleaning",
        "What cleaning changed",
        "Before anything was forecast.",
        table("Changes to the data", [(name, "") for name in columns], rows),
    )


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return NOTHING if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else str(value)


def _listed(study: Study, names: list[str]) -> str:
    return ", ".join(f"{name} {number(study.by_class[study.subject][name])}" for name in names)
