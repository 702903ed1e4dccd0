"""`trendcast retrain`: from the newest days to a model that serves, if it is better; for a scheduler."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from streaming.commands import cleaning, load_settings
from streaming.commands.models import PointerMove
from streaming.commands.recording import Iterations, RecipeFile, Seed, recipe_of, registry
from streaming.commands.train import (
    Exports,
    Products,
    Step,
    StepLength,
    Streams,
    compared,
    drawn,
    features_of,
    panels_of,
    progress_bar,
    registered,
    trained,
)
from streaming.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from models.batches import Recipe
    from models.features import FeatureSpec
    from models.registry import Registry
    from streaming.retrain_run import Run

SOURCE: Final = "newest days"  # the panel's name in tables and reports


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Models")(retrain)


def retrain(
    days: Annotated[int, typer.Option(min=8, help="Newest days of the log that are used, those held back among them.")] = 180,
    log: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="A log that `trendcast replay` reads; without it or --export, the namespace's topics up to now."),
    ] = None,
    export: Exports = None,
    name: Annotated[str, typer.Option(help="The model's name: that of the one which it may replace.")] = "lstm",
    step: StepLength = Step.HOUR,
    streams: Streams = "orders,views,carts",
    products: Products = 800,
    held_back: Annotated[int, typer.Option(min=1, help="Newest days kept back, on which the models are compared.")] = 14,
    recipe: RecipeFile = None,
    iterations: Iterations = None,
    seed: Seed = None,
    home: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where runs keep their state; .trendcast/retrain.", show_default=False)
    ] = None,
) -> None:
    """Read the newest days, train, compare with the model that serves and with simple forecasts, and promote if it is the best.

    Killed, the same command goes on where it was, if it was begun less than a day ago. Exit status 0: promoted, or not better (it says which);
    1: something failed. Promotion is that of `trendcast models promote`.
    """
    from rich.console import Console

    from models.artefact import UnusableArtefact
    from models.dataset import UnusableData
    from models.registry import NoRegistry
    from simulator.embedded.cache import state_dir
    from streaming import retrain_run

    console = Console(stderr=True)
    spec = features_of(step, streams)
    chosen = recipe_of(recipe, spec, iterations, seed)
    record = registry()
    options = _options(days, log, export, name, products, held_back, spec, chosen)
    with retrain_run.begun(home or state_dir() / "retrain", options, lambda line: console.print(line, markup=False)) as run:
        try:
            run.stage("read", lambda: _read(run, days, log, export, spec, products, chosen.seed, console))
            run.stage("train", lambda: _train(run, name, spec, chosen, held_back, console))
            measured = run.stage("backtest", lambda: _backtest(run, held_back, record, console))
            # A stage in shadow belongs here: it takes `measured["version"]`, and waits for what the stream says of it.
            verdict = run.stage("promote", lambda: _promote(record, name, measured["version"]))
        except UnusableData as error:
            raise UserError(f"cannot retrain: {error}") from error
        except (NoRegistry, UnusableArtefact) as error:
            raise UserError(str(error)) from error
        except KeyboardInterrupt:
            raise UserError("interrupted; the same command goes on") from None
        run.finish("promoted" if verdict["promoted"] else "not better")
    if verdict["promoted"]:
        typer.echo(f"{verdict['label']} ({measured['version']}) is promoted; its files: {verdict['files']}")
    else:
        typer.echo(
            "\n".join([f"{verdict['label']} ({measured['version']}) is not promoted:", *(f"  {line}" for line in verdict["objections"])])
        )


def _options(
    days: int, log: Path | None, export: list[Path] | None, name: str, products: int, held_back: int, spec: "FeatureSpec", recipe: "Recipe"
) -> dict[str, Any]:
    """All that a run's result depends on beside the data: a run is gone on with by those who ask for the same."""
    from dataclasses import asdict

    settings = load_settings()
    files = [str(path.resolve()) for path in [*([log] if log else []), *(export or [])]]
    source = files or [settings.kafka_bootstrap, settings.orders_topic, settings.clickstream_topic]
    features = {key: list(value) if isinstance(value, tuple) else value for key, value in spec.to_json().items()}
    known = {"days": days, "source": source, "name": name, "products": products, "held_back": held_back}
    return {**known, "timezone": settings.timezone, "features": features, "recipe": asdict(recipe)}


def _read(
    run: "Run",
    days: int,
    log: Path | None,
    export: list[Path] | None,
    spec: "FeatureSpec",
    products: int,
    seed: int,
    console: "Console",
) -> dict[str, Any]:
    from models import panels
    from models.seasons import DAY_MS

    wanted = days * DAY_MS // spec.step_ms
    if log is not None or export:
        found, _ = panels_of([log] if log else [], 0, export or [], spec, products, seed, console)
        if len(found) > 1:
            raise UserError("a retraining is of one source; give --log or --export")
        panel = panels.newest(next(iter(found.values())), wanted)
    else:
        from streaming.topic_log import newest_days

        with progress_bar("reading the topics", 1.0, console) as update:
            panel = newest_days(load_settings(), days, spec, products, update)
    panels.save(panel, run.directory / "panel.npz")
    console.print(f"read: {len(panel.product_ids):,} products, {panel.columns:,} steps")
    if panel.columns < 0.9 * wanted:
        console.print(f"that is less than {days} days: keep the topics for longer (retention.ms), or join exports of features (--export)")
    return {"products": len(panel.product_ids), "steps": panel.columns, "first_step": panel.first_step, "fingerprint": panel.fingerprint}


def _train(run: "Run", name: str, spec: "FeatureSpec", recipe: "Recipe", held_back: int, console: "Console") -> dict[str, Any]:
    from models import panels
    from models.artefact import write
    from models.checkpoints import Checkpoints

    panel = panels.load(run.directory / "panel.npz")
    kept = Checkpoints(run.directory / "checkpoint", lambda line: console.print(line, markup=False))
    artefact = trained({SOURCE: panel}, spec, recipe, name, held_back, cleaning.policy([], None, None), {}, kept, console)
    write(artefact, run.directory / "model")
    kept.clear()
    return {"version": artefact.version}


def _backtest(run: "Run", held_back: int, record: "Registry", console: "Console") -> dict[str, Any]:
    from models import panels
    from models.artefact import read

    panel, pages = panels.load(run.directory / "panel.npz"), run.directory / "pages"
    report = pages if find_spec("matplotlib") else None
    artefact, rivals = compared({SOURCE: panel}, read(run.directory / "model"), held_back, record, console, report)
    version = registered(record, "retrain", artefact, rivals, [*drawn(run.directory, artefact), *sorted(pages.glob("*.html"))])
    return {"version": artefact.version, "label": version.label, "rows": artefact.backtest[SOURCE]}


def _promote(record: "Registry", name: str, artefact: str) -> dict[str, Any]:
    """Whether the registered version of an artefact serves now, and why not; what an earlier start had moved already stays moved.

    Raises UserError where it may serve, but the namespace's workers could not be told.
    """
    from models.contenders import BASELINES

    candidate = next(version for version in record.versions(name) if version.artefact == artefact)
    move = PointerMove.of(record, candidate)
    objections: list[str] = [] if candidate.serving else list(record.promote(candidate, list(BASELINES)).objections)
    if not objections and not move.done:
        move.make(f"trendcast models promote {candidate.label}")
    return {"label": candidate.label, "promoted": not objections, "objections": objections, "files": str(record.files(candidate))}
