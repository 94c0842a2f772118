"""The broker as a state machine: frames and the time in, frames, notes and journal operations out.

What must not be broken: an outcome is accepted only from the current assignment; an actor is never
given more than it granted; every task that is not forgotten is queued, held, with an actor, or
ended and kept for its client.

Control flow stands here; what it works on, and what follows rules of its own, has its own files.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from broker.disk.records import Record, Records
from broker.events import (
    answering,
    defining,
    departures,
    doubts,
    downfalls,
    holders,
    liveness,
    occupancy,
    patience,
    recovery,
    redriving,
    residing,
    sessions,
    statements,
    submission,
)
from broker.facts import epochs, tally
from broker.facts.deadlines import Deadlines
from broker.facts.outbox import Outbox, Send
from broker.facts.peers import Actor, Client, Host, Session, is_owned
from broker.facts.task import ASSIGNED, ENDED, RESULT, Ending, FunctionBlob, Task
from broker.facts.trouble import FailedRun
from broker.holding import deadlock
from broker.placing import (
    callers,
    environments,
    isolation,
    placement,
    preference,
    recall,
    requeueing,
)
from broker.settings import Settings
from broker.tasks import bindings, dead, durable, families, forgetting, lifecycle, naming, retrying
from broker.waiting import reservation
from broker.waiting.backlog import Backlog
from wire.codec import CARRIERS
from wire.errors import Code, RemoteProtocolError
from wire.messages import (
    HELLOS,
    MAY_SAY,
    PROTOCOL,
    ActorBeat,
    Attach,
    Await,
    Beat,
    Bye,
    Cancel,
    Credit,
    Death,
    Entered,
    Error,
    Frame,
    Function,
    HostBeat,
    LabelsChanged,
    Occupy,
    Outcome,
    Query,
    Reacquire,
    Reject,
    Release,
    Resides,
    Submit,
    Tried,
    Vacate,
    Who,
)
from wire.messages import Template as TemplateMessage
from wire.parts import Role, Token

Note = tuple[str, dict[str, Any]]
Handler = Callable[[Session, Any, Sequence[Any], float], None]

STRIKES_MAX: Final = 3
STRIKES_KEPT: Final = 1_024


class Broker:
    """All state of one broker. Every method takes the time; none raises for what a peer said."""

    def __init__(self, settings: Settings, *, epoch: int, now: float) -> None:
        """Begin to recover: for the adopt window what actors offer becomes a task."""
        self.settings = settings
        self.epoch, self.epochs = epoch, epochs.own(epoch)
        self.assignments, self.tally = 0, tally.Tally()
        self.started_at = self.ticked_at = now
        self.window_ends_at: float | None = now + settings.adopt_window_s
        self.beat_at = now + settings.heartbeat_s
        self.sessions: dict[bytes, Session] = {}
        self.clients: dict[int, Client] = {}
        self.actors: dict[int, Actor] = {}
        self.actors_by_name: dict[str, Actor] = {}
        self.hosts: dict[int, Host] = {}
        self.departed_at = now  # When an actor left last.
        self.orders: dict[str, str] = {}  # What an operator ordered, by the actor's name.
        # Actors that may have credit left; those that have none are dropped when somebody looks.
        self.open_actors: dict[Actor, None] = {}
        self.tokens: dict[Token, Task] = {}  # Current assignments, and outcomes not forgotten.
        self.backlog = Backlog()
        # What is to be looked at, and whether that may wait until what was placed is sent.
        self.ready, self.may_pause = self.backlog.ready, False
        self.patient, self.waits = self.backlog.matching.patient, self.backlog.matching.waits
        # What is to be done once all that is said was sent, and how.
        self.leftovers, self.tidy = self.backlog.matching.leaving, self.backlog.matching.tidy
        self.bindings = bindings.make(self)
        self.reservation: reservation.Reservation | None = None  # For a task that would starve.
        self.recalls, self.environments = recall.Recalls(), environments.Environments()
        self.callers = callers.Callers()
        self.had_earlier = False  # Whether runs of an earlier broker may go on.
        self.limits = self.backlog.limits = occupancy.make_limits(self, now)
        self.limited = self.limits.runs  # Empty where nobody uses limits.
        self.named = naming.NamedActors()
        self.unclaimed: dict[Task, float] = {}
        self.unparented: dict[Token, list[Task]] = {}  # They came before the runs that made them.
        self.held: dict[Task, None] = {}
        self.deadlines: Deadlines[Task] = Deadlines()  # Of queued tasks that wait for only so long.
        self.isolation, self.doubts = isolation.Isolation(), doubts.Doubts()
        self.delays: Deadlines[Task] = Deadlines()  # When those that failed are tried again.
        self.dead: OrderedDict[int, bool] = OrderedDict()  # Dead or replaced processes.
        self.strikes: OrderedDict[bytes, int] = OrderedDict()
        # Effects that wait for the commit with their number, and what the journal shall write.
        self.operations: list[tuple[Any, ...]] = []
        self.sequence = self.committed_sequence = self.fence_sequence = 0
        self.records = Records(now)
        self.dead_tasks, self.outbox = dead.DeadTasks(), Outbox()
        self.say = self.outbox.say
        self._notes: list[Note] = []
        self._handlers = self._make_handlers()

    def _make_handlers(self) -> dict[Role, dict[type, Handler]]:
        """Return who acts on which command, for each role on those that it may say."""
        made: dict[type, Handler] = {
            Submit: partial(submission.submit, self),
            Attach: partial(redriving.attach, self),
            Tried: partial(statements.tried, self),
            Outcome: self._outcome,
            Credit: partial(statements.credit, self),
            Beat: self._nothing,
            ActorBeat: partial(statements.actor_beat, self),
            HostBeat: partial(statements.host_beat, self),
            Cancel: self._cancel,
            Function: self._function,
            TemplateMessage: self._template,
            Release: self._release,
            Reacquire: self._release,
            **dict.fromkeys((Occupy, Vacate, Await), partial(occupancy.heard, self)),
            Reject: self._reject,
            Entered: partial(statements.entered, self),
            Resides: partial(residing.resides, self),
            LabelsChanged: partial(statements.labels, self),
            Death: partial(departures.death, self),
            Query: partial(answering.query, self),
            Bye: partial(departures.bye, self),
        }
        return {role: {kind: made[kind] for kind in said} for role, said in MAY_SAY.items()}

    # ------------------------------------------------------------------ what the loop calls

    def receive(self, rid: bytes, frame: Frame[Any], payloads: Sequence[Any], now: float) -> None:
        """Act on one message."""
        session = self.sessions.get(rid)
        if (
            session is None
            or frame.number != session.received + 1
            or frame.epoch != self.epoch
            or frame.session != session.number
            or frame.received > session.sent
        ):
            self._receive_unexpected(rid, session, frame, now)
            return
        session.received = frame.number
        session.acked = frame.received
        session.peer.heard_at = now
        try:
            if session.peer.unreceived:
                self._received(session, frame.received)
            self._act(session, frame, payloads, now)
        except RemoteProtocolError as error:
            self.bad(rid, error, now)
            if self.sessions.get(rid) is session:
                # What stood behind it in the frame is lost: both begin anew from what they hold.
                self.close(session, now)
                self.who(rid, session.number)

    def _receive_unexpected(
        self, rid: bytes, session: Session | None, frame: Frame[Any], now: float
    ) -> None:
        """Act on what is not the next frame of a session: HELLO, a repetition, a gap."""
        first = frame.commands[0] if frame.commands else None
        role = HELLOS.get(type(first))
        if role is not None:
            sessions.open_session(self, rid, session, role, frame, now)
            return
        if session is None or frame.epoch != self.epoch or frame.session > session.number:
            self.who(rid, frame.session)
            return
        if frame.session < session.number or frame.number <= session.received:
            sessions.heard_outside(session, frame, now)
            return  # Older, a repetition, or outside the count.
        self.note("session_gap", role=session.role, number=frame.number)
        self.close(session, now)
        self.who(rid, frame.session)

    def bad(self, rid: bytes, error: RemoteProtocolError, now: float) -> None:
        """Answer what could not be read or is not allowed; the third strike ends the session."""
        strikes = self.strikes.get(rid, 0) + 1
        self.strikes[rid] = strikes
        self.strikes.move_to_end(rid)
        if len(self.strikes) > STRIKES_KEPT:
            self.strikes.popitem(last=False)
        self.note("bad_message", code=error.code, message=error.message, strikes=strikes)
        if strikes > STRIKES_MAX:
            return
        session = self.sessions.get(rid)
        fatal = error.fatal or strikes >= STRIKES_MAX
        number = session.number if session else 0
        self.say_outside(rid, number, Error(error.code, error.message, fatal))
        if session and fatal:
            self.close(session, now)

    def unreachable(self, rid: bytes, now: float) -> None:
        """End the session on *rid*, to which a send found no connection; its peer may come back."""
        self.strikes.pop(rid, None)
        session = self.sessions.get(rid)
        if session is not None:
            self.close(session, now)

    def committed(self, sequence: int, now: float) -> None:
        """Let go what waited for the journal to write everything up to *sequence*."""
        self.committed_sequence = max(self.committed_sequence, sequence)
        if self.records.waiting:
            durable.committed(self)
        if self.limits.answers:
            defining.answer(self)

    def journal_stuck(self, reason: str) -> None:
        """Take no durable tasks while nothing can be written; an empty *reason* ends that."""
        self.records.refusal = reason
        if reason and self.limits.answers:
            defining.stuck(self)

    def is_waited_for(self) -> bool:
        """Tell whether actors that end as well may wait for what they are still to hear."""
        return lifecycle.is_waited_for(self)

    def is_unsettled(self) -> bool:
        """Tell whether this is so of actors that may be about to say that they end."""
        return lifecycle.is_unsettled(self)

    def farewell(self) -> None:
        """Say what rides on the next frame, for there is none: an actor may wait for it to end."""
        lifecycle.farewell(self)

    def take_operations(self) -> tuple[int, list[tuple[Any, ...]]]:
        """Return what the journal shall write now, and the number that its commit will have."""
        operations = self.operations
        if operations:
            self.operations = []
        return self.sequence, operations

    def take_notes(self) -> list[Note]:
        """Return what happened since the last call, for the log."""
        notes = self._notes
        if notes:
            self._notes = []
        return notes

    def tick(self, now: float) -> None:
        """Let time pass: heartbeats, windows, suspicion, leases."""
        liveness.tick(self, now)

    def deadline(self) -> float:
        """Return when `tick` is due next."""
        return liveness.deadline(self)

    def flush(self, now: float, *, may_pause: bool = False) -> list[Send]:
        """Place what can be placed, and return what is to be sent, in order.

        With *may_pause* perhaps a first part, to whom the last slot was given, or a limit: it need
        not wait until it is known that there is no more. While `ready` is not empty the rest comes
        with the next call.
        """
        self.may_pause, ready = may_pause, self.ready
        if self.isolation.is_needed:
            isolation.look(self, now)
        if self.waits.due_at <= now:
            preference.look(self, now)
        backlog = self.backlog
        if backlog.ready or backlog.newcomer is not None or self.reservation is not None:
            placement.place(self, now)
        if self.limits.stirred and not ready:
            occupancy.settle(self, now)
        if self.deadlines.due_at <= now:
            patience.expire(self, now)
            if backlog.ready or backlog.newcomer is not None:
                placement.place(self, now)
        if self.recalls.due_at <= now and not ready:
            recall.look(self, now)
        if self.records.restored:
            downfalls.note(self)
        # Frames of a new epoch leave only when its number is on disk.
        if self.fence_sequence > self.committed_sequence:
            return []
        return self.outbox.frames(self, now)

    def check(self) -> None:
        """Assert every invariant."""
        recovery.check(self)

    # ------------------------------------------------------------------ helpers of all parts

    def say_outside(self, rid: bytes, session_number: int, command: object) -> None:
        """Say *command* outside the count of a session."""
        self.outbox.say_outside(rid, Frame(PROTOCOL, self.epoch, session_number, 0, 0, [command]))

    def who(self, rid: bytes, session_number: int) -> None:
        """Ask a sender without a session for a HELLO."""
        self.say_outside(rid, session_number, Who())

    def note(self, event: str, **fields: Any) -> None:
        """Record *event* for the log."""
        self._notes.append((event, fields))

    def close(self, session: Session, now: float) -> None:
        """End *session*; its peer stays until its lease or timeout is over."""
        session.is_closing = True
        peer = session.peer
        if self.sessions.get(session.rid) is session:
            del self.sessions[session.rid]
        if peer.session is not session:
            return
        peer.session = None
        if isinstance(peer, Client):
            peer.gone_at = now
            retrying.let_go(self, peer)
            self.resume(peer)
        elif isinstance(peer, Actor):
            peer.heard_at = min(peer.heard_at, now)  # What was on its way comes no more.
            peer.credit.void()
            self.backlog.matching.note_working(peer)

    def raise_epoch(self, heard: int) -> None:
        """Take an epoch above one that a peer heard. Nothing is sent before it is stored."""
        # Where another without memory has done so for the same one, its start was another.
        self.epoch = epochs.above(heard, self.epoch)
        self.epochs.append(self.epoch)
        self.sequence = self.fence_sequence = self.sequence + 1
        self.operations.append(("epoch", self.epoch))
        self.note("epoch_raised", epoch=self.epoch)

    def resume(self, client: Client) -> None:
        """Let the tasks of a client be placed again that had too many results on their way."""
        client.is_paused = False
        if client.parked:
            self.backlog.unpark(client)

    # ------------------------------------------------------------------ commands

    def _act(
        self, session: Session, frame: Frame[Any], payloads: Sequence[Any], now: float
    ) -> None:
        at, handlers = 0, self._handlers[session.role]
        if not frame.commands:
            raise RemoteProtocolError(Code.BAD_FRAME, "a frame without commands")
        for command in frame.commands:
            kind = type(command)
            if session.is_closing:
                return  # What stands behind the end of a session counts no more.
            handler = handlers.get(kind)
            if handler is None:
                message = f"a {session.role} may not say {kind.__name__}"
                raise RemoteProtocolError(Code.NOT_ALLOWED, message)
            own: Sequence[Any] = ()
            if kind in CARRIERS and command.frames:
                end = at + command.frames
                if not at < end <= len(payloads):
                    raise RemoteProtocolError(Code.BAD_FRAME, f"{end} payload frames are missing")
                own, at = payloads[at:end], end
            handler(session, command, own, now)
        if at != len(payloads):
            raise RemoteProtocolError(Code.BAD_FRAME, "more payload frames than commands speak of")
        if session.beat_holding is not None:
            holding, session.beat_holding = session.beat_holding, None
            statements.compare(self, session, holding, now)

    def _nothing(self, session: Session, command: Beat, own: Sequence[Any], now: float) -> None: ...

    def _received(self, session: Session, received: int) -> None:
        """Forget the results that the client has, and let their actors forget them."""
        client = session.peer
        assert isinstance(client, Client)
        unreceived = client.unreceived
        while unreceived and unreceived[0][0] <= received:
            _, task, size = unreceived.popleft()
            client.unreceived_bytes -= size
            if task.state is ENDED:
                forgetting.received(self, task, size)
            elif isinstance(task, FailedRun):
                retrying.acknowledge(self, task.actor, task.token)
        if client.is_paused and not client.is_behind(self.settings.window_bytes):
            self.resume(client)

    def _function(
        self, session: Session, command: Function, own: Sequence[Any], now: float
    ) -> None:
        session.functions_known.put(command.slot, FunctionBlob(command.hash, command.body, own))

    def _template(
        self, session: Session, command: TemplateMessage, own: Sequence[Any], now: float
    ) -> None:
        session.templates_known.put(
            command.slot, sessions.join_template(self, session, command.call, now)
        )

    def _cancel(self, session: Session, command: Cancel, own: Sequence[Any], now: float) -> None:
        client = session.peer
        assert isinstance(client, Client)
        for number in command.tasks:
            task = client.tasks.get(number)
            if task is not None and isinstance(task.record, Record):
                durable.cancel(self, task, "it was canceled", force=command.force)
            elif task is not None:
                families.drop(self, task, force=command.force, reason="canceled", is_canceled=True)

    def _outcome(self, session: Session, command: Outcome, own: Sequence[Any], now: float) -> None:
        actor = session.peer
        assert isinstance(actor, Actor)
        token = (command.epoch, command.number)
        task = self.tokens.get(token)
        if task is None or task.actor is not actor:
            session.outcome_acks_stale.append(token)
            if self.limited:
                holders.returned(self, actor, token)
            forgetting.hurry(self, session, 0)
            return
        if task.state is not ASSIGNED and not is_owned(task):
            return  # The same outcome once more: it is acknowledged when the client has it.
        refused = ""
        if command.checkpoint:
            own, refused = residing.take_checkpoint(self, task, command, own)
        del actor.assigned[token]
        if actor.copies:
            environments.ran(self, task, command.run_s)
            if actor.away:
                environments.came_off(self, actor, now)
        if self.patient:
            preference.ran(self, task, actor, command.run_s)
        ending = Ending(command.status, command.body, own, actor.name, task.tries + 1)
        if ending.size > self.settings.payload_bytes_max:
            allowed = self.settings.payload_bytes_max
            message = f"the result has {ending.size} octets, {allowed} are allowed here"
            ending = lifecycle.failure(task, Code.PAYLOAD_TOO_LARGE, message)
        elif refused:
            ending = lifecycle.failure(task, Code.NOT_DURABLE, refused)
        elif command.status is not RESULT and retrying.retry(self, task, ending, now):
            return
        lifecycle.settle(self, task, ending)

    def _release(
        self, session: Session, command: Release | Reacquire, own: Sequence[Any], now: float
    ) -> None:
        task = self.tokens.get((command.epoch, command.number))
        # Also of a run that was told to stop, and had released before it heard that.
        if self.limited and isinstance(command, Release):
            occupancy.release(self, session.peer, command)
        if task is None or task.actor is not session.peer:
            return
        if isinstance(command, Reacquire) or command.typed is None:
            task.is_released = isinstance(command, Release)
            if task.is_released and (task.actor.copies or (task.template and task.copy_held)):
                environments.holds_on(task.actor, task)
        else:
            deadlock.gave(self, task, command.typed)

    def _reject(self, session: Session, command: Reject, own: Sequence[Any], now: float) -> None:
        actor = session.peer
        assert isinstance(actor, Actor)
        task = self.tokens.get((command.epoch, command.number))
        if task is None or task.actor is not actor or not is_owned(task):
            if self.limited:
                holders.returned(self, actor, (command.epoch, command.number))
            return
        requeueing.rejected(self, session, task, command, now)
