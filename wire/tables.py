"""Numbered tables that both ends of a session share, so that what repeats is sent once.

The sender decides what stands in which slot and may overwrite one at any time; the receiver stores
what it is told. There is nothing to agree on but the size, which WELCOME states.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from wire.errors import Code, RemoteProtocolError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SenderTable(Generic[K]):
    """The sender's end: which key stands in which slot. The least recently used one makes room."""

    __slots__ = ("_last", "_last_slot", "_slots", "size")

    def __init__(self, size: int) -> None:
        """Begin empty, as every session does."""
        assert size > 0
        self.size = size
        self._slots: OrderedDict[K, int] = OrderedDict()
        # The most recently used, which is often asked for again.
        self._last: K | None = None
        self._last_slot = 0

    def find(self, key: K) -> int | None:
        """Return the slot of *key* and mark it as used; None when the receiver lacks it."""
        if key is self._last:
            return self._last_slot
        slot = self._slots.get(key)
        if slot is not None:
            self._slots.move_to_end(key)
            self._last, self._last_slot = key, slot
        return slot

    def add(self, key: K) -> int:
        """Return the slot that *key*, which is not in the table, takes now."""
        assert key not in self._slots
        if len(self._slots) < self.size:
            slot = len(self._slots)
        else:
            _, slot = self._slots.popitem(last=False)
        self._slots[key] = slot
        self._last, self._last_slot = key, slot
        return slot

    def __contains__(self, key: K) -> bool:
        """Tell without marking."""
        return key in self._slots

    def __len__(self) -> int:
        """Count the slots in use."""
        return len(self._slots)


class ReceiverTable(Generic[V]):
    """The receiver's end: what stands in each slot."""

    __slots__ = ("_entries", "size")

    def __init__(self, size: int) -> None:
        """Begin empty, as every session does."""
        self.size = size
        self._entries: dict[int, V] = {}

    def put(self, slot: int, value: V) -> None:
        """Store *value*; raise when the slot is outside the table."""
        if not 0 <= slot < self.size:
            raise RemoteProtocolError(
                Code.TABLE_OVERFLOW, f"slot {slot} is outside a table of {self.size}", fatal=True
            )
        self._entries[slot] = value

    def get(self, slot: int) -> V | None:
        """Return what stands in *slot*, or None."""
        return self._entries.get(slot)

    def values(self) -> list[V]:
        """Return what stands in the table now."""
        return list(self._entries.values())

    def __len__(self) -> int:
        """Count the slots in use."""
        return len(self._entries)
