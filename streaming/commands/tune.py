"""`trendcast tune`: a recipe for one's own data."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from streaming.commands.recording import Iterations, Seed, recipe_of
from streaming.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from models.tune import Trial, Tuning

_SHOWN: Final = 12  # trials in the table beside the default


class Sampler(StrEnum):
    """How recipes are chosen."""

    GRID = "grid"
    RANDOM = "random"
    BAYESIAN = "bayesian"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Models")(tune)


def tune(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A bench as `trendcast backtest` reads it: panel.parquet and cutoffs.json.")
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="recipe.json for the best recipe.")],
    sampler: Annotated[Sampler, typer.Option(help="How recipes are chosen; bayesian is Optuna's TPE.")] = Sampler.BAYESIAN,
    trials: Annotated[int, typer.Option(min=1, help="Recipes to try, the default one among them, over all runs of this command.")] = 30,
    parameters: Annotated[str, typer.Option(help="Parameters to search, separated by commas; all if empty.")] = "",
    storage: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="sqlite file of all trials, with which the next run goes on; OUT with .db.", show_default=False),
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Minutes after which no new trial begins.")] = None,
    plot: Annotated[Path | None, typer.Option(dir_okay=False, help="Picture of what mattered and of all trials, .svg or .png.")] = None,
    iterations: Iterations = None,
    seed: Seed = None,
) -> None:
    """Search for a better recipe than the default one; `trendcast train --recipe` and `trendcast backtest --recipe` take it.

    Trials are scored on origins before the bench's first cut-off, so that a backtest on the bench stays a fair test of the outcome.
    """
    from rich.console import Console

    from models import bench as benches
    from models.dataset import UnusableData

    console = Console(stderr=True)
    try:
        from models import tune as search

        bench = benches.load(directory)
        chosen = [part.strip() for part in parameters.split(",") if part.strip()]
        base = recipe_of(None, bench.spec, iterations, seed)
        tuning = search.Tuning(bench, base, storage or out.with_suffix(".db"), sampler.value, chosen)
    except ImportError as error:
        raise UserError(f"no tuning without {error.name}; pip install 'trendcast[training]'") from error
    except (UnusableData, search.UnusableStudy) as error:
        raise UserError(f"cannot tune: {error}") from error
    interrupted = not _run(tuning, trials, timeout, console)
    done = tuning.trials()
    best = search.best(done)
    if best is None:
        raise UserError("no trial has finished; the same command goes on")
    _print(tuning, done, console)
    origin = {"bench": tuning.bench.fingerprint, "trial": best.number, "MWQL": best.mwql, "trials": len(done)}
    from models import recipes

    recipes.write(out, tuning.recipe(best), bench.spec.step_ms, origin)
    if plot is not None:
        _draw(plot, tuning, done, directory.name)
    if interrupted:
        raise UserError(f"interrupted; the best recipe so far, trial {best.number}, is in {out}; the same command goes on")
    console.print(f"trial {best.number}'s recipe written to {out}; train with it: trendcast train --recipe {out} …", markup=False)


def _run(tuning: "Tuning", trials: int, timeout: float | None, console: "Console") -> bool:
    """Whether it ran to its end and was not interrupted."""
    from rich.progress import Progress

    from models.tune import Watch

    with Progress(console=console) as bars:
        overall = bars.add_task("trials", total=trials, completed=sum(trial.outcome != "interrupted" for trial in tuning.trials()))
        current = bars.add_task("training", total=None)

        def ended(trial: "Trial") -> None:
            bars.advance(overall)
            score = trial.outcome if trial.mwql is None else f"MWQL {trial.mwql:.4f}"
            console.print(f"trial {trial.number}: {score}  {_recipe(trial, tuning.searched)}", markup=False, highlight=False)

        console.print("loading TensorFlow …")
        try:
            tuning.run(
                trials,
                timeout * 60 if timeout is not None else None,
                Watch(lambda n, of: bars.update(current, completed=n, total=of), ended),
            )
        except KeyboardInterrupt:
            return False
    return True


def _recipe(trial: "Trial", names: tuple[str, ...]) -> str:
    return "  ".join(f"{name} {_short(getattr(trial.recipe, name))}" for name in names)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _print(tuning: "Tuning", trials: "list[Trial]", console: "Console") -> None:
    """The default recipe and the best trials, and what became of the others."""
    from rich.table import Table

    finished = sorted((trial for trial in trials if trial.mwql is not None), key=lambda trial: (trial.mwql, trial.number))
    shown = [*(trial for trial in finished if trial.default), *(trial for trial in finished if not trial.default)][: _SHOWN + 1]
    table = Table("trial", "MWQL", *tuning.searched, title="the default recipe, and the best others", title_justify="left")
    for trial in shown:
        name = f"{trial.number} (default)" if trial.default else str(trial.number)
        table.add_row(name, f"{trial.mwql:.4f}", *(_short(getattr(trial.recipe, parameter)) for parameter in tuning.searched))
    console.print(table)
    outcomes = [trial.outcome for trial in trials]
    console.print(
        ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("finished", "pruned", "interrupted") if outcome in outcomes)
    )
    importance = tuning.importance()
    if importance:
        console.print("importance: " + ", ".join(f"{name} {share:.2f}" for name, share in importance.items()), highlight=False)


def _draw(path: Path, tuning: "Tuning", trials: "list[Trial]", title: str) -> None:
    scores = [(trial.number, trial.mwql) for trial in trials if trial.mwql is not None]
    default = next((trial.mwql for trial in trials if trial.default and trial.mwql is not None), float("nan"))
    try:
        from models.curves import draw_tuning

        draw_tuning(path, tuning.importance(), scores, default, title)
    except ImportError as error:
        raise UserError("no picture without matplotlib; pip install 'trendcast[training]'") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be drawn: {error}") from error
