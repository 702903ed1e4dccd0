"""Pictures of a training and of a tuning, drawn by matplotlib; the suffix of the file decides the format (svg, png, pdf)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_training(path: Path, curve: Sequence[Mapping[str, Any]], title: str) -> None:
    """Both losses by iteration, with the look that was kept. `curve`: that of an artefact's `training`."""
    figure, (axes,) = _canvas(1, title)
    iterations = [look["iteration"] for look in curve]
    axes.plot(iterations, [look["loss"] for look in curve], marker=".", label="training products")
    axes.plot(iterations, [look["held_out_loss"] for look in curve], marker=".", label="held-out products, averaged weights")
    kept = [look for look in curve if look["kept"]][-1:]
    axes.plot([look["iteration"] for look in kept], [look["held_out_loss"] for look in kept], "o", fillstyle="none", label="kept")
    axes.set(xlabel="iteration", ylabel="loss")
    axes.legend()
    _save(figure, path)


def draw_tuning(path: Path, importance: Mapping[str, float], scores: Sequence[tuple[int, float]], default: float, title: str) -> None:
    """Bars of each parameter's importance, and the MWQL of each finished trial (number, MWQL) beside that of the default recipe."""
    figure, (bars, trials) = _canvas(2, title)
    names = sorted(importance, key=lambda name: importance[name])
    bars.barh(names, [importance[name] for name in names])
    bars.set(xlabel="importance" if names else "importance: too few finished trials to tell")
    trials.plot([number for number, _ in scores], [mwql for _, mwql in scores], "o")
    trials.axhline(default, linestyle="--", color="grey", label="default recipe")
    trials.set(xlabel="trial", ylabel="MWQL")
    trials.legend()
    _save(figure, path)


def _canvas(panels: int, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * panels, 4), layout="constrained")
    figure.suptitle(title)
    return figure, [figure.add_subplot(1, panels, i + 1) for i in range(panels)]


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
