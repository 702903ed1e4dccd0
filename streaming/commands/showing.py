"""What commands show of long work: how far it has come, and tables of models."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from streaming.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


def print_table(title: str, rows: dict[str, dict[str, float]], columns: Sequence[str], console: "Console") -> None:
    """Models by metrics, the best MWQL first."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for model, row in sorted(rows.items(), key=lambda item: item[1]["MWQL"]):
        table.add_row(model, *(f"{row[column]:.3f}" for column in columns))
    console.print(table)


@contextmanager
def progress_bar(title: str, total: float, console: "Console") -> Iterator[Any]:
    """A progress bar; yields the function that moves it to a value."""
    from rich.progress import Progress as Bars

    with Bars(console=console) as bars:
        task = bars.add_task(title, total=total)
        yield lambda completed: bars.update(task, completed=completed)


def need_plots() -> None:
    """Before minutes are spent on training."""
    from models.report import require

    try:
        require()
    except ImportError as error:
        raise UserError(str(error)) from error
