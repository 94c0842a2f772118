"""What is free of an actor's slots, while it is counted who has them or waits for them.

Those that share the slot of a replica count once, however many they are (protocol.md section 9.2).
The rule that must not be broken: nobody shares while somebody ahead of them waits for a slot.
"""

from typing import TYPE_CHECKING, Final

from actor.settings import SLOT

if TYPE_CHECKING:
    from actor.holding.mailbox import Assignment
    from wire.parts import Token

ONE_SLOT: Final[dict[str, int]] = {SLOT: 1}


class Room:
    """Slots of each type, below 0 where more is wanted than there is."""

    __slots__ = ("free", "shared")

    def __init__(self, capacity: dict[str, int]) -> None:
        """Begin with all of them."""
        self.free = dict(capacity)
        # The environments whose replica has its slot already.
        self.shared: dict[str, None] = {}

    @property
    def is_full(self) -> bool:
        """Tell whether nobody finds a plain slot here."""
        free = self.free[SLOT]
        return free < 0 or (free == 0 and not self.shared)

    def covers(self, slots: dict[str, int], replica: str | None) -> bool:
        """Tell whether *slots* are free, or the one of the *replica* that shares its own."""
        if replica in self.shared and self.free[SLOT] >= 0:
            return True
        return covers(self.free, slots)

    def take(self, slots: dict[str, int], replica: str | None) -> None:
        """Count *slots* off; those of a *replica* once."""
        if replica is None:
            take(self.free, slots)
        elif replica not in self.shared and slots.get(SLOT):
            self.shared[replica] = None
            take(self.free, slots)

    def close(self) -> None:
        """Let nobody share any more."""
        self.shared.clear()


def covers(free: dict[str, int], slots: dict[str, int]) -> bool:
    """Tell whether *slots* are free."""
    return all(free.get(kind, 0) >= amount for kind, amount in slots.items())


def take(free: dict[str, int], slots: dict[str, int]) -> None:
    """Count *slots* off *free*."""
    for kind, amount in slots.items():
        free[kind] = free.get(kind, 0) - amount


def has_one_each(holders: "dict[Token, Assignment]") -> bool:
    """Tell whether each of *holders* has one plain slot of its own, and nothing else."""
    for holder in holders.values():
        if holder.slots is not ONE_SLOT or holder.recipe.replica is not None:
            return False
    return True
