"""Which shard keeps a product: Kafka's own default partitioning, so that a shard is a partition of the doorbell topic."""

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

_MASK: Final = 0xFFFF_FFFF
_SEED: Final = 0x9747_B28C  # Kafka's
_MULTIPLIER: Final = 0x5BD1_E995

# Ids of the products of a very large shop, at about 200 bytes each; products repeat, junk ids must not fill the memory.
CACHED_IDS: Final = 1 << 20


def murmur2(data: bytes) -> int:
    """MurmurHash2 as `org.apache.kafka.common.utils.Utils.murmur2` computes it, as an unsigned 32-bit number.

    >>> hex(murmur2(b"21"))
    '0xc5f2f8ec'
    """
    n_whole = len(data) & ~3
    h = _SEED ^ len(data)
    for (k,) in struct.iter_unpack("<I", data[:n_whole]):
        k = k * _MULTIPLIER & _MASK
        k = (k ^ k >> 24) * _MULTIPLIER & _MASK
        h = h * _MULTIPLIER & _MASK ^ k
    if n_whole < len(data):
        h = (h ^ int.from_bytes(data[n_whole:], "little")) * _MULTIPLIER & _MASK
    h = (h ^ h >> 13) * _MULTIPLIER & _MASK
    return h ^ h >> 15


@lru_cache(maxsize=CACHED_IDS)
def partition_hash(product_id: str) -> int:
    """The positive 31-bit number that Kafka's default partitioner takes modulo the number of partitions."""
    return murmur2(product_id.encode()) & 0x7FFF_FFFF


def shard_of(product_id: str, shards: int) -> int:
    """The shard of one product.

    >>> shard_of("p000001", 32), shard_of("p000001", 1)
    (12, 0)
    """
    return partition_hash(product_id) % shards


def shards_of(product_ids: Iterable[str], shards: int) -> npt.NDArray[np.int64]:
    """The shard of each product, shape (n,).

    >>> shards_of(("p000001", "p000002"), 32).tolist()
    [12, 7]
    """
    return np.fromiter(map(partition_hash, product_ids), dtype=np.int64) % shards
