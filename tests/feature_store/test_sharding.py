from aiokafka.partitioner import murmur2 as kafka_murmur2
from hypothesis import example, given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as other_murmur2

from feature_store.sharding import murmur2, shard_of, shards_of


@given(st.binary(max_size=140))
@example(b"")
def test_hash_is_kafkas(data: bytes) -> None:
    assert murmur2(data) == kafka_murmur2(data) == other_murmur2(data)


@given(st.lists(st.text(max_size=128)), st.integers(1, 1024))
def test_shard_is_the_partition_that_kafka_would_choose(product_ids: list[str], shards: int) -> None:
    chosen = [(kafka_murmur2(name.encode()) & 0x7FFFFFFF) % shards for name in product_ids]
    assert [shard_of(name, shards) for name in product_ids] == chosen
    assert shards_of(product_ids, shards).tolist() == chosen


def test_java_vectors() -> None:
    """From Kafka's own UtilsTest."""
    vectors = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    assert {data: murmur2(data) - (murmur2(data) >> 31 << 32) for data in vectors} == vectors


def test_shards_are_about_equally_full() -> None:
    per_shard = [0] * 32
    for shard in shards_of((f"p{i:06d}" for i in range(10_000)), 32).tolist():
        per_shard[shard] += 1
    assert min(per_shard) > 200
    assert max(per_shard) < 450
