"""What is to be sent: commands gather by session during a turn and leave as numbered frames."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from broker.facts.peers import COMMANDS_PER_FRAME, Session
from wire import codec
from wire.messages import PROTOCOL, Answer, Frame, OutcomeAck
from wire.session import announce

if TYPE_CHECKING:
    from broker.core import Broker

Send = tuple[bytes, Frame[Any], Sequence[Any]]


class Outbox:
    """The sessions that have something to say, and frames outside the count of any."""

    __slots__ = ("_dirty", "_outside")

    def __init__(self) -> None:
        """Begin with nothing to send."""
        self._dirty: list[Session] = []
        self._outside: list[Send] = []

    def say(self, session: Session | None, command: object, payloads: Sequence[Any] = ()) -> None:
        """Say *command* to a peer that is there; to one that is not, nothing is lost by silence."""
        if session is None:
            return
        commands = session.commands
        if len(commands) >= COMMANDS_PER_FRAME:
            commands = session.seal()
        commands.append(command)
        if payloads:
            session.payloads.extend(payloads)
        if not session.is_dirty:
            session.is_dirty = True
            self._dirty.append(session)

    def hurry(self, session: Session) -> None:
        """Send what waits for the next frame of *session* in this turn."""
        if not session.is_dirty:
            session.is_dirty = True
            self._dirty.append(session)

    def say_outside(self, rid: bytes, frame: Frame[Any]) -> None:
        """Say *frame* to whoever is there, before the frames of sessions."""
        self._outside.append((rid, frame, ()))

    def frames(self, broker: "Broker", now: float) -> list[Send]:
        """Return what gathered as numbered frames; sessions that said their last word end."""
        sends: list[Send] = []
        if self._outside:
            sends, self._outside = self._outside, []
        dirty, self._dirty = self._dirty, []
        epoch = broker.epoch
        for session in dirty:
            session.is_dirty = False
            rid = session.rid
            if broker.sessions.get(rid) is not session:
                continue
            commands, session.commands = session.commands, []
            if session.outcome_acks or session.outcome_acks_stale:
                commands.append(OutcomeAck(session.outcome_acks, session.outcome_acks_stale))
                session.outcome_acks, session.outcome_acks_stale = [], []
            if session.sealed:
                for earlier, with_payloads in session.sealed:
                    session.sent += 1
                    if with_payloads:
                        tell_ahead(epoch, session, with_payloads, sends)
                    sends.append((rid, number(epoch, session, earlier), with_payloads))
                session.sealed = []
            session.sent = sent = session.sent + 1
            frame = Frame(PROTOCOL, epoch, session.number, sent, session.received, commands)
            if session.payloads:
                payloads, session.payloads = session.payloads, []
                tell_ahead(epoch, session, payloads, sends)
                sends.append((rid, frame, payloads))
            else:
                sends.append((rid, frame, ()))
            if session.is_closing:
                broker.close(session, now)
        return sends


def tell_ahead(epoch: int, session: Session, payloads: Sequence[Any], sends: list[Send]) -> None:
    """Send before a message with *payloads* that it comes, where it is large."""
    frame = announce(payloads, epoch, session.number)
    if frame is not None:
        sends.append((session.rid, frame, ()))


def number(epoch: int, session: Session, commands: list[Any]) -> Frame[Any]:
    """Return the frame that `session.sent` counts."""
    return Frame(PROTOCOL, epoch, session.number, session.sent, session.received, commands)


def answer(broker: "Broker", session: Session, reply: Answer) -> None:
    """Say *reply*, and count it as on its way until the client has it."""
    broker.say(session, reply)
    # After say: a frame that was full is sealed by it.
    session.answers.append((session.sent + len(session.sealed) + 1, len(reply.body)))
    session.answers_bytes += len(reply.body)


def say_when_written(
    broker: "Broker", session: Session, reply: Answer, *, is_order: bool = True
) -> None:
    """Say *reply* once all that was decided so far is on disk; to an order also that it is not."""
    if broker.sequence <= broker.committed_sequence:
        answer(broker, session, reply)
    elif is_order and broker.records.refusal:
        say_unwritten(broker, session, reply)
    else:
        broker.limits.answers.append((broker.sequence, session, reply, is_order))


def say_unwritten(broker: "Broker", session: Session, reply: Answer) -> None:
    """Say in the place of *reply* that it is not on disk, and why."""
    reason = broker.records.refusal
    text = f"it is done, and will be written when the journal can be written again: {reason}"
    body = {"error": text, "unwritten": True} | msgspec.msgpack.decode(reply.body)
    answer(broker, session, Answer(reply.request, codec.encode(body)))
