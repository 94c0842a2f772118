"""A peer's end of a session (protocol.md section 8), the same for clients, actors and hosts.

Pure: the time comes in, frames go out. The owner asks `due` what the session needs now, builds its
own HELLO or heartbeat, and lets every frame pass through `accept` before it touches a command. The
rule that must not be broken: from a HELLO to the WELCOME that repeats its number, nothing else
counts.
"""

from collections.abc import Sequence
from enum import StrEnum
from math import inf
from typing import Any, Final

from wire.errors import Code, RemoteProtocolError
from wire.messages import PROTOCOL, Beat, BrokerCommand, Error, Frame, Welcome, Who

HELLO_REPEAT_FIRST_S: Final = 0.25
# With its jitter below the adopt window, so that a broker that starts hears of a run in time.
HELLO_REPEAT_MAX_S: Final = 1.0
HEARTBEAT_DEFAULT_S: Final = 1.0
LEASE_DEFAULT_S: Final = 5.0
# Who holds a strict limit ends after this share of a lease without a word from the broker; after
# this share whoever watches it ends it; up to this share it may begin to hold one.
FENCE_SHARE: Final = 0.8
FENCE_KILL_SHARE: Final = 0.9
FENCE_ADMIT_SHARE: Final = 0.6
# A message of more is told before, and what a connection carries at the least: so long may nothing
# else come.
AHEAD_BYTES_MIN: Final = 2**20
TRANSFER_BYTES_PER_S_MIN: Final = 1_000_000


class State(StrEnum):
    """Where the session stands."""

    CLOSED = "closed"  # a HELLO is due at `hello_at`
    OPENING = "opening"  # a HELLO is on its way
    OPEN = "open"
    ENDED = "ended"  # for good: a fatal ERROR, or BYE-ACK


# Looked up once: a member of an enum costs a search through its class each time.
CLOSED: Final = State.CLOSED
OPENING: Final = State.OPENING
OPEN: Final = State.OPEN


class Due(StrEnum):
    """What the owner must send now."""

    NOTHING = "nothing"
    HELLO = "hello"
    BEAT = "beat"


class Verdict(StrEnum):
    """What the owner must do with a frame."""

    DROP = "drop"
    WELCOME = "welcome"  # the session is open: say again what changed since HELLO
    COMMANDS = "commands"  # act on the commands
    CLOSED = "closed"  # the session is over: a HELLO is due
    FATAL = "fatal"  # the broker will not talk to us; `error` says why


NOTHING: Final = Due.NOTHING
COMMANDS: Final = Verdict.COMMANDS


class PeerSession:
    """Counts frames, decides what counts, and knows when HELLO and heartbeats are due."""

    __slots__ = (
        "_jitter",
        "_repeat_s",
        "epoch",
        "epoch_highest",
        "error",
        "heard_at",
        "heartbeat_s",
        "hello_at",
        "lease_s",
        "number",
        "received",
        "said_at",
        "sent",
        "state",
        "ticked_at",
        "welcome",
    )

    def __init__(self, now: float, *, seed: int) -> None:
        """Begin closed, with a HELLO due at once. *seed* spreads the repeats of many peers."""
        self.state = State.CLOSED
        self.number = 0
        self.epoch = 0
        self.epoch_highest = 0
        self.sent = 0
        self.received = 0
        self.hello_at = now
        self.heard_at = now
        self.said_at = now
        self.ticked_at = now
        self.welcome: Welcome | None = None
        # The interval that the broker asked for; after how much silence it counts as away.
        self.heartbeat_s = HEARTBEAT_DEFAULT_S
        self.lease_s = LEASE_DEFAULT_S
        self.error: Error | None = None
        self._repeat_s = HELLO_REPEAT_FIRST_S
        self._jitter = seed & 0xFFFF_FFFF

    @property
    def is_open(self) -> bool:
        """Tell whether frames other than HELLO may be sent."""
        return self.state is OPEN

    def due(self, now: float) -> Due:
        """Return what must be sent now; a broker silent for a lease closes the session first."""
        stalled_s = now - self.ticked_at
        self.ticked_at = now
        if self.state is OPEN:
            # Somebody who was stopped himself hears first what came meanwhile, then judges. Who has
            # nothing to do is asked once a heartbeat and a little late each time: that is no stop.
            if stalled_s >= 2.0 * self.heartbeat_s:
                self.heard_at = max(self.heard_at, now - self.lease_s + self.heartbeat_s)
            # Compared as `deadline` adds, or a rounding error would make the owner spin.
            if now >= self.heard_at + self.lease_s:
                self.close(now)
            else:
                return Due.BEAT if now >= self.said_at + self.heartbeat_s else NOTHING
        if self.state in (CLOSED, OPENING) and now >= self.hello_at:
            return Due.HELLO
        return NOTHING

    def deadline(self) -> float:
        """Return when `due` next has an answer, in the clock of *now*."""
        if self.state is OPEN:
            beat_at, lost_at = self.said_at + self.heartbeat_s, self.heard_at + self.lease_s
            return beat_at if beat_at < lost_at else lost_at  # noqa: FURB136 - min costs more.
        return inf if self.state is State.ENDED else self.hello_at

    def close(self, now: float, *, wait_s: float = 0.0) -> None:
        """End the session: a HELLO is due after *wait_s*."""
        if self.state is State.ENDED:
            return
        self._repeat_s = HELLO_REPEAT_FIRST_S
        self.state = State.CLOSED
        self.hello_at = now + wait_s

    def connected(self, now: float) -> None:
        """There is a connection: a HELLO that is due need not wait for its time."""
        if self.state is State.CLOSED:
            self.hello_at = min(self.hello_at, now)

    def misread(self, error: RemoteProtocolError, now: float) -> None:
        """Begin again after a frame that is wrong, or end where none ever can be read."""
        if error.code is Code.PROTOCOL_MISMATCH:
            self.refuse(error.code, error.message)
        else:
            self.close(now)

    def refuse(self, code: str, message: str) -> None:
        """End for good: this broker and this peer cannot talk to each other."""
        self.error = Error(code, message, fatal=True)
        self.end()

    def end(self) -> None:
        """End for good; nothing is due any more."""
        self.state = State.ENDED

    def hello(self, command: BrokerCommand | object, now: float) -> Frame[Any]:
        """Open a new session with *command*, whatever the old one was."""
        assert self.state is not State.ENDED
        self.state = State.OPENING
        self.number += 1
        self.sent = self.received = 0
        self.said_at = now
        self.hello_at = now + self._spread(self._repeat_s)
        self._repeat_s = min(self._repeat_s * 2, HELLO_REPEAT_MAX_S)
        return Frame(PROTOCOL, self.epoch_highest, self.number, 0, 0, [command])

    def frame(self, commands: Sequence[object], now: float) -> Frame[Any]:
        """Return the next frame, with *commands*. The session must be open."""
        assert self.state is OPEN
        self.sent += 1
        self.said_at = now
        return Frame(
            PROTOCOL,
            self.epoch,
            self.number,
            self.sent,
            self.received,
            commands,  # type: ignore[arg-type]
        )

    def ahead(self, payloads: Sequence[Any]) -> list[tuple[Frame[Any], tuple[()]]]:
        """Return what to send before a message with *payloads*: nothing where that is small."""
        frame = announce(payloads, self.epoch, self.number)
        return [] if frame is None else [(frame, ())]

    def accept(self, frame: Frame[Any], now: float) -> Verdict:
        """Decide what counts of *frame*, and count it."""
        number = frame.number
        if (
            number == self.received + 1
            and self.state is OPEN
            and frame.session == self.number
            and frame.epoch == self.epoch
            and frame.commands
        ):
            self.received = number
            self.heard_at = now
            return COMMANDS
        return self._unexpected(frame, now)

    def _unexpected(self, frame: Frame[Any], now: float) -> Verdict:
        """Decide what counts of a frame that is not the next one of an open session."""
        if self.state is State.ENDED or not frame.commands:
            return Verdict.DROP
        first = frame.commands[0]
        # Whoever could not read our frame cannot repeat its session either.
        is_unread = frame.session == 0 and frame.number == 0 and isinstance(first, Error)
        if frame.session != self.number and not is_unread:
            return Verdict.DROP
        if frame.number == 0:
            return self._outside(frame, first, now)
        if self.state is not State.OPEN or frame.epoch != self.epoch:
            return Verdict.DROP
        if frame.number <= self.received:
            return Verdict.DROP
        self.close(now)
        return Verdict.CLOSED

    def _outside(self, frame: Frame[Any], first: object, now: float) -> Verdict:
        """WELCOME, WHO, ERROR and what tells of a large message stand outside the count."""
        match first:
            case Welcome() if self.state is State.OPENING:
                self.state = State.OPEN
                self.epoch = frame.epoch
                self.epoch_highest = max(self.epoch_highest, frame.epoch)
                self.welcome = first
                self.heartbeat_s, self.lease_s = first.heartbeat_s, first.lease_s
                self.heard_at = now
                self._repeat_s = HELLO_REPEAT_FIRST_S
                return Verdict.WELCOME
            case Who() if self.state is State.OPEN:
                self.epoch_highest = max(self.epoch_highest, frame.epoch)
                self.close(now)
                return Verdict.CLOSED
            case Beat() if self.state is State.OPEN and frame.epoch == self.epoch:
                self.heard_at = now + transfer_s(first.ahead)
                return Verdict.DROP
            case Error(fatal=True):
                self.error = first
                self.state = State.ENDED
                return Verdict.FATAL
            case Error():
                self.error = first
                return Verdict.COMMANDS
            case _:
                return Verdict.DROP

    def _spread(self, interval_s: float) -> float:
        """Lengthen *interval_s* by up to a half, differently each time, from the seed."""
        self._jitter = (self._jitter * 1664525 + 1013904223) & 0xFFFF_FFFF
        return interval_s * (1.0 + 0.5 * self._jitter / 2**32)


def transfer_s(octets: int) -> float:
    """Return how long a message may take to arrive."""
    return octets / TRANSFER_BYTES_PER_S_MIN


def announce(payloads: Sequence[Any], epoch: int, session: int) -> Frame[Any] | None:
    """Return the frame that tells of a message with *payloads*, where heartbeats wait long for it.

    It stands outside the count: what is counted on was numbered before.
    """
    octets = sum(map(len, payloads))
    if octets <= AHEAD_BYTES_MIN:
        return None
    return Frame(PROTOCOL, epoch, session, 0, 0, [Beat(octets)])
