"""The report's sections for those who build models: what is left in the errors, how the network learnt and what it uses."""

from typing import Any, Final

import numpy as np

from models import metrics, scores
from models.metrics import Floats
from models.report import plots
from models.report.markup import figure, grid, number, percent, section
from models.report.shared import colour, key, range_text
from models.report.study import Study
from models.seasons import DAY_MS

_WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def errors(study: Study) -> str:
    """By step of the horizon; residuals."""
    if not study.known.any():
        return ""
    coloured = {colour(study, name): values for name, values in reversed(study.by_step.items())}
    shown = [
        figure(
            "Loss by step",
            plots.drawing(
                "by-step", range_text("Loss by step", study.by_step[study.subject]), plots.lines(coloured, f"{study.step}s ahead", "loss")
            ),
            "Relative to a mean step's demand, so that the steps' mean is MWQL. A line that rises: the far end is harder. Waves: the week's.",
            key(study),
        )
    ]
    found = scores.autocorrelation(study.errors)
    if found:
        again = scores.persistence(study.errors)
        remembered = f" From one cut-off to the next, a product's error correlates by {number(again)}." if np.isfinite(again) else ""
        shown.append(
            figure(
                "Do errors repeat",
                plots.drawing(
                    "acf",
                    range_text("Autocorrelation of errors", found),
                    plots.bars([str(lag + 1) for lag in range(len(found))], found, "autocorrelation", f"{study.step}s apart", least=0.3),
                ),
                f"Near 0: what is left is chance. Above 0 throughout: whole forecasts are too low or too high.{remembered}",
            )
        )
    shown += [_bias(study, i, *each) for i, each in enumerate(_phases(study))]
    scaled = study.errors[study.known]
    shown.append(
        figure(
            "Distribution of errors",
            plots.drawing(
                "errors",
                f"Histogram of scaled errors, median {number(float(np.median(scaled)))}",
                plots.distribution(scaled, "error / product's RMSE"),
            ),
            "Actual minus mean forecast, in units of the product's own error. A peak left of 0 with a long tail to the right is how rare sales look.",
        )
    )
    return section(
        "errors",
        "What is left to learn",
        f"The errors of {study.subject}: where they are large, and whether there is a pattern in them.",
        grid(*shown),
    )


def _bias(study: Study, i: int, title: str, names: list[str], phase: Floats) -> str:
    """`phase`: (cutoffs, horizon) index into names."""
    phases = np.broadcast_to(phase[:, None], study.truth.shape)
    parts = [study.known & (phases == index) for index in range(len(names))]
    found = [metrics.bias(study.truth[part], study.forecasts.mean[part]) for part in parts]
    drawn = plots.drawing(f"bias-{i}", range_text(title, found), plots.bars(names, found, "bias"))
    return figure(
        title,
        drawn,
        "Mean forecast minus actual, relative to demand: above 0 too high, below too low. Bars of one sign: a level; changing ones: a season missed.",
    )


def _phases(study: Study) -> list[tuple[str, list[str], Any]]:
    """Ways to part the horizon's steps: title, names, and index into them for each cut-off and step."""
    bench = study.bench
    columns = np.array(bench.cutoffs)[:, None] + np.arange(1, bench.horizon + 1)
    dates, shape = bench.dates[columns.ravel()], columns.shape
    weekday = ("Bias by weekday", list(_WEEKDAYS), np.asarray(dates.day_of_week).reshape(shape))
    if bench.spec.step_ms < DAY_MS:
        return [("Bias by hour", [f"{hour}" for hour in range(24)], np.asarray(dates.hour).reshape(shape)), weekday]
    if bench.spec.step_ms == DAY_MS:
        return [weekday]
    by_cutoff = np.repeat(np.arange(shape[0])[:, None], bench.horizon, axis=1)
    return [("Bias by cut-off", [study.date(cutoff) for cutoff in bench.cutoffs], by_cutoff)]


def training(study: Study) -> str:
    """Curves and importance, where they were given."""
    shown = []
    if study.curve:
        looks = [int(look["iteration"]) for look in study.curve]
        loss, held_out = ([float(look[name]) for look in study.curve] for name in ("loss", "held_out_loss"))
        best = int(np.argmin(held_out))
        shown.append(
            figure(
                "Training",
                plots.drawing(
                    "training", f"Losses over {looks[-1]} iterations, best at {looks[best]}", plots.learning(looks, loss, held_out, best)
                ),
                f"The ring marks the weights that were kept (iteration {looks[best]:,}). Held-out products rising while the other line falls: "
                "learnt by heart. Both falling at the end: train longer.",
                {"others": "learnt from", "accent": "held-out products"},
            )
        )
    if study.importance:
        names, values = list(study.importance), list(study.importance.values())
        shown.append(
            figure(
                "What the forecasts live on",
                plots.drawing(
                    "importance",
                    "Loss added without each group of inputs: "
                    + ", ".join(f"{name} {percent(value)}" for name, value in study.importance.items()),
                    plots.lying_bars(names, [100 * value for value in values], "percent more loss (MWQL)"),
                    max(0.42 * len(names) + 0.5, 1.6),
                ),
                "How much worse it gets if a group of inputs is taken from another product at another time. Groups that tell the same cover for each other: "
                "a short bar does not mean that all of them could go.",
            )
        )
    return section("training", "How the network learnt", "The network's training, and which of its inputs it uses.", grid(*shown))
