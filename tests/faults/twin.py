"""`trendcast` as a member of other consumer groups: Kafka gives it the partitions that another worker of the namespace has already."""

from streaming.cli import main
from streaming.settings import Settings


def _twin_group(self: Settings, worker: str) -> str:
    return f"{self.namespace}-twin-{worker}"


if __name__ == "__main__":
    Settings.group = _twin_group  # type: ignore[method-assign]
    main()
