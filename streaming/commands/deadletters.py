"""`trendcast dead-letters list` and `show`: what was rejected, and why."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.commands import load_settings
from streaming.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text

    from streaming.deadletter_log import Letter, Listing

Json = Annotated[bool, typer.Option("--json", help="Print JSON; bytes in base64.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Records that were rejected, and why.", no_args_is_help=True)
    group.command("list")(list_letters)
    group.command()(show)
    app.add_typer(group, name="dead-letters", rich_help_panel="Operators")


def list_letters(
    reason: Annotated[str | None, typer.Option(help="Only of this class: not_json, missing_field, future, …")] = None,
    topic: Annotated[str | None, typer.Option(help="Only records of this topic.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only what was rejected since then: 30m, 2h, 7d ago, or 2026-01-05T12:00 (UTC).")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Show at most so many, the newest; all are counted.")] = 20,
    as_json: Json = False,
) -> None:
    """List rejected records, the newest first, and count them by class. A record that was rejected again by a restarted worker counts once."""
    from rich.console import Console

    from streaming import deadletter_log
    from streaming.operators import moment_ms
    from streaming.rejections import ErrorClass

    known = [name.value for name in ErrorClass]
    if reason is not None and reason not in known:
        raise typer.BadParameter(f"there is no class {reason!r}; choose from {', '.join(known)}", param_hint="--reason")
    settings, since_ms = load_settings(), None if since is None else moment_ms(since)

    def wanted(letter: "Letter") -> bool:
        return reason in (None, letter.error_class) and topic in (None, letter.source[0])

    with Console(stderr=True).status("reading dead letters …"):
        found = deadletter_log.listing(deadletter_log.read(settings, since_ms), wanted, limit)
    if as_json:
        document = {
            "counts": dict(found.counts),
            "repeated": found.repeated,
            "letters": [letter.as_json(whole=False) for letter in found.newest],
        }
        typer.echo(json.dumps(document, ensure_ascii=False))
    else:
        _show_listing(found)


def show(
    coordinates: Annotated[str, typer.Argument(metavar="TOPIC/PARTITION/OFFSET", help="Where the rejected record was, as `list` says.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the record's original value to standard output, byte for byte, and nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one rejected record: why, and its original key, headers and value. They may hold personal data."""
    from rich.console import Console

    from streaming import deadletter_log

    if raw and as_json:
        raise typer.BadParameter("choose one of --raw and --json")
    try:
        source = deadletter_log.parse_coordinates(coordinates)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="TOPIC/PARTITION/OFFSET") from error
    with Console(stderr=True).status("reading dead letters …"):
        letter = deadletter_log.find(deadletter_log.read(load_settings()), source)
    if letter is None:
        raise UserError(
            f"there is no dead letter of {coordinates}: it was not rejected, or too long ago; `trendcast dead-letters list` shows those that are kept"
        )
    if raw:
        sys.stdout.buffer.write(letter.value or b"")
    elif as_json:
        typer.echo(json.dumps(letter.as_json(whole=True), ensure_ascii=False))
    else:
        _show_letter(letter)


def _show_listing(found: "Listing") -> None:
    from rich.console import Console
    from rich.table import Table

    from streaming.operators import moment_text

    console = Console()
    if found.newest:
        table = Table(box=None, pad_edge=False)
        for column in ("rejected", "class", "record"):
            table.add_column(column, no_wrap=True)
        table.add_column("fault", overflow="fold")
        for letter in found.newest:
            fault = f"{letter.path}: {letter.message}"
            table.add_row(moment_text(letter.rejected_at_ms), *(_text(part) for part in (letter.error_class, letter.id, fault)))
        console.print(table)
        console.print()
    for name, n in sorted(found.counts.items(), key=lambda item: (-item[1], item[0])):
        console.print(_text(f"{n:>9,} {name}"))
    console.print(_text(f"{found.counts.total():>9,} in all" + (f"; {found.repeated:,} repetitions not counted" if found.repeated else "")))
    if found.foreign:
        console.print(_text(f"{found.foreign:,} records of the topic are no dead letters"))


def _text(content: str) -> "Text":
    """A cell that a terminal does not obey, whatever somebody wrote into a header."""
    from rich.text import Text

    from streaming.operators import printable

    return Text(printable(content.encode()))


def _show_letter(letter: "Letter") -> None:
    from streaming.operators import moment_text, printable

    def line(name: str, content: str | bytes | None) -> None:
        said = "none" if content is None else printable(content.encode() if isinstance(content, str) else content)
        typer.echo(f"{name:12} {said}")

    line("record", letter.id)
    line("sent", moment_text(letter.source_timestamp_ms))
    line("rejected", f"{moment_text(letter.rejected_at_ms)} by {letter.stage}")
    line("class", letter.error_class)
    line("fault", f"{letter.path}: {letter.message}")
    for name, n in letter.cut.items():
        line("cut off", f"{name}: {n:,} bytes, too large to be kept whole")
    line("key", letter.key)
    for name, value in letter.headers:
        line("header", name.encode() + b": " + (value or b""))
    line("value", letter.value)
