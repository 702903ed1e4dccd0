"""`trendcast up`, `down` and `status`: Kafka and Redis on this machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from simulator.embedded.standing import Standing

PANEL = "Kafka and Redis on this machine"

Json = Annotated[bool, typer.Option("--json", help='Print {"kafka": "host:port", "redis": "redis://…"}, null for what does not run.')]
Directory = Annotated[
    Path | None,
    typer.Option("--directory", help="Where their data lie; .trendcast in the checkout, or here, if not given.", file_okay=False),
]
PortOption = Annotated[
    int | None, typer.Option(min=1024, max=65535, help="Insist on this port; else the last one, the usual one, or any free one.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=PANEL)(up)
    app.command(rich_help_panel=PANEL)(down)
    app.command(rich_help_panel=PANEL)(status)


def up(directory: Directory = None, kafka_port: PortOption = None, redis_port: PortOption = None, as_json: Json = False) -> None:
    """Start Kafka and Redis, leave them running, print their addresses.

    Real ones, without Docker, root or Java, listening on 127.0.0.1 only. The first start downloads Kafka (45 MB). What runs already stays.
    """
    from simulator.embedded import standing

    ports = {name: port for name, port in (("kafka", kafka_port), ("redis", redis_port)) if port is not None}
    running = standing.up(_place(directory), ports=ports, progress=lambda line: typer.secho(line, dim=True, err=True))
    if as_json:
        typer.echo(_json(running))
        return
    addresses = {server.name: server.address for server in running}
    typer.echo(f"export TRENDCAST_KAFKA_BOOTSTRAP={addresses['kafka']}\nexport TRENDCAST_REDIS_URL={addresses['redis']}")


def down(directory: Directory = None) -> None:
    """Stop Kafka and Redis; their data stay for the next `up`."""
    from simulator.embedded import standing

    stopped = standing.down(_place(directory))
    typer.echo("stopped " + " and ".join(server.name for server in stopped) if stopped else "nothing was running")


def status(directory: Directory = None, as_json: Json = False) -> None:
    """Say whether Kafka and Redis run, and where. Exit status 1 if either does not."""
    from simulator.embedded import standing

    servers = standing.status(_place(directory))
    if as_json:
        typer.echo(_json(servers))
    else:
        for name in standing.NAMES:
            known = next((server for server in servers if server.name == name and server.server is not None), None)
            typer.echo(f"{name:6} {'running at ' + known.address if known else 'not running; `trendcast up` starts it'}")
    if sum(server.server is not None for server in servers) < len(standing.NAMES):
        raise typer.Exit(1)


def _place(directory: Path | None) -> Path:
    from simulator.embedded.cache import state_dir

    return directory or state_dir()


def _json(servers: "list[Standing]") -> str:
    addresses = {server.name: server.address for server in servers if server.server is not None}
    return json.dumps({name: addresses.get(name) for name in ("kafka", "redis")})
