"""`trendcast simulate`: a shop with known truth, sent to Kafka."""

from pathlib import Path
from typing import Annotated

import typer

from streaming.commands import load_settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Producers")(simulate)


def simulate(
    history: Annotated[float, typer.Option(min=0, help="Simulated days that are sent first, as fast as they go.")] = 28.0,
    live: Annotated[float, typer.Option(min=0, help="Simulated hours that follow, at --speed.")] = 0.0,
    forever: Annotated[bool, typer.Option("--forever", help="Go on at --speed until Ctrl-C.")] = False,
    speed: Annotated[float, typer.Option(min=0.001, help="Simulated time per real time of what follows the history.")] = 480.0,
    start: Annotated[str, typer.Option(help="When the history starts (ISO 8601, UTC); `now`: so that it ends now.")] = "2026-01-05",
    products: Annotated[int, typer.Option(min=1, max=1_000_000, help="Products of the shop.")] = 1_000,
    lines_per_hour: Annotated[
        float, typer.Option(min=0, help="Order lines an hour of the whole shop; there are about 7 clicks to each.")
    ] = 1_000.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same records.")] = 0,
    clean: Annotated[
        bool, typer.Option("--clean", help="Nothing late, out of order, duplicated, malformed, expired or from the future.")
    ] = False,
    truth: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for the truth: expected sums, counts, injected trends.")
    ] = None,
    compression: Annotated[str, typer.Option(help="none, lz4, gzip, snappy or zstd")] = "lz4",
) -> None:
    """Send a simulated shop's orders and clicks: history at full speed, then live. Where topics of them are named, what it knows ahead, too.

    Prints what a consumer must count and reject of it. Topics and brokers come from the settings (TRENDCAST_…).
    """
    import asyncio

    from simulator.demand import ShopConfig, speaking
    from simulator.dirt import Dirt
    from simulator.events import DAY_MS, HOUR_MS
    from simulator.producer import Producer, TopicNames, compression_type
    from simulator.session import legs, parse_moment, run, summarise, user_console
    from simulator.shop import Shop
    from simulator.truth import Rules

    settings = load_settings()
    history_ms = int(history * DAY_MS)
    start_ms = parse_moment(start) - (history_ms if start == "now" else 0)
    live_ms = start_ms + history_ms
    end_ms = None if forever else live_ms + int(live * HOUR_MS)
    config = ShopConfig(
        products=products, lines_per_hour=lines_per_hour, opened_ms=start_ms, timezone=settings.timezone, currency=settings.currency
    )
    if settings.ahead_topics:
        config = speaking(config)
    shop = Shop(config, seed, dirt=Dirt.none() if clean else Dirt(), rules=Rules.of(settings))
    topics = TopicNames(settings.orders_topic, settings.clickstream_topic, settings.facts_topic, settings.context_topic)
    console = user_console()

    async def go() -> None:
        async with Producer(settings.kafka_bootstrap, topics, compression=compression_type(compression)) as producer:
            feed = shop.feed(start_ms, partitions=await producer.partitions())
            expected = feed.truth()
            await run(legs(feed, live_ms, end_ms, speed), producer, expected, console)
            expected.notes.update(shop.notes(start_ms, max(expected.until_ms, start_ms)))
            summarise(expected, console, truth)

    asyncio.run(go())
