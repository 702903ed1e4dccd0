"""`trendcast topics create`."""

import typer

from streaming.commands import load_settings
from streaming.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    topics = typer.Typer(help="The topics of Kafka: create them, or say what differs.", no_args_is_help=True)
    topics.command()(create)
    app.add_typer(topics, name="topics", rich_help_panel="Set-up")


def create() -> None:
    """Create the topics that are missing, with their settings, and say how existing ones differ. Exit status 1 if any does.

    Existing topics are never changed: what to do about a difference is yours to decide.
    """
    from streaming import topics

    settings = load_settings()
    created = topics.create(settings)
    for spec in topics.plan(settings):
        typer.echo(f"{spec.name}: {f'created, {spec.partitions} partitions' if spec.name in created else 'exists'}")
    if wrong := topics.differences(settings):
        advice = (
            "change them with Kafka's own tools (kafka-configs.sh --alter), or take other topics (TRENDCAST_..._TOPIC, TRENDCAST_NAMESPACE)"
        )
        raise UserError("\n".join(["these topics are not as they should be:", *(f"  {difference}" for difference in wrong), advice]))
