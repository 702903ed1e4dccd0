"""`trendcast models`: what models there are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from streaming.commands import load_settings
from streaming.errors import UserError

if TYPE_CHECKING:
    from models.artefact import Artefact

_STEPS: Final = {60_000: "minute", 3_600_000: "hour", 86_400_000: "day", 604_800_000: "week"}


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Models on disk.", no_args_is_help=True)

    @group.callback()
    def models() -> None:
        pass

    group.command("list")(list_models)
    app.add_typer(group, name="models", rich_help_panel="Models")


def list_models(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where models lie; by default beside the one that serves.")
    ] = None,
) -> None:
    """List models: version, step, horizon, what they were measured at, and which one TRENDCAST_MODEL_DIR serves."""
    from rich.console import Console
    from rich.table import Table

    from models.artefact import UnusableArtefact, read

    serving = load_settings().model_dir.resolve()
    where = directory if directory is not None else serving.parent
    if not where.is_dir():
        raise UserError(f"there is no directory {where}")
    found = sorted(path.parent for path in [*where.glob("model.json"), *where.glob("*/model.json")])
    if not found:
        raise UserError(f"there is no model in {where}; train one with `trendcast train --out DIRECTORY`")
    table = Table("", "directory", "name", "version", "step", "horizon", "streams", "MWQL (best simple forecast)")
    for path in found:
        mark = "serves" if path.resolve() == serving else ""
        try:
            model = read(path)
        except UnusableArtefact as error:
            table.add_row(mark, str(path), "unusable", error.reason)
            continue
        step = _STEPS.get(model.spec.step_ms, f"{model.spec.step_ms} ms")
        table.add_row(mark, str(path), model.name, model.version, step, str(model.horizon), "\n".join(model.spec.streams), _measured(model))
    Console().print(table)


def _measured(model: "Artefact") -> str:
    """`source 0.812 (0.990)` for each backtest in the artefact, one a line."""
    parts = []
    for source, rows in model.backtest.items():
        found = {name: row["MWQL"] for name, row in rows.items() if "MWQL" in row}
        others = [value for name, value in found.items() if name != model.name]
        if model.name in found and others:
            parts.append(f"{source} {found[model.name]:.3f} ({min(others):.3f})")
    return "\n".join(parts) or "not measured"
