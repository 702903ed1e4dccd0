"""`trendcast models`: what models there are, and which one serves."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from streaming.commands import load_settings
from streaming.commands.recording import registry, registry_if_any
from streaming.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from feature_store.calls import ModelPointer
    from models.artefact import Artefact
    from models.registry import Registry, Verdict, Version
    from streaming.settings import Settings

_FEWEST_DIGITS: Final = 6  # of a version, to name it by
_STEPS: Final = {60_000: "minute", 3_600_000: "hour", 86_400_000: "day", 604_800_000: "week"}


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Models: on disk, registered, serving.", no_args_is_help=True)

    @group.callback()
    def models() -> None:
        pass

    group.command("list")(list_models)
    group.command("promote")(promote)
    group.command("rollback")(rollback)
    app.add_typer(group, name="models", rich_help_panel="Models")


def list_models(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where models lie; by default beside the one that serves.")
    ] = None,
) -> None:
    """List models on disk and registered ones: what they were measured at, which one TRENDCAST_MODEL_DIR names and which one was promoted."""
    from rich.console import Console

    from models.registry import NoRegistry

    serving = load_settings().model_dir.resolve()
    where = directory if directory is not None else serving.parent
    if not where.is_dir():
        raise UserError(f"there is no directory {where}")
    found = sorted(path.parent for path in [*where.glob("model.json"), *where.glob("*/model.json")])
    console = Console()
    errors = Console(stderr=True)
    record = registry_if_any(errors, make=False)
    try:
        versions = record.versions() if record is not None else []
    except NoRegistry as error:
        errors.print(str(error), markup=False)
        versions = []
    if not found and not versions:
        raise UserError(f"there is no model in {where}; train one with `trendcast train --out DIRECTORY`")
    if found:
        _print_found(found, serving, versions, console)
    if versions:
        _print_versions(versions, console)


def _print_found(found: list[Path], serving: Path, versions: "list[Version]", console: "Console") -> None:
    from rich.table import Table

    from models.artefact import UnusableArtefact, read

    labels = {version.artefact: version.label for version in versions}
    table = Table("", "directory", "name", "version", "registered", "step", "horizon", "streams", "MWQL (best simple forecast)")
    for path in found:
        mark = "serves" if path.resolve() == serving else ""
        try:
            model = read(path)
        except UnusableArtefact as error:
            table.add_row(mark, str(path), "unusable", error.reason)
            continue
        step = _STEPS.get(model.spec.step_ms, f"{model.spec.step_ms} ms")
        label = labels.get(model.version, "")
        streams = "\n".join(model.spec.streams)
        table.add_row(mark, str(path), model.name, model.version, label, step, str(model.horizon), streams, _measured(model))
    console.print(table)


def _print_versions(versions: "list[Version]", console: "Console") -> None:
    from rich.table import Table

    table = Table("alias", "registered", "version", "MWQL (best simple forecast)", title="registered", title_justify="left")
    for version in versions:
        lines = []
        for measured in version.backtests.values():
            own = measured.mwql(version.name)
            others = [row["MWQL"] for name, row in measured.rows.items() if name != version.name]
            if own is not None and others:
                lines.append(f"{measured.source} {own:.3f} ({min(others):.3f})")
        table.add_row("serving" if version.serving else "", version.label, version.artefact, "\n".join(lines) or "not measured")
    console.print(table)


def promote(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A directory, NAME/NUMBER, or the version's hexadecimal digits.")],
) -> None:
    """Let a model serve, if it beats the one that serves and the simple forecasts on the same bench; running workers take it over."""
    from rich.console import Console

    from models.contenders import BASELINES
    from models.registry import NoRegistry, NotPromoted

    record = registry()
    try:
        candidate = _candidate(record, model)
        move = PointerMove.of(record, candidate)
        if candidate.serving and move.done:
            raise NotPromoted(f"{candidate.label} serves already")
        if not candidate.serving:
            verdict = record.promote(candidate, list(BASELINES))
            _print_verdict(verdict, Console())
            if verdict.objections:
                raise UserError(f"{candidate.label} is not promoted:\n" + "\n".join(f"  {line}" for line in verdict.objections))
        typer.echo(f"{candidate.label} ({candidate.artefact}) serves, by the registry; its files: {record.files(candidate)}")
        move.make(f"trendcast models promote {candidate.label}")
    except (NoRegistry, NotPromoted) as error:
        raise UserError(str(error)) from error


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name, as in NAME/NUMBER.")] = "lstm",
) -> None:
    """Let the version serve that served before the present one; running workers take it over."""
    from models.registry import NoRegistry, NotPromoted

    record = registry()
    try:
        before, target = record.serving(name), record.before(name)
        move = PointerMove.of(record, target)
        now = record.rollback(name)
        away = f" instead of {before.label}" if before is not None else ""
        typer.echo(f"{now.label} ({now.artefact}) serves again{away}, by the registry; its files: {record.files(now)}")
        move.make(f"trendcast models promote {now.label}")
    except (NoRegistry, NotPromoted) as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True)
class PointerMove:
    """What is to become of the namespace's pointer, which its workers follow."""

    settings: "Settings"
    pointer: "ModelPointer"
    obstacle: str | None  # why it cannot be moved; the registry's alias can
    done: bool  # it points there already

    @classmethod
    def of(cls, record: "Registry", version: "Version") -> "PointerMove":
        """Raises UserError where the namespace's features are not the model's: nothing may be moved then."""
        from dataclasses import replace

        from feature_store.calls import ModelPointer
        from models.artefact import UnusableArtefact, read

        settings = load_settings()
        try:
            spec = replace(read(record.files(version)).spec, timezone=settings.timezone)
        except UnusableArtefact as error:
            raise UserError(str(error)) from error
        pointer = ModelPointer(version.name, version.artefact, version.label, record.source(version))
        try:
            held, now = looked(settings)
        except UserError as error:
            return cls(settings, pointer, str(error), done=False)
        if spec.step_ms != settings.step_ms or held not in (None, spec.hash):
            raise UserError(
                f"{version.label} cannot serve namespace {settings.namespace!r}: its features are of specification {spec.hash} (steps of {spec.step_ms} ms), "
                f"those of the namespace {held} ({settings.step_ms} ms). Nothing was moved. Replay into another TRENDCAST_NAMESPACE to serve it"
            )
        return cls(settings, pointer, None, done=now == pointer)

    def make(self, again: str) -> None:
        """Move the pointer. Raises UserError that says that it was not, and how to do that later."""
        obstacle = self.obstacle
        if obstacle is None:
            try:
                asyncio.run(_pointed(self.settings, self.pointer))
            except UserError as error:
                obstacle = str(error)
        if obstacle is not None:
            raise UserError(
                f"the registry's alias has moved to {self.pointer.label}, the workers' pointer has not: they go on with the model that they serve. "
                f"{obstacle}. Then run `{again}`, which moves the pointer alone"
            )
        typer.echo(
            f"workers of namespace {self.settings.namespace!r} take it over; trendcast_forecast_takeover_progress_ratio is 1 when they have"
        )


def looked(settings: "Settings") -> "tuple[str | None, ModelPointer | None]":
    """The features that the namespace keeps, and the model that was promoted there. Raises UserError where there is no such namespace to be seen."""
    from streaming.operators import opened

    async def look() -> "tuple[str | None, ModelPointer | None]":
        async with opened(settings) as store:
            return await store.features_in_use(), await store.model()

    return asyncio.run(look())


async def _pointed(settings: "Settings", pointer: "ModelPointer") -> None:
    from streaming.operators import opened

    async with opened(settings) as store:
        await store.point_at(pointer)


def _candidate(record: "Registry", model: str) -> "Version":
    """The version that a directory, a label or hexadecimal digits name; a directory's model is registered if it is not yet."""
    from models.artefact import UnusableArtefact, read
    from models.registry import backtests_of

    if Path(model).is_dir():
        try:
            artefact = read(Path(model))
        except UnusableArtefact as error:
            raise UserError(str(error)) from error
        known = [version for version in record.versions(artefact.name) if version.artefact == artefact.version]
        if known:
            return known[0]
        backtests = backtests_of(artefact)
        return record.add_backtests(record.register(artefact, record.record("import", artefact, backtests)), backtests)
    return registered(record, model)


def registered(record: "Registry", model: str) -> "Version":
    """The version that a label or hexadecimal digits name. Raises UserError where there is none, or more than one."""
    versions = record.versions()
    found = [version for version in versions if version.label == model] or [
        version for version in versions if len(model) >= _FEWEST_DIGITS and version.artefact.startswith(model)
    ]
    if len(found) != 1:
        raise UserError(f"{model} is neither a model's directory nor one registered version; `trendcast models list` shows them")
    return found[0]


def _print_verdict(verdict: "Verdict", console: "Console") -> None:
    from rich.table import Table

    names = list(dict.fromkeys(name for line in verdict.table.values() for name in line))
    table = Table("MWQL on", *names)
    for bench, line in verdict.table.items():
        table.add_row(bench, *(f"{line[name]:.4f}" if name in line else "–" for name in names))
    if verdict.table:
        console.print(table)


def _measured(model: "Artefact") -> str:
    """`source 0.812 (0.990)` for each backtest in the artefact, one a line."""
    parts = []
    for source, rows in model.backtest.items():
        found = {name: row["MWQL"] for name, row in rows.items() if "MWQL" in row}
        others = [value for name, value in found.items() if name != model.name]
        if model.name in found and others:
            parts.append(f"{source} {found[model.name]:.3f} ({min(others):.3f})")
    return "\n".join(parts) or "not measured"
