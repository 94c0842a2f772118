"""The broker as a state machine: frames and the time in, frames, notes and journal operations out.

What must not be broken: an outcome is accepted only from the current assignment; an actor is never given more than it
granted; every task that is not forgotten is queued, held, with an actor, or ended and kept for its client.

Control flow stands here. What it works on has files of its own: `task`, `peers`, `credit`, `backlog`; so have
the three questions with an algebra of their own: `placement`, `recovery`, `liveness`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from broker import explain, liveness, placement, recovery, sessions
from broker.backlog import Backlog
from broker.peers import Actor, Client, Host, Session, is_owned
from broker.settings import Settings
from broker.task import Ending, Event, FunctionBlob, State, Task, Template
from wire import codec
from wire.errors import Code, RemoteProtocolError
from wire.messages import (
    HELLOS,
    MAY_SAY,
    PROTOCOL,
    ActorBeat,
    Answer,
    Beat,
    Bye,
    ByeAck,
    Cancel,
    Credit,
    Death,
    Error,
    Failure,
    Frame,
    Function,
    HostBeat,
    LabelsChanged,
    Outcome,
    OutcomeAck,
    Query,
    Reject,
    Release,
    Requeued,
    Result,
    Status,
    Stop,
    Submit,
    Template as TemplateMessage,
    Token,
    Who,
)

Send = tuple[bytes, Frame[Any], Sequence[Any]]
Note = tuple[str, dict[str, Any]]

# Acknowledgements to an actor wait for its next frame or heartbeat, unless so many have gathered.
OUTCOME_ACKS_WAITING_MAX: Final = 256
# Above this size an actor should not have to keep an outcome until the next heartbeat.
OUTCOME_ACK_AT_ONCE_BYTES: Final = 2**20
STRIKES_MAX: Final = 3
STRIKES_KEPT: Final = 1_024
DEAD_KEPT: Final = 4_096


class Broker:
    """All state of one broker. Every method takes the time; none raises for what a peer said."""

    def __init__(self, settings: Settings, *, epoch: int, now: float) -> None:
        """Begin to recover: for the adopt window what actors offer becomes a task."""
        self.settings = settings
        self.epoch = epoch
        self.assignments = 0
        self.started_at = now
        self.window_ends_at: float | None = now + settings.adopt_window_s
        self.ticked_at = now
        self.beat_at = now + settings.heartbeat_s
        self.sessions: dict[bytes, Session] = {}
        self.clients: dict[int, Client] = {}
        self.actors: dict[int, Actor] = {}
        self.actors_by_name: dict[str, Actor] = {}
        self.hosts: dict[int, Host] = {}
        # Actors that may have credit left; those that have none are dropped when somebody looks.
        self.open_actors: dict[Actor, None] = {}
        # Current assignments and outcomes that were not forgotten, by token.
        self.tokens: dict[Token, Task] = {}
        self.backlog = Backlog()
        self.unclaimed: dict[Task, float] = {}
        self.held: dict[Task, None] = {}
        # Incarnations that can never come back: dead, or replaced under their name.
        self.dead: OrderedDict[int, bool] = OrderedDict()
        self.strikes: OrderedDict[bytes, int] = OrderedDict()
        # Effects that wait for the commit with their number, and what the journal shall write.
        self.operations: list[tuple[Any, ...]] = []
        self.sequence = 0
        self.committed_sequence = 0
        self.fence_sequence = 0
        self._dirty: list[Session] = []
        self._outside: list[Send] = []
        self._notes: list[Note] = []
        self._handlers: dict[type, Callable[[Session, Any, Sequence[Any], float], None]] = {
            Submit: self._submit,
            Outcome: self._outcome,
            Credit: self._credit,
            Beat: self._nothing,
            ActorBeat: self._actor_beat,
            HostBeat: self._host_beat,
            Cancel: self._cancel,
            Function: self._function,
            TemplateMessage: self._template,
            Release: self._release,
            Reject: self._reject,
            LabelsChanged: self._labels,
            Death: self._death,
            Query: self._query,
            Bye: self._bye,
        }

    # ------------------------------------------------------------------ what the loop calls

    def receive(self, rid: bytes, frame: Frame[Any], payloads: Sequence[Any], now: float) -> None:
        """Act on one message."""
        session = self.sessions.get(rid)
        first = frame.commands[0] if frame.commands else None
        role = HELLOS.get(type(first))
        if role is not None:
            sessions.open_session(self, rid, session, role, frame, now)
            return
        if session is None or frame.epoch != self.epoch or frame.session > session.number:
            self.who(rid, frame.session)
            return
        if frame.session < session.number or frame.number <= session.received:
            return  # An older session, or a repetition.
        if frame.number != session.received + 1 or frame.received > session.sent:
            self.note("session_gap", role=session.role, number=frame.number)
            self.close(session, now)
            self.who(rid, frame.session)
            return
        session.received = frame.number
        session.acked = frame.received
        session.heard_at = session.peer.heard_at = now  # type: ignore[union-attr]
        try:
            self._act(session, frame, payloads, now)
        except RemoteProtocolError as error:
            self.bad(rid, error, now)

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
        self._outside.append(
            (rid, self.outside(number, Error(error.code, error.message, fatal)), ())
        )
        if session and fatal:
            self.close(session, now)

    def unreachable(self, rid: bytes, now: float) -> None:
        """A send found no connection for *rid*: the session on it is over, its peer may come back."""
        self.strikes.pop(rid, None)
        session = self.sessions.get(rid)
        if session is not None:
            self.close(session, now)

    def committed(self, sequence: int, now: float) -> None:  # noqa: ARG002 - for the effects to come.
        """The journal has written everything up to *sequence*."""
        self.committed_sequence = max(self.committed_sequence, sequence)

    def take_operations(self) -> tuple[int, list[tuple[Any, ...]]]:
        """Return what the journal shall write now, and the number that its commit will have."""
        operations, self.operations = self.operations, []
        return self.sequence, operations

    def take_notes(self) -> list[Note]:
        """Return what happened since the last call, for the log."""
        notes, self._notes = self._notes, []
        return notes

    def tick(self, now: float) -> None:
        """Let time pass: heartbeats, windows, suspicion, leases."""
        liveness.tick(self, now)

    def deadline(self) -> float:
        """Return when `tick` is due next."""
        return liveness.deadline(self)

    def flush(self, now: float) -> list[Send]:
        """Place what can be placed, and return what is to be sent, in order."""
        if self.backlog.ready:
            placement.place(self, now)
        # Frames of a new epoch leave only when its number is on disk.
        if self.fence_sequence > self.committed_sequence:
            return []
        sends, self._outside = self._outside, []
        dirty, self._dirty = self._dirty, []
        epoch = self.epoch
        for session in dirty:
            session.is_dirty = False
            if self.sessions.get(session.rid) is not session:
                continue
            if session.outcome_acks or session.outcome_acks_stale:
                session.say(OutcomeAck(session.outcome_acks, session.outcome_acks_stale))
                session.outcome_acks, session.outcome_acks_stale = [], []
            session.said_at = now
            session.sealed.append((session.commands, session.payloads))
            for commands, payloads in session.sealed:
                session.sent += 1
                frame = Frame(
                    PROTOCOL, epoch, session.number, session.sent, session.received, commands
                )
                sends.append((session.rid, frame, payloads))
            session.sealed, session.commands, session.payloads = [], [], []
            if session.is_closing:
                self.close(session, now)
        return sends

    def check(self) -> None:
        """Assert every invariant."""
        recovery.check(self)

    # ------------------------------------------------------------------ helpers of all parts

    def say(self, session: Session | None, command: object, payloads: Sequence[Any] = ()) -> None:
        """Say *command* to a peer that is there; to one that is not nothing is lost by silence."""
        if session is None:
            return
        session.say(command, payloads)
        if not session.is_dirty:
            session.is_dirty = True
            self._dirty.append(session)

    def outside(self, session_number: int, command: object) -> Frame[Any]:
        """Make a frame outside the count of a session."""
        return Frame(PROTOCOL, self.epoch, session_number, 0, 0, [command])

    def say_outside(self, rid: bytes, session_number: int, command: object) -> None:
        """Say *command* outside the count of a session."""
        self._outside.append((rid, self.outside(session_number, command), ()))

    def who(self, rid: bytes, session_number: int) -> None:
        """Ask a sender without a session for a HELLO."""
        self.say_outside(rid, session_number, Who())

    def note(self, event: str, **fields: Any) -> None:
        """Record *event* for the log."""
        self._notes.append((event, fields))

    def close(self, session: Session, now: float) -> None:
        """End *session*; its peer stays until its lease or timeout is over."""
        if self.sessions.get(session.rid) is session:
            del self.sessions[session.rid]
        peer = session.peer
        if peer.session is not session:
            return
        peer.session = None
        if isinstance(peer, Client):
            peer.gone_at = now
            peer.unreceived.clear()
            peer.unreceived_bytes = 0
            self.resume(peer)
        elif isinstance(peer, Actor):
            peer.credit.void()

    def raise_epoch(self, heard: int) -> None:
        """Take an epoch above one that a peer heard: all sessions end, nothing is sent before it is stored."""
        self.epoch = heard + 1
        self.assignments = 0
        self.sequence += 1
        self.fence_sequence = self.sequence
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
        role, at = session.role, 0
        if payloads or frame.commands[0].__class__ in codec.CARRIERS:
            codec.check_payloads(frame, payloads)
        if role == "client" and session.peer.unreceived:  # type: ignore[union-attr]
            self._received(session, frame.received)
        for command in frame.commands:
            kind = type(command)
            if kind not in MAY_SAY[role]:
                raise RemoteProtocolError(Code.NOT_ALLOWED, f"a {role} may not say {kind.__name__}")
            own: Sequence[Any] = ()
            if payloads and kind in codec.CARRIERS:
                own = payloads[at : at + command.frames]
                at += command.frames
            self._handlers[kind](session, command, own, now)

    def _nothing(self, session: Session, command: Beat, own: Sequence[Any], now: float) -> None:
        pass

    def _received(self, session: Session, received: int) -> None:
        """The client has these results: forget them, and let their actors forget them."""
        client = session.peer
        assert isinstance(client, Client)
        unreceived = client.unreceived
        while unreceived and unreceived[0][0] <= received:
            _, task, size = unreceived.popleft()
            client.unreceived_bytes -= size
            if task.state is State.ENDED:
                self.forget(task)
        if client.is_paused and client.unreceived_bytes < self.settings.window_bytes:
            self.resume(client)

    def _function(
        self, session: Session, command: Function, own: Sequence[Any], now: float
    ) -> None:
        session.functions_known.put(command.slot, FunctionBlob(command.hash, command.body, own))

    def _template(
        self, session: Session, command: TemplateMessage, own: Sequence[Any], now: float
    ) -> None:
        session.templates_known.put(
            command.slot, sessions.join_template(self, session, command.call)
        )

    def _submit(self, session: Session, command: Submit, own: Sequence[Any], now: float) -> None:
        client = session.peer
        assert isinstance(client, Client)
        template = session.templates_known.get(command.template)
        if template is None:
            raise RemoteProtocolError(
                Code.UNKNOWN_TEMPLATE, f"template {command.template} was not sent"
            )
        task = client.tasks.get(command.task)
        if task is not None and task.state not in (State.UNCLAIMED_RUN, State.UNCLAIMED_OUTCOME):
            if task.state is State.ENDED and all(
                task is not sent for _, sent, _ in client.unreceived
            ):
                self.deliver(task)
            return
        if task is None:
            if len(client.tasks) >= self.settings.window_tasks:
                raise RemoteProtocolError(
                    Code.WINDOW_EXCEEDED,
                    f"more than {self.settings.window_tasks} tasks without an outcome",
                    fatal=True,
                )
            task = client.tasks[command.task] = Task(client, command.task, State.QUEUED, now)
            task.tries = command.tries
        task.template = template
        task.body = command.body
        task.frames = own
        task.size = len(command.body) + sum(map(len, own))
        client.task_bytes += task.size
        if task.state is State.QUEUED:
            self._enter(task, command, now)
        else:
            self.unclaimed.pop(task)
            task.move(Event.CLAIM)
            if task.state is State.ENDED:
                self.deliver(task)

    def _enter(self, task: Task, command: Submit, now: float) -> None:
        """Queue a new task, or say at once why not."""
        if task.size > self.settings.payload_bytes_max:
            self.end(
                task,
                Code.PAYLOAD_TOO_LARGE,
                f"the call has {task.size} octets, "
                f"{self.settings.payload_bytes_max} are allowed here",
            )
        elif command.parent is not None and not self._adopt_child(task, command.parent):
            self.end(
                task,
                Code.PARENT_GONE,
                "the task that submitted this one was given to another actor",
            )
        elif command.again and self.window_ends_at is not None:
            task.state = State.HELD
            self.held[task] = None
        elif command.again and task.call.at_most_once:
            self.end(task, Code.OUTCOME_UNKNOWN, "it was sent before the broker was started again")
        else:
            self.backlog.push(task)

    def _adopt_child(self, task: Task, parent: Token) -> bool:
        owner = self.tokens.get(parent)
        if owner is None or not is_owned(owner):
            # A broker that recovers does not know all parents yet.
            return self.window_ends_at is not None
        if owner.children is None:
            owner.children = []
        owner.children.append(task)
        return True

    def _cancel(self, session: Session, command: Cancel, own: Sequence[Any], now: float) -> None:
        client = session.peer
        assert isinstance(client, Client)
        for number in command.tasks:
            task = client.tasks.get(number)
            if task is not None:
                self.drop(task, force=command.force, reason="canceled")

    def _query(self, session: Session, command: Query, own: Sequence[Any], now: float) -> None:
        assert isinstance(session.peer, Client)
        body = explain.answer(self, session.peer, command.what, command.argument, now)
        self.say(session, Answer(command.request, codec.encode(body)))

    def _credit(self, session: Session, command: Credit, own: Sequence[Any], now: float) -> None:
        actor = session.peer
        assert isinstance(actor, Actor)
        actor.credit.state(command, session.acked)
        if actor.credit.available:
            self.open_actors[actor] = None
            if self.backlog.waiting:
                self.backlog.wake()

    def _actor_beat(
        self, session: Session, command: ActorBeat, own: Sequence[Any], now: float
    ) -> None:
        actor = session.peer
        assert isinstance(actor, Actor)
        actor.environments = command.environments
        if actor.offer(command.labels_version, command.labels):
            self.backlog.wake()
        self._credit(session, command.credit, own, now)
        if actor.assigned:
            held = set(command.holding)
            for token, task in actor.assigned.items():
                if task.frame <= session.acked and token not in held and not task.is_finished:
                    self.note("divergence", actor=actor.name, task=task.name)
                    self.close(session, now)
                    self.who(session.rid, session.number)
                    return

    def _labels(
        self, session: Session, command: LabelsChanged, own: Sequence[Any], now: float
    ) -> None:
        actor = session.peer
        assert isinstance(actor, Actor)
        if actor.offer(command.version, command.labels):
            self.backlog.wake()

    def _outcome(self, session: Session, command: Outcome, own: Sequence[Any], now: float) -> None:
        actor = session.peer
        assert isinstance(actor, Actor)
        token = (command.epoch, command.number)
        task = self.tokens.get(token)
        if task is None or task.actor is not actor:
            session.outcome_acks_stale.append(token)
            self._hurry(session, 0)
            return
        if not is_owned(task):
            return  # The same outcome once more: it is acknowledged when the client has it.
        del actor.assigned[token]
        ending = Ending(command.status, command.body, own, actor.name, task.tries + 1)
        if ending.size > self.settings.payload_bytes_max:
            message = f"the result has {ending.size} octets, {self.settings.payload_bytes_max} are allowed here"
            ending = self._failure(task, Code.PAYLOAD_TOO_LARGE, message)
        self._settle(task, ending)

    def _release(self, session: Session, command: Release, own: Sequence[Any], now: float) -> None:
        task = self.tokens.get((command.epoch, command.number))
        if task is not None and task.actor is session.peer and command.typed is None:
            task.is_released = True

    def _reject(self, session: Session, command: Reject, own: Sequence[Any], now: float) -> None:
        actor = session.peer
        assert isinstance(actor, Actor)
        task = self.tokens.get((command.epoch, command.number))
        if task is None or task.actor is not actor or not is_owned(task):
            return
        if task.barred is None:
            task.barred = {}
        task.barred[actor] = (actor.labels_version, session.number)
        self.requeue(task, f"actor {actor.name} rejected it: {command.reason}", burns=None)

    def _host_beat(
        self, session: Session, command: HostBeat, own: Sequence[Any], now: float
    ) -> None:
        host = session.peer
        assert isinstance(host, Host)
        host.attest(command.actors, now)

    def _death(self, session: Session, command: Death, own: Sequence[Any], now: float) -> None:
        actor = self.actors.get(command.incarnation)
        self.bury(command.incarnation)
        if actor is None:
            return
        if command.signal is not None:
            how = f"died of signal {command.signal}"
        elif command.exit_code is not None:
            how = f"ended with exit status {command.exit_code}"
        else:
            how = "died"
        started = dict.fromkeys(command.started, "crash") | dict.fromkeys(
            command.finished, "finished"
        )
        liveness.lose(self, actor, f"actor {actor.name} {how}", now, started=started)

    def _bye(self, session: Session, command: Bye, own: Sequence[Any], now: float) -> None:
        peer = session.peer
        if isinstance(peer, Client):
            self.note("client_left", client=peer.name, tasks=len(peer.tasks))
            liveness.forget_client(self, peer)
        elif isinstance(peer, Actor):
            self.note("actor_left", actor=peer.name, reason=command.reason)
            self.bury(peer.incarnation)
            liveness.lose(self, peer, f"actor {peer.name} left", now, started={}, keep_session=True)
        else:
            self.hosts.pop(peer.incarnation, None)
            self.note("host_left", host=peer.name, reason=command.reason)
        self.say(session, ByeAck())
        session.is_closing = True

    # ------------------------------------------------------------------ what happens to a task

    def requeue(self, task: Task, reason: str, *, burns: str | None) -> None:
        """The current assignment is gone.

        *burns* says what is known of the run: None, it never started; "crash", its process died in it; "loss", it may
        have started; "finished", it ended and the outcome was lost.
        """
        self.detach(task)
        if task.state is State.UNCLAIMED_RUN:
            self.unclaimed.pop(task)
            self._erase(task)
            return
        self._cancel_children(task)
        if burns is not None and task.call.at_most_once:
            self.end(task, Code.OUTCOME_UNKNOWN, f"{reason}; it may have run")
            return
        if burns in ("crash", "loss"):
            task.tries += 1
            task.crashes += burns == "crash"
            task.losses += burns == "loss"
            task.remember(reason)
            settings = self.settings
            if task.crashes >= settings.crashes_max or task.losses >= settings.losses_max:
                self.end(task, Code.POISON_TASK, f"given up after {task.tries} tries: {reason}")
                return
            self.say(task.client.session, Requeued(task.number, task.tries, reason))
        task.move(Event.REQUEUE)
        self.backlog.push(task, is_back=True)

    def end(self, task: Task, code: Code, message: str) -> None:
        """End *task* by the broker's own decision. It is in no queue and with no actor."""
        ending = self._failure(task, code, message)
        task.move(Event.SETTLE)
        task.ending = ending
        self.note("task_ended", task=task.name, code=code, message=message)
        self._unload(task)
        self.deliver(task)

    def deliver(self, task: Task) -> None:
        """Say the outcome to the client, if it is there; it stays until the client has it."""
        client, ending = task.client, task.ending
        session = client.session
        if session is None:
            return
        assert ending is not None
        result = Result(
            task.number,
            ending.status,
            ending.body,
            len(ending.frames),
            ending.actor,
            ending.attempt,
        )
        self.say(session, result, ending.frames)
        # After say: a frame that was full is sealed by it.
        client.unreceived.append((session.frame_next, task, ending.size))
        client.unreceived_bytes += ending.size
        if client.unreceived_bytes >= self.settings.window_bytes:
            client.is_paused = True

    def drop(self, task: Task, *, force: bool = False, reason: str) -> None:
        """Nobody wants *task* any more: stop its run, let its actor forget its outcome."""
        if is_owned(task):
            assert task.actor
            assert task.token
            epoch, number = task.token
            if not task.is_finished:
                self.say(task.actor.session, Stop(epoch, number, force, reason))
            self._cancel_children(task)
        self.forget(task)

    def forget(self, task: Task) -> None:
        """Let go of *task*, acknowledging its outcome to the actor that keeps it."""
        self.held.pop(task, None)
        self.unclaimed.pop(task, None)
        if task.state is State.QUEUED:
            self.backlog.forget(task)
        ended = task.state is State.ENDED or task.state is State.UNCLAIMED_OUTCOME
        actor, token = task.actor, task.token
        if ended and token is not None and actor is not None and actor.session is not None:
            actor.session.outcome_acks.append(token)
            self._hurry(actor.session, task.ending.size if task.ending else 0)
        self.detach(task)
        self._erase(task)

    def detach(self, task: Task) -> None:
        """Take the current assignment from *task*, if it has one."""
        token, actor = task.token, task.actor
        if token is not None:
            del self.tokens[token]
            if actor is not None:
                actor.assigned.pop(token, None)
        task.token = task.actor = None
        task.is_released = task.is_finished = False

    def bury(self, incarnation: int, *, replaced: bool = False) -> None:
        """Remember a process that can never come back."""
        self.dead[incarnation] = replaced
        if len(self.dead) > DEAD_KEPT:
            self.dead.popitem(last=False)

    def _erase(self, task: Task) -> None:
        task.move(Event.FORGET)
        client = task.client
        if client.tasks.pop(task.number, None) is not None:
            self._unload(task)
        task.ending = None
        if client.session is None and not client.tasks:
            self.clients.pop(client.incarnation, None)

    def _settle(self, task: Task, ending: Ending) -> None:
        """Take over an outcome from the current assignment; children of a task that ended go on."""
        task.move(Event.SETTLE)
        task.ending = ending
        task.children = None
        self._unload(task)
        if task.state is State.ENDED:
            self.deliver(task)

    def _unload(self, task: Task) -> None:
        """The call itself is not needed any more."""
        task.client.task_bytes -= task.size
        task.size = 0
        task.body, task.frames = b"", ()

    def _failure(self, task: Task, code: Code, message: str) -> Ending:
        failure = Failure(code, "", message, history=task.history or [])
        status = Status.CANCELED if code is Code.CANCELED else Status.LOST
        name = task.actor.name if task.actor else ""
        return Ending(status, codec.encode_failure(failure), (), name, task.tries + 1)

    def _cancel_children(self, task: Task) -> None:
        """A run that is lost will make its children again."""
        children, task.children = task.children, None
        for child in children or ():
            if child.state is not State.FORGOTTEN and child.state is not State.ENDED:
                self.drop(child, reason="its parent was lost")

    def _hurry(self, session: Session, size: int) -> None:
        """Acknowledge now what is large or has gathered; the rest rides on the next frame."""
        waiting = len(session.outcome_acks) + len(session.outcome_acks_stale)
        if size >= OUTCOME_ACK_AT_ONCE_BYTES or waiting >= OUTCOME_ACKS_WAITING_MAX:
            if not session.is_dirty:
                session.is_dirty = True
                self._dirty.append(session)
