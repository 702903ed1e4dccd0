"""`trendcast replay FILE`: a real log of orders or clicks, sent to Kafka in its own time."""

from pathlib import Path
from typing import Annotated

import typer

from streaming.commands import load_settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Producers")(replay)


def replay(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Online Retail (UCI): .xlsx, .csv, .parquet. User Behavior (Taobao): .csv, .parquet.")
    ],
    clicks: Annotated[
        float, typer.Option(min=0, help="Synthetic clicks for logs without any, as a multiple of Taobao's ratios; 0: none.")
    ] = 1.0,
    by: Annotated[str, typer.Option(help="Taobao: whether its items or its categories are the products.")] = "item",
    speed: Annotated[float | None, typer.Option(min=0.001, help="Logged time per real time; as fast as it goes by default.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Leave out what is before (ISO 8601, UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Leave out what is from then on (ISO 8601, UTC).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the synthetic clicks.")] = 0,
    truth: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for the truth: expected sums and counts.")] = None,
    compression: Annotated[str, typer.Option(help="none, lz4, gzip, snappy or zstd")] = "lz4",
) -> None:
    """Send a real log's orders and clicks; heartbeats at its end close its last step (workers with TRENDCAST_CLOCK=log).

    Invoices become orders, cancelled invoices cancellations. Lines that the order contract cannot say are left out, and counted by reason. Clicks that
    are made up are called synthetic in the summary.
    """
    import asyncio

    from simulator.producer import Producer, TopicNames, compression_type
    from simulator.replay import ANY_MS, load
    from simulator.session import Leg, chunk_ms, describe, parse_moment, run, summarise, user_console
    from simulator.truth import Rules

    settings = load_settings()
    console = user_console()
    with console.status(f"reading {file.name} …"):
        source = load(
            file,
            click_scale=clicks,
            by=by,
            seed=seed,
            start_ms=0 if since is None else parse_moment(since),
            end_ms=ANY_MS if until is None else parse_moment(until),
            rules=Rules.of(settings),
        )
    describe(source.notes(), console)

    async def go() -> None:
        async with Producer(
            settings.kafka_bootstrap,
            TopicNames(settings.orders_topic, settings.clickstream_topic, settings.facts_topic, settings.context_topic),
            compression=compression_type(compression),
        ) as producer:
            feed = source.feed(partitions=await producer.partitions())
            expected = feed.truth()
            expected.notes.update(source.notes())
            chunks = source.chunks(feed) if speed is None else source.chunks(feed, chunk_ms(speed))
            await run([Leg(file.name, chunks, source.start_ms, source.last_step_end_ms, speed)], producer, expected, console)
            summarise(expected, console, truth)

    asyncio.run(go())
