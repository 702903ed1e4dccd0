"""Kafka and Redis together, within a program."""

from pathlib import Path
from types import TracebackType
from typing import Self

from simulator.embedded.jars import Progress
from simulator.embedded.kafka import Kafka
from simulator.embedded.redis import Redis


class Stack:
    """Both servers in one directory, ended with the program that started them."""

    def __init__(self, directory: Path, *, persistence: bool = False, progress: Progress = lambda _: None) -> None:
        self.kafka = Kafka(directory / "kafka", progress=progress)
        self.redis = Redis(directory / "redis", persistence=persistence)

    def start(self) -> Self:
        """Start both; returns when both answer."""
        self.redis.start()
        try:
            self.kafka.start()
        except BaseException:
            self.redis.close()
            raise
        return self

    def close(self) -> None:
        """Stop both and give their ports back."""
        self.kafka.close()
        self.redis.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
