"""`trendcast fit-nowcast`: what a running step says, learned anew for a model that is trained already."""

from pathlib import Path
from typing import Annotated

import typer

from streaming.commands.sources import Exports, Logs, Products, Simulate, Sources, panels_of
from streaming.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fit-nowcast", rich_help_panel="Models")(fit_nowcast)


def fit_nowcast(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the model; weights and all else stay as they are.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Directory for the model with its new rule; DIR itself replaces it.")],
    log: Logs = None,
    simulate: Simulate = 0,
    export: Exports = None,
    products: Products = 800,
    newest: Annotated[int, typer.Option(min=2, help="Newest days to look at; best are those that the model was not trained on.")] = 14,
) -> None:
    """Fit how the running step's observed part moves a forecast, and a day's hours, on a log whose times are known.

    `trendcast train` does this already. Of use after a training on exported steps, which hold no times within a step, for a model of an earlier
    version of this program, and where a shop's days have changed. The result has another version.
    """
    from dataclasses import replace

    from rich.console import Console

    from models.artefact import UnusableArtefact, read, write
    from models.seasons import DAY_MS

    sources = Sources(log or (), simulate, export or ())
    sources.check(())
    try:
        model = read(directory)
    except UnusableArtefact as error:
        raise UserError(str(error)) from error
    if model.spec.covariates:
        raise UserError(f"{model.name} knows {', '.join(model.spec.covariates)} ahead, which a log does not tell: train it anew")
    console = Console(stderr=True)
    panels, _ = panels_of(sources, model.spec, products, 1, console)
    unknown = [name for name, panel in panels.items() if panel.parts is None]
    if unknown:
        raise UserError(f"{', '.join(unknown)} tells nothing of times within a step: give a log, or an export of shorter steps")
    console.print("loading TensorFlow …")
    from models import fit_nowcast as fitting

    model = replace(model, pace=fitting.fit_pace(list(panels.values()), model.spec.step_ms))
    rule = fitting.fit_nowcast(model, panels.values(), newest * DAY_MS // model.spec.step_ms)
    model = replace(model, nowcast=rule)
    write(model, out)
    console.print(f"{rule}\n{model.name} {model.version} written to {out}", markup=False)
