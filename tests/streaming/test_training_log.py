"""What training sees of a log is what ingest would have counted: the simulator's truth."""

import numpy as np
import pandas as pd

from feature_store.measures import MEASURES, natural
from feature_store.tiles import Grid
from simulator.demand import ShopConfig
from simulator.dirt import Dirt
from simulator.feed import Partitions
from simulator.shop import Shop
from streaming.training_log import cells

HOUR_MS = 3_600_000


def test_the_sums_of_a_simulated_log_are_its_truth() -> None:
    config = ShopConfig(products=40, lines_per_hour=80.0)
    shop = Shop(config, 3, dirt=Dirt.none())
    feed = shop.feed(config.opened_ms, partitions=Partitions(3, 2))
    truth = feed.truth()
    chunks = []
    for chunk in feed.chunks(config.opened_ms + 30 * HOUR_MS):
        truth.add(chunk.increment)
        chunks.append(chunk)
    seen: list[int] = []
    parts = list(cells(chunks, shop.rules, Grid(HOUR_MS // 12, HOUR_MS), HOUR_MS // 4, seen.append))
    assert seen == [chunk.end_ms for chunk in chunks]
    assert {part * HOUR_MS // 4 // HOUR_MS for piece in parts for part in piece.part.tolist()} <= set(
        range(config.opened_ms // HOUR_MS, chunks[-1].end_ms // HOUR_MS)
    )
    frames = [
        pd.DataFrame(natural(part.measures), columns=list(MEASURES)).assign(product_id=np.array(part.product_ids, object)[part.product])
        for part in parts
    ]
    found = pd.concat(frames).groupby("product_id")[list(MEASURES)].sum()
    expected = truth.sums().set_index("product_id").loc[found.index, list(MEASURES)]
    assert np.allclose(found.to_numpy(), expected.to_numpy())
