"""The actor without its sockets and threads: events and the time in, frames and starts out.

What the broker is told is computed from what the mailbox holds, and said only where it differs from what the broker
must already think. An outcome is kept until it is acknowledged, whatever becomes of sessions meanwhile.
"""

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Any, Final

from actor.labels import merge_labels
from actor.mailbox import Assignment, Buffer, Mailbox, Payloads, Recipe, Warmth
from actor.settings import SLOT, Settings
from wire.codec import INLINE_BYTES_MAX
from wire.errors import Code, RemoteProtocolError
from wire.labels import Labels, satisfies_all
from wire.messages import (
    ActorBeat,
    ActorHello,
    Assign,
    Beat,
    Bye,
    ByeAck,
    Credit,
    Drain,
    Error,
    Frame,
    Function,
    Held,
    Holding,
    Kept,
    LabelsChanged,
    Outcome,
    OutcomeAck,
    Reject,
    Release,
    Status,
    Stop,
    Template,
    Token,
)
from wire.session import Due, PeerSession, State, Verdict
from wire.tables import ReceiverTable

# A frame of outcomes that are said again stays far below the limits of a control frame.
COMMANDS_A_FRAME_MAX: Final = 512
PAYLOADS_A_FRAME_MAX: Final = 16_384
# What keeping an outcome costs beside its octets.
KEPT_OVERHEAD_BYTES: Final = 256

Note = tuple[str, dict[str, Any]]
Outgoing = tuple[Frame[Any], Sequence[Buffer]]


class KeptOutcome:
    """An outcome that the broker has not acknowledged."""

    __slots__ = ("client", "command", "payloads", "size", "task", "token")

    def __init__(self, assignment: Assignment, command: Outcome, payloads: Payloads) -> None:
        """Keep *command* with its payload frames for *assignment*."""
        self.token = assignment.token
        self.client = assignment.client
        self.task = assignment.task
        self.command = command
        self.payloads = payloads
        self.size = KEPT_OVERHEAD_BYTES + len(command.body) + sum(map(len, payloads))


class StopOrder:
    """Whom to tell that nobody wants it any more."""

    __slots__ = ("assignment", "force", "reason")

    def __init__(self, assignment: Assignment, *, force: bool, reason: str) -> None:
        """Name the run and why."""
        self.assignment = assignment
        self.force = force
        self.reason = reason


class ActorCore:
    """Decides everything that an actor says and starts."""

    def __init__(self, settings: Settings, *, incarnation: int, now: float) -> None:
        """Begin without a session and with every slot free."""
        self.settings = settings
        self.incarnation = incarnation
        self.session = PeerSession(now, seed=incarnation)
        self.mailbox = Mailbox(settings.slots, settings.environments_max)
        self.labels: Labels = dict(settings.labels)
        self.labels_version = 1
        self.is_draining = False
        # Why the process has to end although something runs, or nothing.
        self.exit_reason = ""
        self.kept: dict[Token, KeptOutcome] = {}
        self._kept_bytes = 0
        self._upserted: Labels = {}
        self._now = now
        # What the broker knows: of this session's tables, labels and credit.
        self._functions: ReceiverTable[tuple[bytes, Buffer]] = ReceiverTable(0)
        self._recipes: ReceiverTable[Recipe] = ReceiverTable(0)
        self._labels_said = 0
        self._said: list[Any] | None = None
        # What it is to be told: since HELLO, outcomes apart, which are said again in any case.
        self._commands: list[Reject | Release] = []
        self._fresh: list[KeptOutcome] = []
        # Outcomes on their way: the frame that carries them, oldest first.
        self._in_flight: deque[tuple[int, list[Token]]] = deque()
        self._settled: list[Token] = []
        self._stops: list[StopOrder] = []
        self._starts: list[Assignment] = []
        self._notes: list[Note] = []
        self._beat_at = inf
        self._drain_at = inf
        self._force_at = inf
        self._bye_session = 0
        # The highest token that ever came: numbers only grow, so what is not above it came before.
        self._highest: Token = (0, 0)
        # Whether something changed that may let a waiting one start.
        self._is_stale = False

    # --- what the loop asks

    @property
    def is_drained(self) -> bool:
        """Tell whether the actor has left, or has nobody left to tell."""
        if not self.is_draining:
            return False
        if self.session.state is State.ENDED or self._now >= self._drain_at:
            return True
        return not self.mailbox.held and not self.kept and not self.session.is_open

    @property
    def failure(self) -> Error | None:
        """Return why the broker will not talk to this actor, if so."""
        error = self.session.error
        return error if self.session.state is State.ENDED and error and error.fatal else None

    def deadline(self) -> float:
        """Return when the core next wants a tick."""
        return min(self.session.deadline(), self._beat_at, self._drain_at, self._force_at)

    def take_starts(self) -> list[Assignment]:
        """Return what is to be started now, in order; each has its slots and its turn."""
        if self._is_stale:
            self._pump()
        starts, self._starts = self._starts, []
        return starts

    def take_stops(self) -> list[StopOrder]:
        """Return which running ones are to be told that nobody wants them."""
        stops, self._stops = self._stops, []
        return stops

    def take_settled(self) -> list[Token]:
        """Return the runs that can be forgotten: their outcome is at the broker, or nobody wants it."""
        settled, self._settled = self._settled, []
        return settled

    def take_notes(self) -> list[Note]:
        """Return what happened, for the log and the tests."""
        notes, self._notes = self._notes, []
        return notes

    # --- what happens

    def receive(self, frame: Frame[Any], payloads: Payloads, now: float) -> None:
        """Act on a frame of the broker. Never raises."""
        self._now = now
        match self.session.accept(frame, now):
            case Verdict.COMMANDS:
                in_flight = self._in_flight
                while in_flight and in_flight[0][0] <= frame.received:
                    self._settled += in_flight.popleft()[1]
                try:
                    self._act(frame, payloads)
                except RemoteProtocolError as error:
                    self.bad(error, now)
            case Verdict.WELCOME:
                self._open(now)
            case Verdict.CLOSED:
                self._note(
                    "session_closed", reason="the broker does not know it, or a frame is missing"
                )
            case Verdict.FATAL:
                assert self.session.error is not None
                self._note("refused", reason=self.session.error.message)
            case Verdict.DROP:
                pass

    def bad(self, error: RemoteProtocolError, now: float) -> None:
        """Note what the broker said wrong, and begin again."""
        self._note("bad_frame", code=error.code, reason=error.message)
        self.session.close(now)

    def broken(self, now: float) -> None:
        """Note that a frame could not be sent: there is no connection, so what was said is lost."""
        self.session.close(now, wait_s=min(0.25, self.session.heartbeat_s))

    def tick(self, now: float) -> None:
        """Note the time."""
        self._now = now
        if now >= self._force_at:
            self._end_by_force()

    def finished(
        self,
        token: Token,
        status: Status,
        body: Buffer,
        frames: Payloads,
        run_s: float,
        now: float,
    ) -> None:
        """Take the outcome of a run, and its slot and turn back. An unknown one is ignored."""
        self._now = now
        assignment = self.mailbox.held.get(token)
        if assignment is None or assignment.held is Held.WAITING:
            return
        self.mailbox.end(assignment)
        if self.mailbox.waiting:
            self._is_stale = True
        if assignment.is_stopped:
            self._settled.append(token)
            return
        if len(body) > INLINE_BYTES_MAX:
            frames, body = (body, *frames), b""
        command = Outcome(token[0], token[1], status, bytes(body), len(frames), run_s)
        kept = self.kept[token] = KeptOutcome(assignment, command, frames)
        self._kept_bytes += kept.size
        self._fresh.append(kept)

    def release(self, token: Token, typed: dict[str, int] | None, now: float) -> bool:
        """Take back the slots and the turn of a running one; tell whether it had any of that left."""
        self._now = now
        assignment = self.mailbox.held.get(token)
        if assignment is None or not self.mailbox.release(assignment, typed):
            return False
        self._is_stale = True
        if not assignment.is_stopped:
            self._commands.append(Release(token[0], token[1], typed))
        return True

    def change_labels(self, labels: Labels, now: float, *, deleted: Sequence[str] = ()) -> None:
        """Offer *labels* from now on in place of what stood under their keys, and take back those *deleted*."""
        self._now = now
        self._upserted = {**self._upserted, **labels}
        for key in deleted:
            self._upserted.pop(key, None)
        self._relabel()

    def environment_changed(self, identity: str, state: str, now: float) -> None:
        """Note that an environment is warm, or cold since it could not be loaded."""
        self._now = now
        if self.mailbox.residents.change(identity, Warmth(state)):
            self._relabel()
            self._is_stale = True

    def drain(self, now: float, deadline_s: float | None = None) -> None:
        """Ask for no more, hand back what waits, and leave when the rest is done or *deadline_s* has passed."""
        self._now = now
        if deadline_s is not None:
            self._drain_at = min(self._drain_at, now + deadline_s)
        if not self.is_draining:
            self.is_draining = True
            self._note("draining", holding=len(self.mailbox.held), kept=len(self.kept))
        self._hand_back("draining")

    def flush(self, now: float) -> list[Outgoing]:
        """Return what is to be sent now, in order."""
        self._now = now
        session = self.session
        due = session.due(now)
        if due is Due.HELLO and not self.is_drained:
            return [(self._hello(now), ())]
        if not session.is_open:
            return []
        if self._is_stale:
            self._pump()
        commands: list[Any] = []
        if self._labels_said != self.labels_version:
            self._labels_said = self.labels_version
            commands.append(LabelsChanged(self.labels_version, self.labels))
        credit = self._credit()
        if due is Due.BEAT or now >= self._beat_at:
            self._beat_at = now + session.heartbeat_s
            commands.append(self._beat(credit))
            self._say(credit)
        elif self._said != [credit.free, credit.ahead, credit.room, credit.turns, credit.typed]:
            commands.append(credit)
            self._say(credit)
        if self._commands:
            commands += self._commands
            self._commands = []
        sent: list[Outgoing] = []
        payloads: list[Buffer] = []
        if self._fresh:
            commands, payloads = self._add_outcomes(commands, sent, now)
        if self._may_leave():
            self._bye_session = session.number
            commands.append(Bye("drained"))
        if commands:
            sent.append((session.frame(commands, now), payloads))
        return sent

    def check(self) -> None:
        """Assert every invariant."""
        self.mailbox.check()
        assert not self.kept.keys() & self.mailbox.held.keys()
        assert self._kept_bytes == sum(kept.size for kept in self.kept.values())
        assert all(kept.token in self.kept for kept in self._fresh)
        assert all(token <= self._highest for token in self.mailbox.held)
        credit = self._credit()
        held = len(self.mailbox.waiting) + len(self.mailbox.holders)
        slots = self.settings.slots.get(SLOT, 0)
        assert 0 <= credit.free <= slots
        assert 0 <= credit.ahead <= self.settings.prefetch
        # Whatever was assigned, what is granted on top never exceeds slots and mailbox.
        if all(len(a.slots) == 1 for a in self.mailbox.held.values()):
            assert credit.free + credit.ahead <= max(0, slots + self.settings.prefetch - held) or (
                any(a.slots.get(SLOT) != 1 for a in self.mailbox.held.values())
            )
        if self.is_draining:
            assert credit.free == credit.ahead == credit.room == 0
            assert not self.mailbox.waiting
        for order in self._stops:
            assert order.assignment.is_stopped
        assert self._labels_said <= self.labels_version

    # --- what the broker says

    def _act(self, frame: Frame[Any], payloads: Payloads) -> None:
        at = 0
        for command in frame.commands:
            match command:
                case Assign():
                    mine = payloads[at : at + command.frames]
                    at += command.frames
                    self._assign(frame.epoch, command, mine)
                case Beat():
                    pass
                case OutcomeAck():
                    self._acknowledge(command)
                case Function():
                    mine = payloads[at : at + command.frames]
                    at += command.frames
                    code = mine[0] if mine and not command.body else command.body
                    self._functions.put(command.slot, (command.hash, code))
                case Template():
                    self._recipes.put(command.slot, self._recipe(command))
                case Stop():
                    self._stop(command)
                case Drain():
                    self.drain(self._now, command.deadline_s)
                case ByeAck():
                    if self._bye_session == self.session.number:
                        self.session.end()
                case Error():
                    self._note("told_of_error", code=command.code, reason=command.message)
                    if command.code == Code.UNKNOWN_TEMPLATE:
                        self.session.close(self._now)
                case _:
                    self._note("not_for_an_actor", command=type(command).__name__)

    def _recipe(self, command: Template) -> Recipe:
        code = {digest: code for digest, code in self._functions.values()}
        call = command.call
        return Recipe(
            call,
            code=code.get(call.function),
            blob=code.get(call.environment.blob) if call.environment else None,
        )

    def _assign(self, epoch: int, command: Assign, payloads: Payloads) -> None:
        token = (epoch, command.number)
        if token <= self._highest:
            self._note("assigned_twice", token=token)
            return
        self._highest = token
        self._spend(command)
        if self._bye_session == self.session.number:
            # BYE hands back whatever the broker believes to be here.
            return
        recipe = self._recipes.get(command.template)
        if recipe is None:
            self._reject(token, f"template {command.template} did not come")
        elif recipe.missing:
            self._reject(token, recipe.missing)
        elif not self.mailbox.fits(recipe.slots):
            self._reject(token, f"needs {recipe.slots}, this actor has {self.settings.slots}")
        elif self.is_draining or self._force_at != inf:
            self._reject(token, "draining")
        else:
            assignment = Assignment(
                token,
                client=command.client,
                task=command.task,
                attempt=command.attempt,
                recipe=recipe,
                body=command.body,
                payloads=payloads,
            )
            self.mailbox.put(assignment)
            self._is_stale = True

    def _stop(self, command: Stop) -> None:
        assignment = self.mailbox.held.get((command.epoch, command.number))
        if assignment is None:
            return
        if assignment.held is Held.WAITING:
            self.mailbox.drop(assignment)
            self._is_stale = True
            return
        assignment.is_stopped = True
        self._stops.append(StopOrder(assignment, force=command.force, reason=command.reason))
        if command.force:
            self._force_at = min(self._force_at, self._now + self.settings.force_grace_s)
            self._hand_back("the process is about to end")

    def _acknowledge(self, command: OutcomeAck) -> None:
        for token in (*command.accepted, *command.stale):
            kept = self.kept.pop(token, None)
            if kept is not None:
                self._kept_bytes -= kept.size
                self._settled.append(token)
                if self._fresh:
                    self._fresh = [fresh for fresh in self._fresh if fresh is not kept]

    # --- sessions

    def _hello(self, now: float) -> Frame[Any]:
        """Open a session with all that is held. What happened until now stands in it, what happens from now on does not."""
        settings = self.settings
        self._commands = []
        self._fresh = []
        self._in_flight.clear()
        self._beat_at = inf
        self._labels_said = self.labels_version
        hello = ActorHello(
            self.incarnation,
            settings.name,
            settings.host,
            settings.pid,
            settings.python,
            self.labels_version,
            self.labels,
            settings.slots,
            settings.prefetch,
            [
                Holding(held.client, held.task, held.token, held.held)
                for held in self.mailbox.held.values()
                if not held.is_stopped
            ],
            [Kept(kept.client, kept.task, kept.token) for kept in self.kept.values()],
        )
        return self.session.hello(hello, now)

    def _open(self, now: float) -> None:
        welcome = self.session.welcome
        assert welcome is not None
        self._functions = ReceiverTable(welcome.functions_max)
        self._recipes = ReceiverTable(welcome.templates_max)
        self._said = None
        self._fresh = list(self.kept.values())
        self._beat_at = now + welcome.heartbeat_s
        self._note("welcome", epoch=self.session.epoch, holding=len(self.mailbox.held))

    def _may_leave(self) -> bool:
        return (
            self.is_draining
            and not self.mailbox.held
            and not self.kept
            and self._bye_session != self.session.number
        )

    def _beat(self, credit: Credit) -> ActorBeat:
        return ActorBeat(
            credit,
            self.labels_version,
            self.labels,
            [held.token for held in self.mailbox.held.values() if not held.is_stopped],
            {
                identity: replica.warmth.value
                for identity, replica in self.mailbox.residents.by_id.items()
            },
        )

    def _add_outcomes(
        self, commands: list[Any], sent: list[Outgoing], now: float
    ) -> tuple[list[Any], list[Buffer]]:
        """Append the fresh outcomes to *commands*; what does not fit into one frame goes into more, before it."""
        payloads: list[Buffer] = []
        tokens: list[Token] = []
        for kept in self._fresh:
            count = len(payloads) + len(kept.payloads)
            if len(commands) >= COMMANDS_A_FRAME_MAX or (payloads and count > PAYLOADS_A_FRAME_MAX):
                frame = self.session.frame(commands, now)
                sent.append((frame, payloads))
                self._in_flight.append((frame.number, tokens))
                commands, payloads, tokens = [], [], []
            commands.append(kept.command)
            payloads += kept.payloads
            tokens.append(kept.token)
        self._in_flight.append((self.session.sent + 1, tokens))
        self._fresh = []
        return commands, payloads

    # --- credit

    def _credit(self) -> Credit:
        """Compute what the actor grants from what it holds."""
        settings, mailbox = self.settings, self.mailbox
        residents = mailbox.residents
        may_grant = not (
            self.is_draining or self._force_at != inf or self._kept_bytes > settings.kept_bytes_max
        )
        unclaimed = mailbox.slots_unclaimed()
        free = unclaimed.pop(SLOT, 0)
        if not may_grant:
            return Credit(0, 0, 0, dict.fromkeys(residents.by_id, 0), {})
        ahead = min(settings.prefetch, settings.prefetch + free)
        awaited = mailbox.awaited() if mailbox.waiting else {}
        return Credit(
            max(0, free),
            max(0, ahead),
            residents.room(awaited),
            residents.turns(awaited) if residents.by_id else {},
            {kind: max(0, amount) for kind, amount in unclaimed.items()} if unclaimed else {},
        )

    def _say(self, credit: Credit) -> None:
        self._said = [credit.free, credit.ahead, credit.room, dict(credit.turns), credit.typed]

    def _spend(self, command: Assign) -> None:
        """Follow what the broker computes: one assignment takes one of what was stated."""
        said = self._said
        if said is None:
            return
        if said[0] > 0:
            said[0] -= 1
        else:
            said[1] = max(0, said[1] - 1)
        recipe = self._recipes.get(command.template)
        if recipe is None or recipe.slots != {SLOT: 1}:
            # Only the plain case is followed; after any other the whole is stated again.
            self._said = None
        elif recipe.call.environment is not None:
            identity, turns = recipe.call.environment.id, said[3]
            if identity in turns:
                turns[identity] = max(0, turns[identity] - 1)
            else:
                said[2] = max(0, said[2] - 1)

    # --- starting

    def _pump(self) -> None:
        """Start whatever can start, rejecting what the labels satisfy no more."""
        self._is_stale = False
        mailbox = self.mailbox
        while mailbox.waiting:
            assignment = mailbox.next_start()
            if assignment is None:
                return
            recipe = assignment.recipe
            if recipe.call.desires and recipe.satisfied_version != self.labels_version:
                if not satisfies_all(self.labels, recipe.call.desires):
                    mailbox.drop(assignment)
                    self._reject(assignment.token, "the labels of this actor changed")
                    continue
                recipe.satisfied_version = self.labels_version
            mailbox.start(assignment)
            self._starts.append(assignment)
            if assignment.evicts:
                self._relabel()

    def _hand_back(self, reason: str) -> None:
        """Reject everything that waits."""
        for assignment in list(self.mailbox.waiting):
            self.mailbox.drop(assignment)
            self._reject(assignment.token, reason)

    def _reject(self, token: Token, reason: str) -> None:
        self._commands.append(Reject(token[0], token[1], reason))
        self._note("rejected", token=token, reason=reason)

    def _relabel(self) -> None:
        labels = merge_labels(self.settings.labels, self._upserted, self.mailbox.residents.labels())
        if labels != self.labels:
            self.labels = labels
            self.labels_version += 1
            self._is_stale = True

    def _end_by_force(self) -> None:
        """End the process for runs that must end and did not return, unless they have meanwhile."""
        self._force_at = inf
        if any(held.is_stopped for held in self.mailbox.held.values()):
            self.exit_reason = "a run that was to be ended did not return"
        else:
            self._is_stale = True

    def _note(self, event: str, **fields: object) -> None:
        self._notes.append((event, fields))
