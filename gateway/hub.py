"""Who wants to hear of what: a set of changed keys per reader, never a queue, so that a slow one costs no memory and gets the newest values. Pure."""

from collections.abc import Callable, Iterable
from typing import Final

from gateway.view import Key, View


class Reader:
    """One open stream. It hears of every alert, of products with an alert that fires, and of the product it looks at."""

    __slots__ = ("_wake", "dirty", "merged", "product")

    def __init__(self, product: str | None, wake: Callable[[], object]) -> None:
        self.product = product
        self.dirty: dict[Key, None] = {}
        self.merged = 0  # changes that found their key waiting
        self._wake = wake

    def mark(self, key: Key) -> None:
        """The key has changed."""
        if key in self.dirty:
            self.merged += 1
        else:
            if not self.dirty:
                self._wake()
            self.dirty[key] = None

    def take(self) -> dict[Key, None]:
        """What has changed, in the order of first changes; nothing is waiting afterwards."""
        taken, self.dirty = self.dirty, {}
        return taken


class Hub:
    """All open streams of this process."""

    def __init__(self, view: View) -> None:
        self._view: Final = view
        self.readers: dict[Reader, None] = {}
        self._looking: dict[str, dict[Reader, None]] = {}  # product → who looks at it

    def add(self, reader: Reader) -> None:
        """From now on the reader hears of changes."""
        self.readers[reader] = None
        if reader.product is not None:
            self._looking.setdefault(reader.product, {})[reader] = None

    def remove(self, reader: Reader) -> None:
        """The reader is gone."""
        self.readers.pop(reader, None)
        if reader.product is not None:
            others = self._looking.get(reader.product, {})
            others.pop(reader, None)
            if not others:
                self._looking.pop(reader.product, None)

    def catch_up(self, reader: Reader, position: int) -> None:
        """Marks what changed since a position that the view still holds. Call it after `add`: a change in between is marked twice, never lost."""
        for key in self._view.since(position):
            if self._for_all(key) or key.id == reader.product:
                reader.mark(key)

    def tell(self, keys: Iterable[Key]) -> None:
        """These keys have changed."""
        for key in keys:
            if self._for_all(key):
                readers = self.readers
            elif (looking := self._looking.get(key.id)) is not None:
                readers = looking
            else:
                continue
            for reader in readers:
                reader.mark(key)

    def _for_all(self, key: Key) -> bool:
        return key.kind == "alert" or key.id in self._view.firing
