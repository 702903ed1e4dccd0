"""A real Apache Kafka and a real Redis without Docker, root or Java: for the demo, the tests and the benchmarks, on 127.0.0.1 only."""

from simulator.embedded.kafka import Kafka
from simulator.embedded.redis import Redis
from simulator.embedded.stack import Stack

__all__ = ["Kafka", "Redis", "Stack"]
