"""`trendcast retrain`: from the newest days to a model that serves, if it is better; for a scheduler."""

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from streaming.commands import cleaning, load_settings
from streaming.commands.models import PointerMove, looked
from streaming.commands.recording import Iterations, RecipeFile, Seed, recipe_of, registry
from streaming.commands.showing import print_table, progress_bar
from streaming.commands.sources import (
    AheadOptions,
    ContextFiles,
    Country,
    Covariates,
    EventsFile,
    Exports,
    FactsFiles,
    Products,
    Sources,
    Step,
    StepLength,
    Streams,
    Subdivision,
    check_said,
    features_of,
    knowing,
    panels_of,
)
from streaming.commands.train import compared, drawn, registered, trained
from streaming.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from models.batches import Recipe
    from models.dataset import Panel
    from models.features import FeatureSpec
    from models.registry import Registry
    from streaming.live_comparison import Standing
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
    covariates: Covariates = "",
    country: Country = None,
    subdivision: Subdivision = None,
    events: EventsFile = None,
    facts: FactsFiles = None,
    context: ContextFiles = None,
    held_back: Annotated[int, typer.Option(min=1, help="Newest days kept back, on which the models are compared.")] = 14,
    shadow_hours: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=24 * 28,
            help="Hours of the shop's time for which the new model is followed in shadow, beside the one that serves; 0: not at all; "
            "24 if not given, or a week where the step is a day.",
            show_default=False,
        ),
    ] = None,
    shadow_deadline: Annotated[
        float | None,
        typer.Option(min=0, help="Real hours after which the shadow is given up for now; twice --shadow-hours.", show_default=False),
    ] = None,
    recipe: RecipeFile = None,
    iterations: Iterations = None,
    seed: Seed = None,
    home: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where runs keep their state; .trendcast/retrain.", show_default=False)
    ] = None,
) -> None:
    """Read the newest days, train, compare with the model that serves, on days held back and then in shadow, and promote if it is the best.

    Killed, the same command goes on where it was, if that is less than a day ago. Exit status 0: promoted, or not better (it says which);
    1: something failed. Promotion is that of `trendcast models promote`.
    """
    from rich.console import Console

    from models.artefact import UnusableArtefact
    from models.dataset import UnusableData
    from models.registry import NoRegistry
    from simulator.embedded.cache import state_dir
    from streaming import retrain_run

    console = Console(stderr=True)
    spec = features_of(step, streams, covariates)
    chosen = recipe_of(recipe, spec, iterations, seed)
    record = registry()
    settings = load_settings()
    ahead = AheadOptions(
        country or settings.country,
        subdivision if country else subdivision or settings.subdivision,
        events or settings.events_file,
        (*(facts or ()),),
        (*(context or ()),),
    )
    sources = Sources([log] if log else (), exports=export or (), ahead=ahead)
    _check(sources, spec)
    options = _options(days, sources, name, products, held_back, spec, chosen)
    hours = (24 if step is Step.HOUR else 7 * 24) if shadow_hours is None else shadow_hours
    deadline_s = 3600 * (2 * hours if shadow_deadline is None else shadow_deadline)
    with retrain_run.begun(home or state_dir() / "retrain", options, lambda line: console.print(line, markup=False)) as run:
        try:
            run.stage("read", lambda: _read(run, days, sources, spec, products, chosen.seed, console))
            run.stage("train", lambda: _train(run, name, spec, chosen, held_back, ahead.country, console))
            measured = run.stage("backtest", lambda: _backtest(run, held_back, record, console))
            live = run.stage("shadow", lambda: _shadow(run, record, name, measured["version"], sources, hours, deadline_s, console))
            verdict = run.stage("promote", lambda: _promote(record, name, measured["version"], live.get("objections", ())))
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


def _check(sources: Sources, spec: "FeatureSpec") -> None:
    """Raises UserError where the options contradict each other, or nobody says what the model is to look at."""
    if sources.logs and sources.exports:
        raise UserError("a retraining is of one source; give --log or --export")
    if sources.logs or sources.exports:
        sources.check(spec.covariates)
        return
    settings = load_settings()
    told = bool(settings.facts_topic or sources.ahead.facts), bool(settings.context_topic or sources.ahead.context)
    message = "no topic tells {}; name it in TRENDCAST_FACTS_TOPIC or TRENDCAST_CONTEXT_TOPIC, or give {}"
    check_said(spec.covariates, message, facts=told[0], context=told[1])


def _options(
    days: int, sources: Sources, name: str, products: int, held_back: int, spec: "FeatureSpec", recipe: "Recipe"
) -> dict[str, Any]:
    """All that the model and its backtest depend on beside the data: a run is gone on with by those who ask for the same."""
    from dataclasses import asdict

    settings, ahead = load_settings(), sources.ahead
    files = [str(path.resolve()) for path in (*sources.logs, *sources.exports)]
    source = files or [settings.kafka_bootstrap, settings.orders_topic, settings.clickstream_topic, *settings.ahead_topics]
    features = {key: list(value) if isinstance(value, tuple) else value for key, value in spec.to_json().items()}
    known = {"days": days, "source": source, "name": name, "products": products, "held_back": held_back}
    said = [str(path.resolve()) for path in (*ahead.facts, *ahead.context)]
    calendar = [ahead.country, ahead.subdivision, str(ahead.events.resolve()) if ahead.events else None]
    return {**known, "timezone": settings.timezone, "features": features, "calendar": calendar, "said": said, "recipe": asdict(recipe)}


def _read(run: "Run", days: int, sources: Sources, spec: "FeatureSpec", products: int, seed: int, console: "Console") -> dict[str, Any]:
    from models import panels
    from models.seasons import DAY_MS

    wanted = days * DAY_MS // spec.step_ms
    if sources.logs or sources.exports:
        found, _ = panels_of(sources, spec, products, seed, console)
        panel = panels.newest(next(iter(found.values())), wanted)
    else:
        panel = _of_topics(days, sources.ahead, spec, products, console)
    panels.save(panel, run.directory / "panel.npz")
    console.print(f"read: {len(panel.product_ids):,} products, {panel.columns:,} steps")
    if panel.columns < 0.9 * wanted:
        console.print(f"that is less than {days} days: keep the topics for longer (retention.ms), or join exports of features (--export)")
    return {"products": len(panel.product_ids), "steps": panel.columns, "first_step": panel.first_step, "fingerprint": panel.fingerprint}


def _of_topics(days: int, ahead: AheadOptions, spec: "FeatureSpec", products: int, console: "Console") -> "Panel":
    """The namespace's newest days, with what its topics and files said ahead, from the time on at which they said it."""
    from streaming.topic_log import newest_days, said_ahead
    from streaming.training_log import Ahead

    settings = load_settings()
    with progress_bar("reading the topics", 1.0, console) as update:
        panel = newest_days(settings, days, spec, products, update)
    said = Ahead.of([*ahead.said(spec.step_ms), *said_ahead(settings, spec.step_ms)])
    since = said.known_from()
    if since:
        born = dict(zip(panel.product_ids, (panel.first_step + panel.born).tolist(), strict=True))
        late = sum(name in since and since[name] > first + 1 for name, first in born.items())
        console.print(
            f"facts of {sum(name in since for name in born):,} products; of {late:,} only from some time after their first sale on: what a compacted topic "
            "has forgotten is unknown, unless --facts tells it (trendcast export facts)"
        )
    return knowing(panel, spec, said, ahead)


def _train(
    run: "Run", name: str, spec: "FeatureSpec", recipe: "Recipe", held_back: int, country: str | None, console: "Console"
) -> dict[str, Any]:
    from models import panels
    from models.artefact import write
    from models.checkpoints import Checkpoints

    panel = panels.load(run.directory / "panel.npz")
    kept = Checkpoints(run.directory / "checkpoint", lambda line: console.print(line, markup=False))
    artefact = trained({SOURCE: panel}, spec, recipe, name, held_back, cleaning.policy([], None, None), {}, kept, console, country)
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


def _shadow(
    run: "Run", record: "Registry", name: str, artefact: str, sources: Sources, hours: int, deadline_s: float, console: "Console"
) -> dict[str, Any]:
    """What the registered version of an artefact and the model that serves were worth live; with `objections` to the promotion, or why it was left out."""
    from models import live
    from models.contenders import BASELINES
    from streaming.live_comparison import NotLive

    candidate = next(version for version in record.versions(name) if version.artefact == artefact)
    settings = load_settings()
    if not hours:
        return _left_out("--shadow-hours 0", console)
    if candidate.serving:
        return _left_out("it serves already", console)
    if record.judged(candidate, list(BASELINES)).objections:
        return _left_out("the backtest speaks against it", console)
    try:
        looked(settings)
    except UserError as error:
        if not (sources.logs or sources.exports):
            raise UserError(f"{error}. The same command goes on; with --shadow-hours 0 it does without a comparison in shadow") from error
        return _left_out(f"nothing is live: {error}", console)
    steps = -(-hours * 3_600_000 // settings.step_ms)
    try:
        standing = asyncio.run(_followed(run, steps, deadline_s, console))
    except NotLive as error:
        return _left_out(str(error), console)
    found = dict(zip(standing.names, (standing.challenger, standing.serving), strict=True))
    verdict = live.judge(standing.challenger, standing.serving, standing.names)
    rows = {label: one.row for label, one in found.items() if one is not None}
    if verdict.enough:
        columns = [column for column in rows[standing.names[0]] if column in rows[standing.names[1]]]
        print_table(f"live, {hours} hours in shadow", rows, columns, console)
    else:
        console.print(f"fewer than {live.FEWEST_OUTCOMES:,} outcomes, or no sales: the comparison in shadow says nothing")
    objections = [verdict.objection, *(f"{label}: {one}" for label, one in found.items())] if verdict.objection else []
    outcomes = standing.serving.outcomes if standing.serving is not None else 0
    return {"hours": hours, "outcomes": outcomes, "rows": rows if verdict.enough else {}, "objections": objections}


def _left_out(reason: str, console: "Console") -> dict[str, Any]:
    console.print(f"not compared in shadow: {reason}", markup=False)
    return {"left_out": reason}


async def _followed(run: "Run", steps: int, deadline_s: float, console: "Console") -> "Standing":
    from streaming.live_comparison import compare
    from streaming.operators import opened

    def show(standing: "Standing") -> None:
        run.moved()
        found = standing.challenger, standing.serving
        told = "; ".join(f"{label}: {one}" for label, one in zip(standing.names, found, strict=True) if one)
        console.print(f"in shadow: {standing.steps} of {steps} steps{'; ' * bool(told)}{told}", markup=False, highlight=False)

    settings = load_settings()
    async with opened(settings) as store:
        return await compare(settings, store, run.directory / "model", steps, run.directory / "shadow", deadline_s, show)


def _promote(record: "Registry", name: str, artefact: str, live: "Sequence[str]" = ()) -> dict[str, Any]:
    """Whether the registered version of an artefact serves now, and why not; what an earlier start had moved already stays moved.

    `live`: what speaks against it after the shadow. Raises UserError where it may serve, but the namespace's workers could not be told.
    """
    from models.contenders import BASELINES

    candidate = next(version for version in record.versions(name) if version.artefact == artefact)
    move = PointerMove.of(record, candidate)
    objections: list[str] = [] if candidate.serving else list(record.promote(candidate, list(BASELINES), live).objections)
    if not objections and not move.done:
        move.make(f"trendcast models promote {candidate.label}")
    return {"label": candidate.label, "promoted": not objections, "objections": objections, "files": str(record.files(candidate))}
