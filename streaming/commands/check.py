"""`trendcast check`: what is wrong with connections, versions, permissions and settings, and what to do."""

from collections.abc import Callable, Iterator
from typing import Final

import typer

from streaming.commands import load_settings
from streaming.errors import UserError
from streaming.settings import Settings

OLDEST_KAFKA: Final = (2, 8)  # topic ids
OLDEST_REDIS: Final = (6, 2)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Set-up")(check)


def check() -> None:
    """Look at the settings, Kafka, the topics, Redis and the model; say what is wrong and what to do. Changes nothing.

    Exit status 1 if anything is wrong.
    """
    settings = load_settings()
    failed = False
    for what, problems in results(settings):
        failed |= bool(problems)
        mark = typer.style("wrong", fg=typer.colors.RED) if problems else typer.style("ok   ", fg=typer.colors.GREEN)
        typer.echo(f"{mark} {what}")
        for problem in problems:
            typer.echo(f"      {problem}")
    if failed:
        raise typer.Exit(1)


def results(settings: Settings) -> Iterator[tuple[str, list[str]]]:
    """Each check: what was looked at, and what is wrong with it (nothing: all is well)."""
    yield "settings", []
    checks: list[tuple[str, Callable[[Settings], list[str]]]] = [
        (f"Kafka at {settings.kafka_bootstrap}", _kafka),
        ("topics", _topics),
        (f"Redis at {settings.redis_address}", _redis),
        (f"model in {settings.model_dir}", _model),
    ]
    kafka_answers = True
    for what, look in checks:
        if look is _topics and not kafka_answers:
            continue
        try:
            problems = look(settings)
        except UserError as error:
            problems = str(error).splitlines()
            kafka_answers &= look is not _kafka
        yield what, problems


def _kafka(settings: Settings) -> list[str]:
    from streaming import topics

    version = topics.broker_version(settings.kafka_bootstrap)
    if version < OLDEST_KAFKA:
        return [f"version {_dotted(version)} is too old: {_dotted(OLDEST_KAFKA)} or newer is needed (topic ids)"]
    return []


def _topics(settings: Settings) -> list[str]:
    from streaming import topics

    differences = [f"{difference}" for difference in topics.differences(settings)]
    advice = (
        ["`trendcast topics create` makes missing ones; change settings of existing ones with Kafka's own tools"] if differences else []
    )
    denied = [
        f"no permission: {missing}; ask for an access control list that allows it" for missing in topics.missing_permissions(settings)
    ]
    return differences + advice + denied


def _redis(settings: Settings) -> list[str]:
    import redis

    problems = []
    try:
        with redis.Redis.from_url(settings.redis, socket_timeout=10, socket_connect_timeout=5) as client:
            server = client.info("server")
            version = tuple(int(part) for part in str(server["redis_version"]).split(".")[:2])
            if version < OLDEST_REDIS:
                problems.append(f"version {_dotted(version)} is too old: {_dotted(OLDEST_REDIS)} or newer is needed")
            policy = client.info("memory").get("maxmemory_policy", "unknown")
            if policy != "noeviction":
                problems.append(f"it evicts keys (maxmemory-policy {policy}), which would lose sums: set maxmemory-policy noeviction")
            # What the store does everywhere: a script that writes; it leaves nothing behind.
            probe = f"trendcast:{settings.namespace}:check"
            client.eval("redis.call('set', KEYS[1], '1', 'px', 1000) return redis.call('del', KEYS[1])", 1, probe)
    except redis.exceptions.AuthenticationError as error:
        problems.append(f"it refuses the user or password ({error}); see TRENDCAST_REDIS_URL")
    except redis.exceptions.ResponseError as error:
        problems.append(f"it does not let us run a script that writes keys trendcast:*: {error}")
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        problems.append(
            f"it does not answer ({error}); is it running, and is TRENDCAST_REDIS_URL right? (`trendcast up` starts one on this machine)"
        )
    except ValueError as error:
        problems.append(f"TRENDCAST_REDIS_URL: {error}")
    return problems


def _model(settings: Settings) -> list[str]:
    folder = settings.model_dir
    try:
        held = sorted(folder.iterdir())
        for path in held:
            path.open("rb").close()
    except FileNotFoundError:
        return ["there is no such folder; set TRENDCAST_MODEL_DIR (`trendcast models list` names the models, `trendcast train` makes one)"]
    except OSError as error:
        return [f"cannot be read: {error.strerror} ({error.filename})"]
    return [] if held else ["the folder is empty"]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
