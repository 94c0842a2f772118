"""What all processes around the real cores have: a turn, an inbox, a connection; no socket.

Each takes turns as its loop does: hear what arrived, let the core decide, send. A frozen one hears
nothing and later everything at once.
"""

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any

from tests.sim import sessions
from tests.sim.network import Message, Wire, packed
from wire.codec import encode

if TYPE_CHECKING:
    from tests.sim.world import World

# How long a slow process rests after a turn.
REST_S = 0.5


class Process:
    """What all have: an inbox, a connection, a next turn."""

    kind = "process"
    core: Any

    def __init__(self, world: "World", name: str) -> None:
        """Begin alive, with a turn at once."""
        self.world = world
        self.name = name
        self.is_alive = True
        self.frozen_until = 0.0
        self.inbox: deque[tuple[Wire, Message]] = deque()
        self.wire: Wire | None = None
        # The fault that ended its last connection, where one did that is told apart.
        self.ending = ""
        self.partitioned_until = 0.0
        self.up_floor = self.down_floor = 0.0
        self.kept_up: list[Message] = []
        # How many of the next sends find no room; until when it is slow, and rests.
        self.refused = 0
        self.slow_until = self.rests_until = 0.0
        # What its own clocks would have done while it was stopped.
        self.asleep: list[Any] = []
        # How much later than asked for this turn came, of what `late_s` makes it.
        self.overslept_s = 0.0
        self._due_at, self._late_s = inf, 0.0
        self._turn_at = inf

    @property
    def is_frozen(self) -> bool:
        """Tell whether the process is stopped now."""
        return self.frozen_until > self.world.now

    def hear(self, wire: Wire, message: Message) -> None:
        """Take a message from the socket's end."""
        if self.is_alive:
            self.inbox.append((wire, message))
            self.wake_at(max(self.world.now, self.rests_until))

    def wake_at(self, when: float) -> None:
        """Take a turn at *when*, or earlier."""
        when = max(when, self.world.now)
        if when < self._turn_at:
            self._turn_at = when
            self.world.at(when, self._wake)

    def _wake(self) -> None:
        now = self.world.now
        if not self.is_alive or self._turn_at > now:
            return
        if self.is_frozen:
            self._turn_at = self.frozen_until
            self.world.at(self.frozen_until, self._wake)
            return
        self._turn_at = inf
        self.overslept_s = min(self._late_s, max(0.0, now - self._due_at))
        self._due_at = inf
        self.world.steps += 1
        asleep, self.asleep = self.asleep, []
        for act in asleep:
            act()
        if self.is_alive:
            self.turn(now)
        if self.is_alive:
            self.check()
            if self.slow_until > now:
                self.rests_until = now + self.world.rng.uniform(0.0, REST_S)
            self.wake_at(max(now if self.inbox else self._wakes_at(), self.rests_until))

    def _wakes_at(self) -> float:
        """Return when it wakes up, which sleeps until its deadline: a little late."""
        due, late_s = self.deadline(), self.world.profile.late_s
        if due <= self.world.now or not late_s:
            return due
        self._due_at, self._late_s = due, self.world.lateness.expovariate(1.0 / late_s)
        return due + self._late_s

    def heal(self) -> None:
        """Let nothing more be wrong with it, and take a turn."""
        self.frozen_until = min(self.frozen_until, self.world.now)
        self.partitioned_until = self.slow_until = self.rests_until = 0.0
        self.refused = 0
        self._turn_at = inf
        self.wake_at(self.world.now)

    def finds_no_room(self) -> bool:
        """Tell whether the next send says EAGAIN."""
        if self.refused:
            self.refused -= 1
            self.world.count("no room")
            return True
        return False

    def batch(self) -> list[tuple[Wire, Message]]:
        """Take some of what can be heard: all, or one message, as the seed likes it."""
        inbox = self.inbox
        if not inbox:
            return []
        is_slow = self.slow_until > self.world.now
        if len(inbox) == 1 or is_slow or self.world.rng.random() >= self.world.profile.batch:
            return [inbox.popleft()]
        taken = list(inbox)
        inbox.clear()
        return taken

    def connected(self) -> None:
        """There is a connection."""

    def turn(self, now: float) -> None:
        """Do what the loop does once."""
        raise NotImplementedError

    def deadline(self) -> float:
        """Return when the core wants its next turn."""
        raise NotImplementedError

    def check(self) -> None:
        """Assert every invariant of the core."""
        raise NotImplementedError

    def send(self, frame: Any, payloads: Any) -> bool:
        """Send to the broker; False without a connection."""
        control = encode(frame)
        self.world.heard(self, control, frame)
        if not self.finds_no_room() and self.world.network.send_up(self, packed(control, payloads)):
            return True
        sessions.no_connection(self, self.core.session)
        return False

    def end(self) -> None:
        """End the process: the connection goes with it."""
        self.is_alive = False
        self.inbox.clear()
        self.kept_up.clear()
        if self.wire is not None:
            keeps = self.world.rng.random() >= self.world.profile.lost
            self.world.network.cut(self.wire, keeps_up=keeps, keeps_down=False)
            self.wire = None
