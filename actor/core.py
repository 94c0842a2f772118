"""The actor without its sockets and threads: events and the time in, frames and starts out.

The order in which things happen stands here; what is held, granted and kept stands in `mailbox`,
`grant` and `outcomes`. The rule that must not be broken: each assignment that was received ends in
an outcome, a REJECT, or a STOP, and until then stands in every inventory.
"""

from collections.abc import Sequence
from math import inf
from typing import Any

from actor.events import entering, fencing, hearing, starting
from actor.events.entering import Entering
from actor.events.fencing import Fence
from actor.events.stopping import Stopping
from actor.granting.grant import Statement
from actor.granting.inventory import make_beat, make_hello
from actor.granting.labels import merge_labels
from actor.granting.prefetch import Prefetch
from actor.granting.returns import Returns
from actor.granting.standing import Standing, may_take
from actor.holding.awaiting import Awaiting
from actor.holding.mailbox import Assignment, Mailbox, Payloads, StopOrder
from actor.holding.occupying import Occupying, Typed
from actor.holding.outcomes import Outcomes, failure_too_large
from actor.holding.reacquiring import Answer, Reacquiring, Reply
from actor.holding.recipe import Buffer, Recipe
from actor.invariants import check
from actor.settings import Settings
from wire.errors import RemoteProtocolError
from wire.labels import Labels, differing
from wire.messages import (
    Await,
    Bye,
    Credit,
    Error,
    Frame,
    LabelsChanged,
    Occupy,
    Reacquire,
    Release,
    Vacate,
)
from wire.parts import Environment, Failure, Held, Status, Token
from wire.payload import size_of
from wire.session import COMMANDS, NOTHING, OPEN, Due, PeerSession, State, Verdict
from wire.tables import ReceiverTable

# After a send that found no connection; ZeroMQ reconnects by itself, about as often.
RETRY_S = 0.25
# Looked up once, for the path of each task.
WAITING = Held.WAITING
RUNNING = Held.RUNNING

Note = tuple[str, dict[str, Any]]
Outgoing = tuple[Frame[Any], Sequence[Buffer]]


class ActorCore:
    """Decides everything that an actor says and starts."""

    def __init__(self, settings: Settings, *, incarnation: int, now: float) -> None:
        """Begin without a session and with every slot free."""
        self.settings = settings
        self.incarnation = incarnation
        self.session = PeerSession(now, seed=incarnation)
        self.mailbox = Mailbox(settings.slots, settings.environments_max, settings.units)
        self.reacquiring = Reacquiring(self.mailbox)
        self.outcomes = Outcomes()
        self.prefetch = Prefetch(settings.prefetch)
        self.returns = Returns(self.mailbox, self.prefetch, self.outcomes, self.note)
        # What it is to be told since the last HELLO.
        self.commands: list[Release | Reacquire | Occupy | Vacate | Await] = []
        self.occupying = Occupying(self.session, self.commands.append)
        self.awaiting = Awaiting(self.mailbox, self.commands.append)
        grace_s = settings.force_grace_s
        self.stopping = Stopping(
            grace_s, self.reacquiring, self.occupying, self.awaiting, self.outcomes, note=self.note
        )
        self.entering, self.fence = Entering(), Fence()
        self.labels: Labels = dict(settings.labels)
        self.labels_version, self._labels_said = 1, 0
        self.is_draining = False
        # Whether the host is to start another process once this one has left.
        self.is_retiring = False
        self.is_spare = False  # Whether one may follow when it is needed again.
        self.standing = Standing(settings.memory_high)
        self.exit_reason = ""  # Why the process has to end although something runs.
        self.upserted: Labels = {}
        self.now = now
        # What the broker has of this session: tables, labels, credit.
        self.functions: ReceiverTable[tuple[bytes, Buffer]] = ReceiverTable(0)
        self.recipes: ReceiverTable[Recipe] = ReceiverTable(0)
        self.said = Statement()
        self.starts: list[Assignment] = []
        self._notes: list[Note] = []
        self._beat_at = self._drain_at = inf
        self.bye_session = 0
        # The highest token that ever came: numbers only grow, so what is not above it came before.
        self.highest: Token = (0, 0)
        self.is_stale = False  # Whether something changed that may let a waiting one start.

    # --- what the loop asks

    @property
    def is_drained(self) -> bool:
        """Tell whether the actor has left, or has nobody left to tell."""
        if not self.is_draining:
            return False
        if self.session.state is State.ENDED or self.now >= self._drain_at:
            return True
        return not (self.mailbox.held or self.outcomes.kept or self.session.is_open)

    @property
    def is_silent(self) -> bool:
        """Tell whether nothing waits to be said, credit and heartbeats apart."""
        return self._labels_said == self.labels_version and not (
            self.commands
            or self._notes
            or self.returns.said_next
            or self.outcomes.fresh
            or self.entering.said_next
        )

    @property
    def failure(self) -> Error | None:
        """Return why the broker will not talk to this actor, if so."""
        ended, error = self.session.state is State.ENDED, self.session.error
        return error if ended and error and error.fatal else None

    @property
    def has_orders(self) -> bool:
        """Tell whether a run or the host is to be told something, or an environment to be left."""
        return bool(
            self.stopping.orders
            or self.reacquiring.answers
            or self.occupying.answers
            or (self.entering.evictions or self.awaiting.refused)
            or self.fence.is_new
        )

    def deadline(self) -> float:
        """Return when the core next wants a tick."""
        now = self.now if self.is_stale or self.starts or self.has_orders else inf
        # Without a session there is nothing to beat for.
        beat_at = self._beat_at if self.session.is_open else inf
        may_be_stuck = self.prefetch.ahead and (self.mailbox.waiting or self.mailbox.is_full)
        look_at = self.prefetch.look_at if may_be_stuck else inf
        own = min(now, beat_at, look_at, self._drain_at, self.stopping.deadline)
        if self.entering.until:
            own = min(own, self.entering.deadline)
        return min(own, self.reacquiring.deadline, self.session.deadline())

    def take_starts(self) -> list[Assignment]:
        """Return what is to be started now, in order; each has its slots and its turn."""
        while self.is_stale:
            starting.start_all(self)
        starts = self.starts
        if starts:
            self.starts = []
        return starts

    def take_stops(self) -> list[StopOrder]:
        """Return which running ones are to be told that nobody wants them."""
        return self.stopping.take()

    def take_answers(self) -> list[Answer]:
        """Return which runs that asked for their slots are to be told what became of it."""
        return self.reacquiring.take()

    def take_settled(self) -> list[Token]:
        """Return the runs that the board can forget."""
        settled = self.outcomes.settled
        if settled:
            self.outcomes.settled = []
        return settled

    def take_notes(self) -> list[Note]:
        """Return what happened, for the log and the tests."""
        notes = self._notes
        if notes:
            self._notes = []
        return notes

    # --- what happens

    def receive(self, frame: Frame[Any], payloads: Payloads, now: float) -> None:
        """Act on a frame of the broker. Never raises."""
        self.now = now
        verdict = self.session.accept(frame, now)
        if verdict is COMMANDS:
            self.outcomes.received(frame.received)
            if frame.received >= self.prefetch.probe:
                self.prefetch.answered(now)
            try:
                hearing.hear(self, frame, payloads)
            except RemoteProtocolError as error:
                self.bad(error, now)
            return
        match verdict:
            case Verdict.WELCOME:
                self._open(now)
            case Verdict.CLOSED:
                self.note(
                    "session_closed", reason="the broker does not know it, or a frame is missing"
                )
            case Verdict.FATAL:
                self.note("refused", reason=str(self.session.error))
            case Verdict.DROP:
                pass

    def bad(self, error: RemoteProtocolError, now: float) -> None:
        """Note what the broker said wrong, and begin again or end."""
        self.note("bad_frame", code=error.code, reason=error.message)
        self.session.misread(error, now)

    def broken(self, now: float) -> None:
        """Note that a frame could not be sent: no connection, so what was said is lost."""
        self.session.close(now, wait_s=RETRY_S)

    def tick(self, now: float) -> None:
        """Note the time, and end what has had its own."""
        self.now = now
        if now >= self.stopping.deadline:
            self.stopping.expire(self.mailbox.held, now)
            self.reconsider()
            if now >= self.stopping.force_at:
                self.exit_reason = self.stopping.why_forced
            if now >= self.stopping.fence_at:
                fencing.expire(self)
        if self.entering.until and now >= self.entering.deadline:
            entering.expire(self)
        if self.mailbox.reacquiring:
            starting.expire(self)
        if now >= self.prefetch.look_at:
            self.returns.look(now)
            self.is_stale = True

    def finished(  # noqa: PLR0917 - on the path of each task.
        self,
        token: Token,
        status: Status,
        body: Buffer,
        frames: Payloads,
        run_s: float,
        now: float,
        checkpoint: Buffer | None = None,
    ) -> None:
        """Take the outcome of a run, and its slots and turn back. An unknown one is ignored."""
        self.now = now
        prefetch = self.prefetch
        assignment = self.mailbox.held.get(token)
        if assignment is None or assignment.held is WAITING:
            return
        if assignment.held is RUNNING:
            prefetch.runs += 1
            prefetch.busy_s += run_s
        self.leave(assignment)
        if assignment.is_stopped:
            self.outcomes.settled.append(token)
            return
        welcome = self.session.welcome
        octets = len(body) + (sum(map(size_of, frames)) if frames else 0)
        if welcome is not None and octets > welcome.payload_bytes_max:
            body = failure_too_large(assignment, status, body, octets, welcome.payload_bytes_max)
            status, frames = Status.FAILURE, ()
        serial = 0
        if checkpoint is not None:
            serial, frames = self.mailbox.residents.named.seal(assignment, frames, checkpoint)
        self.outcomes.keep(assignment, status, body, frames, run_s, serial)

    def leave(self, assignment: Assignment) -> None:
        """Take slots and turn of a run back that has returned."""
        mailbox = self.mailbox
        if self.prefetch.is_stuck:
            self.prefetch.freed()
        if self.entering.until:
            self.entering.end(assignment.token)
        if mailbox.reacquiring:
            self.reacquiring.drop(assignment.token, Reply.ENDED)
        mailbox.end(assignment)
        if mailbox.residents.worn:
            entering.give_up_worn(self)
        if self.occupying.runs or assignment.is_stopped:
            self.occupying.ended(assignment)
        if mailbox.waiting or mailbox.reacquiring:
            self.is_stale = True
        if self.stopping.ended(assignment.token):
            self.reconsider()

    def release(self, token: Token, typed: Typed, now: float, *, keeps: bool = False) -> bool:
        """Take back the slots and the turn of a running one; tell whether it had any of that."""
        self.now = now
        mailbox = self.mailbox
        assignment = mailbox.held.get(token)
        if assignment is None or not mailbox.release(assignment, typed):
            return False
        if self.entering.again:
            self.entering.end(token)  # What it came back to could not be entered.
        self.is_stale |= bool(mailbox.waiting or mailbox.reacquiring)
        if mailbox.residents.worn:
            entering.give_up_worn(self)
        if not assignment.is_stopped:
            self.commands.append(self.occupying.released(assignment, typed, keeps=keeps))
        return True

    def reacquire(
        self,
        token: Token,
        slots: dict[str, int],
        now: float,
        *,
        timeout_s: float | None = None,
        within: list[int] | None = None,
    ) -> None:
        """Let a run wait until it holds *slots* in all, and its turn; `take_answers` says how."""
        self.now = now
        until = inf if timeout_s is None else now + timeout_s
        self.reacquiring.ask(token, slots, until, within)
        self.is_stale = True

    def refresh_timeout(self, token: Token, seconds: float, now: float) -> None:
        """Let a run have *seconds* more from now. An unknown one is ignored."""
        self.now = now
        self.stopping.refresh(self.mailbox.held.get(token), seconds, now)

    def withdraw(self, token: Token, now: float) -> None:
        """Let a run wait for its slots no longer."""
        self.now = now
        self.reacquiring.drop(token, Reply.CANCELED)
        self.is_stale = True

    def change_labels(self, labels: Labels, now: float, *, deleted: Sequence[str] = ()) -> None:
        """Offer *labels* in place of what stood under their keys, and take back those *deleted*."""
        self.now = now
        self.upserted = {**self.upserted, **labels}
        for key in deleted:
            self.upserted.pop(key, None)
        self.relabel()

    def entered(
        self, token: Token | None, environment: Environment, load_s: float, now: float
    ) -> None:
        """Note that an environment is warm, which the run *token* has entered."""
        self.now = now
        entering.entered(self, token, environment, load_s)

    def not_entered(self, token: Token, failure: Failure, now: float) -> None:
        """Hand back a run whose environment could not be entered, and is cold by now."""
        self.now = now
        entering.failed(self, token, failure)

    def environment_lost(self, identity: str, now: float) -> None:
        """Note that an environment could not be entered, or that its `reset` has failed."""
        self.now = now
        entering.lost(self, identity)

    def drain(self, now: float, deadline_s: float | None = None, *, is_spare: bool = False) -> None:
        """Hand back what waits, finish what runs, and leave, after *deadline_s* in any case."""
        self.now = now
        self.is_spare = is_spare and (self.is_spare or not self.is_draining)
        if deadline_s is not None:
            self._drain_at = min(self._drain_at, now + deadline_s)
        if not self.is_draining:
            self.is_draining = True
            self.returns.close(kept=len(self.outcomes.kept))
        self.reconsider()

    def pause(self, now: float, *, paused: bool = True) -> None:
        """Take no new work, or take some again; what runs goes on."""
        self.now = now
        self.standing.is_paused = paused
        self.reconsider()

    def press(self, share: float, of: str, now: float) -> None:
        """Take no new work while *share* of the memory of a machine or cgroup is too much."""
        self.now = now
        if self.standing.pressure.look(share, of):
            self.note("memory", high=self.standing.pressure.is_high, used=round(share, 3), of=of)
            self.reconsider()

    def flush(self, now: float) -> list[Outgoing]:
        """Return what is to be sent now, in order."""
        self.now = now
        session = self.session
        due = session.due(now)
        if session.state is not OPEN:
            if due is Due.HELLO and not self.is_drained:
                return [(self._hello(now), ())]
            return []
        # A REJECT goes before the labels that lift it.
        returns, named = self.returns, self.mailbox.residents.named
        commands: list[Any] = returns.take(session.sent + 1) if returns.said_next else []
        if self.entering.said_next:
            commands += self.entering.take()
        if self._labels_said != self.labels_version:
            self._labels_said = self.labels_version
            commands.append(LabelsChanged(self.labels_version, self.labels))
        if self.awaiting.said:
            self.awaiting.take_back()
        if now >= self._beat_at or due is not NOTHING:
            credit = self._credit()
            self._beat_at = now + session.heartbeat_s
            self.standing.say(session.sent + 1)
            commands.append(make_beat(self, credit))
            self.said.say(credit)
            self.awaiting.state()
            if self.fence.names:
                self.fence.said(session.sent + 1, now)
        elif not named.has_untold:
            news = self.said.news(self.mailbox, self.prefetch.ahead, may_grant=self._may_grant)
            if news is not None:
                commands.append(news)
        if self.commands:
            commands += self.commands
            self.commands.clear()
        sent: list[Outgoing] = []
        if self.outcomes.fresh:
            for outcomes, payloads, tokens in self.outcomes.take_fresh():
                sent += session.ahead(payloads) if payloads else ()
                # Slots and labels stand before the first outcome, whichever frame that is in.
                frame = session.frame(commands + outcomes, now)
                sent.append((frame, payloads))
                self.outcomes.sent(frame.number, tokens)
                commands = []
        if self.is_draining and self._may_leave():
            self.bye_session = session.number
            commands.append(Bye("drained"))
        if commands:
            sent.append((session.frame(commands, now), ()))
        if named.has_untold:
            sent += entering.tell_residents(self, now, may_grant=self._may_grant)
        if sent and self.prefetch.may_probe:
            self.prefetch.said(session.sent, now)
        return sent

    def check(self) -> None:
        """Assert every invariant."""
        check(self, self._credit(), highest=self.highest, labels_said=self._labels_said)

    # --- sessions

    def _hello(self, now: float) -> Frame[Any]:
        """Open a session. What happened until now stands in HELLO, what happens after is said."""
        self.commands.clear()
        self.returns.take(0)
        self.outcomes.begin_session()
        self.prefetch.greets(now)
        self._beat_at = inf
        self._labels_said = self.labels_version
        self.standing.say(0)
        return self.session.hello(make_hello(self), now)

    def _open(self, now: float) -> None:
        welcome = self.session.welcome
        assert welcome is not None
        self.functions = ReceiverTable(welcome.functions_max)
        self.recipes = ReceiverTable(welcome.templates_max)
        self.said.void()
        self.awaiting.void()
        self.prefetch.answered(now)
        self.outcomes.say_all()
        entering.greet(self)
        self._beat_at = now + welcome.heartbeat_s
        fencing.greet(self, welcome)
        self.reconsider()
        self.note("welcome", epoch=self.session.epoch, holding=len(self.mailbox.held))

    def _may_leave(self) -> bool:
        is_said = self.bye_session == self.session.number
        return not (is_said or self.mailbox.held or self.outcomes.kept)

    @property
    def _may_grant(self) -> bool:
        """Tell whether it takes new work at all."""
        return may_take(self) and self.outcomes.octets <= self.settings.kept_bytes_max

    def _credit(self) -> Credit:
        return entering.credit_of(self, may_grant=self._may_grant)

    # --- starting and ending

    def reconsider(self) -> None:
        """Find out whether something new may start; when not, nothing waits here."""
        standing, self.is_stale = self.standing, True
        standing.reconsider(is_draining=self.is_draining, is_forced=self.stopping.is_forced)
        if not may_take(self):
            self.returns.hand_back(standing.closed)
        if standing.closed != standing.said and self.session.is_open:
            self._beat_at = self.now

    def relabel(self) -> None:
        labels = merge_labels(self.settings.labels, self.upserted, self.mailbox.residents.labels())
        if differing(self.labels, labels):
            self.labels = labels
            self.labels_version += 1
            self.is_stale |= bool(self.mailbox.waiting)

    def note(self, event: str, **fields: object) -> None:
        self._notes.append((event, fields))
