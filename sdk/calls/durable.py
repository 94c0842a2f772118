"""Which durable calls does the broker's journal have? A part of the client's core.

The rule that must not be broken: a call that was accepted is the journal's, so it is never sent
again, unless it has a key by which the broker tells that it is the same one.
"""

from collections.abc import Mapping
from typing import Final

from sdk.calls.call import Owned, Plan
from wire.messages import Attach
from wire.parts import Call, Key, Span

# Of the numbers that stand for another task: there is nothing to be sent but ATTACH. What is
# submitted again is the journal's once it is accepted.
ATTACHING: Final = Plan(Call(""))
REDRIVING: Final = Plan(Call("", durable=True))


class Durable:
    """The durable calls of one client that have no outcome."""

    __slots__ = ("attached", "held", "keys", "left", "open")

    def __init__(self) -> None:
        """Begin with none."""
        # Those that the journal does not have yet, in their order.
        self.open: dict[int, Owned] = {}
        self.keys: dict[int, Key] = {}
        # Number -> what says for which task it stands.
        self.attached: dict[int, Attach] = {}
        # Of a client that leaves: what it has no outcome of, and still lists in HELLO.
        self.left: list[int] = []
        # How many frames it had received then: it acknowledges no more.
        self.held: int | None = None

    def begin(self, owned: Owned, key: Key | None) -> None:
        """Take a call that was submitted now."""
        self.open[owned.number] = owned
        if key is not None:
            self.keys[owned.number] = key

    def accepted(self, tasks: list[Span]) -> None:
        """Hear that the journal has these."""
        for first, last in tasks:
            if last - first < len(self.open):
                numbers = [n for n in range(first, last + 1) if n in self.open]
            else:
                numbers = [n for n in self.open if first <= n <= last]
            for number in numbers:
                owned = self.open.pop(number)
                if number not in self.keys:
                    owned.body, owned.frames = b"", ()

    def stand_for(self, target: Attach) -> Plan:
        """Let a number stand for *target*; return the plan of what is sent for it."""
        self.attached[target.task] = target
        return REDRIVING if target.redrive else ATTACHING

    def has_all(self, upto: int) -> bool:
        """Tell whether the journal has every call up to this number."""
        return next(iter(self.open), upto + 1) > upto

    def goes_on(self, owned: Owned | None) -> bool:
        """Tell whether a task is the journal's, and goes on without this client."""
        if owned is None or owned.plan is ATTACHING:
            return owned is not None
        return owned.plan.is_durable and owned.number not in self.open

    def is_lost(self, owned: Owned) -> bool:
        """Tell whether a call that the broker lacks must not be sent again."""
        number = owned.number
        return owned.plan.is_durable and number not in self.open and number not in self.keys

    def hold(self, received: int) -> None:
        """Acknowledge no more outcomes: those of durable tasks are for who comes next."""
        if self.held is None:
            self.held = received

    def reopened(self) -> None:
        """Count from 0 in a new session."""
        self.held = None if self.held is None else 0

    def leave(self, calls: Mapping[int, Owned], received: int) -> None:
        """Remember which outcomes never came, so that nobody takes them for received."""
        self.hold(received)
        self.left += [number for number, owned in calls.items() if owned.plan.is_durable]

    def forget(self, number: int) -> None:
        """Forget a call that has its outcome, or that nobody wants."""
        self.open.pop(number, None)
        self.keys.pop(number, None)
        self.attached.pop(number, None)

    def clear(self) -> None:
        """Forget all."""
        self.open.clear()
        self.keys.clear()
        self.attached.clear()


def name_of(target: Attach | None, own: int) -> str:
    """Name a task for a question: by its whole name, or by a number of this client's own."""
    if target is None or target.redrive:
        return str(own)
    return f"{target.client:016x}-{target.number}"
