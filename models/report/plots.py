"""The report's drawings, each an SVG to be put into the page: colours are the page's variables, so they follow light and dark.

Matplotlib is loaded when something is drawn. Names of models and products stay out of the drawings: keys and titles are HTML.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import import_module
from typing import Any, Final

import numpy as np

from models.metrics import Floats

# Colours that nothing else has, one for each of the page's variables.
_VARIABLES: Final = ("ink", "muted", "rule", "accent", "second", "others", "card")
INK, MUTED, RULE, ACCENT, SECOND, OTHERS, CARD = (f"#{i:02x}{i:02x}{i:02x}" for i in range(1, 8))
_STYLE: Final = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "text.color": MUTED,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.labelsize": 10.5,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
}
_WIDTH, _HEIGHT = 4.6, 2.9  # inches; at a phone's width the text is still 10 pixels high


def require() -> None:
    """Raises ImportError where the drawing library is missing, saying how to get it."""
    try:
        import_module("matplotlib")
    except ImportError as error:
        raise ImportError("the report's plots need matplotlib; say pip install 'trendcast[training]'") from error


def drawing(name: str, alternative: str, draw: Callable[[Any], None], height: float = _HEIGHT) -> str:
    """What `draw` makes of empty axes, as SVG; `name` is unique in the page, `alternative` the text for those who do not see it."""
    require()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="none")
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(buffer.getvalue().decode(), name, alternative)


def _inline(svg: str, name: str, alternative: str) -> str:
    """A file's SVG as part of a page: no prologue, no foreign addresses, unique ids, the page's colours and type."""
    svg = svg[svg.index("<svg") :]
    for unwanted in (r"<metadata>.*?</metadata>", r"<!--.*?-->", r"<style.*?</style>", r' xmlns(:xlink)?="[^"]*"', r">\s+(?=<)"):
        svg = re.sub(unwanted, ">" if unwanted.startswith(">") else "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    referred = set(re.findall(r'(?:url\(|href=")#([\w.-]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in referred else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", svg)
    for colour, variable in zip((INK, MUTED, RULE, ACCENT, SECOND, OTHERS, CARD), _VARIABLES, strict=True):
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height|version)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{escape(alternative)}">{rest}'


def lines(series: Mapping[str, Sequence[float]], below: str, beside: str, nominal: Sequence[float] = ()) -> Callable[[Any], None]:
    """Values by step, from 1; `series` by colour, several of one colour as `colour:anything`. Dashes at `nominal` values."""

    def draw(axes: Any) -> None:
        for value in nominal:
            axes.axhline(value, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        for i, (kind, values) in enumerate(series.items()):
            marker = {"marker": "o", "markersize": 3.5} if len(values) < 40 else {}
            axes.plot(np.arange(1, len(values) + 1), values, color=kind.split(":")[0], zorder=2 + i, **marker)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel=below, ylabel=beside)

    return draw


def dots(rows: Sequence[str], series: Mapping[str, Sequence[float]], below: str) -> Callable[[Any], None]:
    """A row of dots for each of `rows`, which are our own words; `series` as for `lines`."""

    def draw(axes: Any) -> None:
        places = np.arange(len(rows))
        for i, (kind, values) in enumerate(series.items()):
            axes.scatter(values, places, s=64, color=kind.split(":")[0], zorder=3 + i, edgecolors=CARD, linewidths=0.8)
        axes.set_yticks(places, rows)
        axes.set(xlabel=below, ylim=(-0.6, len(rows) - 0.4), xlim=(0, None))
        axes.grid(axis="y", visible=False)

    return draw


def bars(
    names: Sequence[str], values: Sequence[float], beside: str, below: str = "", even: float | None = None, least: float = 0.0
) -> Callable[[Any], None]:
    """Upright bars; a dashed line where all of them should be. The axis reaches at least from `-least` to `least`: small ones stay small."""

    def draw(axes: Any) -> None:
        places = np.arange(len(values))
        axes.bar(places, values, color=ACCENT, width=0.75)
        axes.axhline(0 if even is None else even, color=INK, linewidth=0.9, linestyle="solid" if even is None else (0, (4, 3)))
        # About forty characters fit.
        every = -(-sum(len(name) + 1 for name in names) // 40)
        axes.set_xticks(places[::every], names[::every])
        low, high = axes.get_ylim()
        axes.set(xlabel=below, ylabel=beside, ylim=(min(low, -least), max(high, least)))
        axes.grid(axis="x", visible=False)

    return draw


def lying_bars(names: Sequence[str], values: Sequence[float], below: str) -> Callable[[Any], None]:
    """Bars from top to bottom; each name above its bar, so that long ones fit on a phone."""

    def draw(axes: Any) -> None:
        places = -np.arange(len(values))
        axes.barh(places, values, color=ACCENT, height=0.36)
        for place, name in zip(places, names, strict=True):
            axes.annotate(name, (0, place + 0.22), xytext=(4, 0), textcoords="offset points", va="bottom", color=INK)
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.set(xlabel=below, yticks=[], ylim=(places[-1] - 0.5, 0.8))

    return draw


def cloud(forecast: Floats, actual: Floats) -> Callable[[Any], None]:
    """Hexagons by how many pairs fall into them, on axes that grow like logarithms and begin at 0; the diagonal dashed."""

    def draw(axes: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap, to_rgba

        x, y = np.log1p(np.maximum(forecast, 0)), np.log1p(np.maximum(actual, 0))
        highest = max(float(x.max()), float(y.max()), 1.0) * 1.03
        shades = LinearSegmentedColormap.from_list("shades", [to_rgba(ACCENT, alpha) for alpha in (0.1, 1.0)])
        cells = axes.hexbin(x, y, gridsize=(32, 18), extent=(0, highest, 0, highest), mincnt=1, cmap=shades, linewidths=0)
        counts = np.log1p(np.asarray(cells.get_array()))
        cells.set_array(counts)
        cells.set_clim(0, float(counts.max()))
        axes.plot([0, highest], [0, highest], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        marks = [mark for mark in (0, 1, 3, 10, 30, 100, 300, 1_000, 10_000, 100_000, 1_000_000) if np.log1p(mark) <= highest]
        names = [f"{mark:,}" for mark in marks]
        axes.set_xticks(np.log1p(marks), names)
        axes.set_yticks(np.log1p(marks), names)
        axes.set(xlabel="forecast (mean)", ylabel="actual", xlim=(-0.1, highest), ylim=(-0.1, highest))

    return draw


def fan(
    past: Floats, future: Floats, quantiles: Mapping[float, Floats], mean: Floats, marks: Sequence[tuple[int, str]]
) -> Callable[[Any], None]:
    """History, the bands of the forecast beyond it, and what then happened; `marks`: names of places, 0 being the first forecast step."""

    def draw(axes: Any) -> None:
        ahead = np.arange(len(future))
        before = np.arange(-len(past), 0)
        # One order of thousands weeks ago must not press everything else to the ground.
        top = max(1.5 * float(max(future.max(), mean.max(), quantiles[0.9].max())), float(np.quantile(past, 0.9)), 1.0)
        beyond = past > top
        axes.fill_between(ahead, quantiles[0.1], quantiles[0.9], color=ACCENT, alpha=0.22, linewidth=0)
        axes.fill_between(ahead, quantiles[0.25], quantiles[0.75], color=ACCENT, alpha=0.36, linewidth=0)
        axes.plot(ahead, mean, color=ACCENT)
        axes.plot(before, past, color=OTHERS, linewidth=1.1)
        axes.plot(ahead, future, color=INK, linewidth=1.1, marker="o", markersize=3)
        axes.axvline(-0.5, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_xticks([place for place, _ in marks], [name for _, name in marks])
        axes.scatter(before[beyond], np.full(beyond.sum(), 0.97 * top), marker="^", s=26, color=OTHERS)
        axes.set(ylim=(0, top))
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="x", visible=False)

    return draw


def distribution(values: Floats, below: str, limit: float = 4.0) -> Callable[[Any], None]:
    """Histogram of standardised values, those beyond the limit in the outermost bars."""

    def draw(axes: Any) -> None:
        shares, edges = np.histogram(np.clip(values, -limit, limit), bins=32, range=(-limit, limit))
        axes.bar(edges[:-1], shares / max(shares.sum(), 1), width=np.diff(edges) * 0.92, align="edge", color=ACCENT)
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.set(xlabel=below, ylabel="share of outcomes")
        axes.grid(axis="x", visible=False)

    return draw


def learning(iterations: Sequence[int], loss: Sequence[float], held_out: Sequence[float], best: int) -> Callable[[Any], None]:
    """Losses by iteration; a ring around the look whose weights were kept."""

    def draw(axes: Any) -> None:
        axes.plot(iterations, loss, color=OTHERS)
        axes.plot(iterations, held_out, color=ACCENT)
        axes.scatter([iterations[best]], [held_out[best]], s=70, facecolors="none", edgecolors=INK, linewidths=1.4, zorder=4)
        axes.set(xlabel="iteration", ylabel="loss")

    return draw
