"""Processes around the real cores: what their loops do, with a virtual clock and no socket.

Each takes turns as its loop does: hear what arrived, let the core decide, send. A frozen one hears
nothing and later everything at once.
"""

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any

from actor.core import ActorCore
from actor.events import fencing
from actor.events.starting import start_next
from actor.holding.mailbox import Assignment
from actor.holding.reacquiring import Answer, Reply
from actor.machine.board import ENTERING, FINISHED, STARTED, Runs
from actor.settings import EXIT_SPARE, HostSettings
from actor.settings import Settings as ActorSettings
from actor.supervision import HostCore, Phase, Ward
from broker.core import Broker
from broker.events.defining import define
from broker.settings import Settings as BrokerSettings
from sdk.calls.call import Settings as ClientSettings
from sdk.core import ClientCore
from tests.sim import bounds, kinds, labels, sessions, turns, typed, waiting
from tests.sim.counters import named_of
from tests.sim.network import Message, Wire, packed
from tests.sim.oracle import STICKY_TTL_S
from tests.sim.waiting_ahead import Mailbag, check_strict_start
from wire.codec import check_payloads, decode_broker, decode_peer, encode
from wire.errors import Code, RemoteProtocolError
from wire.limits import read_definition
from wire.messages import Assign, OutcomeAck
from wire.parts import Environment, Failure, Held, Status, Token

if TYPE_CHECKING:
    from tests.sim.world import World

# How often a run is followed by the next at once.
FOLLOWS = 0.5
# More than is allowed, where a seed has something huge.
HUGE = 40_000
# The smallest that works.
SMALLEST = {
    "functions_max": 1,
    "templates_max": 1,
    "sticky_keys_max": 1,
    "adopt_window_s": 0.1,
    "client_timeout_s": 1.0,
    "outcome_ttl_s": 60.0,
    "gil_grace_s": 6.0,
    "isolation_s": 1.0,
    "environment_failures_max": 1,
    "environment_retry_s": 0.1,
    "scale_after_s": 0.1,
    "scale_down_s": 0.5,
}
# When nobody leaves who is not needed.
NEVER_S = 3_600.0
# How long a start may take, where some hang.
START_TIMEOUT_S = 4.0
# How long a slow process rests after a turn.
REST_S = 0.5
# From how late on a broker takes it that it was stopped.
STALL_S = 1.0
# How often a run fails that may be tried again.
RETRIED_FAILS = 0.5
# What every broker is told of limits, and what runs ask for from inside.
LIMITS = ("a=1", "b=2", "k=1:per-key", "c=1:per-key:strategy=cancel-in-progress")
ASKED = ("a", "b", "k[x]", "host:gpu")
RIVALS = "c[x]"
STRICT = "s=1:strict"


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
            self.wake_at(max(now if self.inbox else self.deadline(), self.rests_until))

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


class BrokerProcess(Process):
    """The broker."""

    kind = "broker"

    def __init__(self, world: "World", epoch: int) -> None:
        """Start with nothing remembered but *epoch*."""
        super().__init__(world, "broker")
        # At which of POINTS it ends, and at the how manyth time that it comes there.
        self.dies_at: tuple[str, int] | None = None
        self.lying: bounds.Lying
        self.core = Broker(broker_settings(world.profile), epoch=epoch, now=world.now)
        self.core.had_earlier = world.has_journal and world.had_broker
        texts = (*LIMITS, *kinds.limits(world.profile))
        texts += (STRICT,) if world.profile.strict else ()
        for definition in (*map(read_definition, texts), *world.stored_limits()):
            define(self.core, definition, is_stored=True)
        if world.ledger is not None:
            world.ledger.begin(self)

    def turn(self, now: float) -> None:
        """As broker.loop: receive, tick when it is time, send until nobody is unreachable."""
        core = self.core
        self.lying = bounds.Lying(core)
        deadline = core.deadline()
        for wire, (control, payloads) in self.batch():
            try:
                frame = decode_peer(control)
            except RemoteProtocolError as error:
                sessions.at_broker(self, wire.peer, wire.rid, None)
                self.world.oracle.silence.heard(wire.peer, None)
                before = set(core.sessions)
                core.bad(wire.rid, error, now)
                bounds.check_bad(core, wire.rid, before)
            else:
                sessions.at_broker(self, wire.peer, wire.rid, frame)
                self.world.oracle.silence.heard(wire.peer, frame)
                self.receive(wire, frame, list(payloads), now)
        if now >= deadline:
            heard = bounds.leases(core) if now > deadline + STALL_S else {}
            core.tick(now)
            bounds.check_leases(core, heard)
        if self.reaches("received"):
            return
        is_settled, may_pause = False, True
        while not is_settled:
            outgoing = core.flush(now, may_pause=may_pause)
            may_pause, is_settled = False, not core.ready
            for rid, frame, payloads in outgoing:
                control = encode(frame)
                if self.reaches("send"):
                    return
                is_refused = self.finds_no_room()
                message = packed(control, payloads)
                wire_down = None if is_refused else self.world.network.send_down(rid, message)
                if wire_down is None:
                    session = core.sessions.get(rid)
                    if session is not None:
                        self.world.oracle.crashes.unsent(session.peer.incarnation, frame)
                    sessions.unreachable(self, rid)
                    core.unreachable(rid, now)
                    is_settled = False
                    continue
                self.world.told(wire_down.peer, control, frame)
            if self.reaches("flushed"):
                return
            sequence, operations = core.take_operations()
            if operations and self.world.ledger is not None:
                self.world.ledger.submit(self, sequence, operations)
                if self.reaches("submitted"):
                    return
            elif operations:
                self.world.stored_epoch = max(self.world.stored_epoch, core.epoch)
                self.world.after(
                    self.world.rng.choice((0.0, 0.02)),
                    lambda sequence=sequence: self._commit(sequence),
                )
        for event, fields in core.take_notes():
            self.world.broker_noted(event, fields)
        core.tidy()

    def receive(self, wire: Wire, frame: Any, payloads: list[Any], now: float) -> None:
        """Hear a frame, and look whether more was promised than the disk can keep."""
        ledger = self.world.ledger
        refused = ledger.refuses(self.core, wire.peer, frame) if ledger is not None else []
        crashes = self.world.oracle.crashes
        former = crashes.overtaking(self.core, frame) if frame.number == 0 else None
        self.core.receive(wire.rid, frame, payloads, now)
        self.world.oracle.families.heard(self.core, frame)
        if former is not None:
            crashes.greeted(self.core, former)
        if ledger is not None and refused:
            ledger.check_refused(self.core, refused)

    def reaches(self, point: str) -> bool:
        """Tell whether it ended at *point*, in the middle of what it does."""
        if self.dies_at is None or self.dies_at[0] != point or not self.is_alive:
            return False
        self.dies_at = (point, self.dies_at[1] - 1)
        if self.dies_at[1] > 0 or self.world.is_healing:
            return False
        self.world.count(f"broker ends at {point}")
        return self.world.kill_broker()

    def _commit(self, sequence: int) -> None:
        if self.is_alive and not self.reaches("announced"):
            self.core.committed(sequence, self.world.now)
            if not self.reaches("committed"):
                self.wake_at(self.world.now)

    def announced(self, sequence: int) -> None:
        """Hear from the journal what is on disk."""
        self._commit(sequence)
        if self.is_alive and self.world.ledger is not None:
            self.world.ledger.check_replay(self)

    def deadline(self) -> float:
        return self.core.deadline()

    def check(self) -> None:
        self.core.check()
        bounds.check_windows(self.core, self.world.oracle)
        bounds.check_tables(self.core)
        labels.check_waiting(self.world)
        self.world.oracle.families.looked(self.core)
        self.world.oracle.crashes.looked(self.core)
        self.world.oracle.keeping.looked(self.core)
        self.world.oracle.rates.looked(self.core)
        self.world.oracle.counters.looked(self.core)

    def end(self) -> None:
        self.is_alive = False
        unread = list(self.inbox)
        self.inbox.clear()
        self.asleep.clear()
        if self.world.ledger is not None:
            self.world.ledger.lose()
        self.world.network.broker_dies(unread)


def broker_settings(profile: Any) -> BrokerSettings:
    """Return what a broker is told: some numbers as small as can be, where the seed wants that."""
    shrunk = {name: SMALLEST[name] for name in profile.shrunk if name in SMALLEST}
    if not profile.lets_go:
        shrunk["scale_down_s"] = NEVER_S
    return BrokerSettings(
        sticky_ttl_s=STICKY_TTL_S,
        window_tasks=profile.window_tasks,
        window_bytes=profile.window_bytes,
        payload_bytes_max=HUGE // 2 if profile.huge else 2**28,
        **shrunk,
    )


class Run:
    """A task that runs in an actor process."""

    __slots__ = (
        "asked",
        "assignment",
        "began",
        "copy",
        "ends",
        "is_asking",
        "is_released",
        "is_told_to_stop",
        "is_waiting",
        "regains",
        "slots",
        "status",
        "task",
        "units",
        "waits_for",
    )

    def __init__(self, assignment: Assignment, task: Any, now: float) -> None:
        """Begin holding a slot."""
        self.began = now
        self.assignment = assignment
        self.task = task
        self.is_released = False
        # Which of all copies of its environment in this process it is in.
        self.copy = 0
        # How often it asked for limits from inside.
        self.asked = 0
        # The asks that it cannot end without, and how it would end.
        self.waits_for: set[int] = set()
        self.ends, self.status = False, Status.RESULT
        self.is_told_to_stop = False
        # Whether it waits for a call of its own, and which wait is over but for its slots.
        self.is_waiting = False
        self.regains: waiting.Wait | None = None
        # What it holds of each type, as far as it knows, and which units; whether it asks for more.
        self.slots: dict[str, int] = {}
        self.units: dict[str, tuple[str, ...]] = {}
        self.is_asking = False
        typed.begin(self)


class ActorProcess(Process):
    """An actor with simulated user code, and the board that its host reads."""

    kind = "actor"

    def __init__(self, world: "World", ward: Ward, host: "HostProcess", incarnation: int) -> None:
        """Start under *host*."""
        super().__init__(world, ward.name)
        profile = world.profile
        self.host = host
        self.ward = ward
        self.incarnation = incarnation
        self.labels_version = 1
        settings = ActorSettings(
            name=ward.name,
            host=host.incarnation,
            pid=ward.pid,
            python="3.11",
            labels=world.labels_of(ward.name),
            slots={"slot": host.core.settings.slots, **host.core.settings.typed},
            units=host.core.settings.units,
            prefetch=profile.prefetch,
            environments_max=profile.environments_max,
            kept_bytes_max=1 if "kept_bytes_max" in profile.shrunk else 160_000,
        )
        self.core = ActorCore(settings, incarnation=incarnation, now=world.now)
        self.runs: dict[Token, Run] = {}
        # What the host reads: token -> how it stands; gone when settled.
        self.board: dict[Token, int] = {}
        # For whose sake the process ends, when it does by its own will.
        self.doomed: set[Token] | None = None
        # What the board tells of strict limits: the actor its host, and the host the actor.
        self.renewed_at: float | None = None
        self.vouched_at = -inf
        self.slots = host.core.settings.slots
        self.capacity = settings.slots
        self.mailbag = Mailbag(world.now)
        self.cpu_s = 0.0
        self.is_busy_while_frozen = False
        # Whether it never comes as far as to its first turn.
        self.hangs = False
        # Whether it must be paused, as long as no operator had a say in it.
        # None: what the broker was told of its name may come to it, now or later.
        self.wants_paused: bool | None = None if ward.name in world.ordered else False

    def pause(self, *, paused: bool) -> None:
        """Let a task pause the actor, or have it go on."""
        if self.wants_paused is not None:
            self.wants_paused = paused
        self.core.pause(self.world.now, paused=paused)
        self.wake_at(self.world.now)

    def press(self, share: float) -> None:
        """Let the actor find that much of the memory used."""
        self.core.press(share, "machine", self.world.now)
        self.wake_at(self.world.now)

    def wake_at(self, when: float) -> None:
        if not self.hangs:
            super().wake_at(when)

    def turn(self, now: float) -> None:
        """As actor.loop: tick, receive, start, stop, send, settle."""
        core, world = self.core, self.world
        kept, acknowledged = set(core.outcomes.kept), set()
        self.mailbag.begins(self)
        core.tick(now)
        for _, (control, payloads) in self.batch():
            frame = decode_broker(control)
            check_payloads(frame, payloads)
            sessions.at_peer(self, core.session, frame)
            core.receive(frame, payloads, now)
            acknowledged |= acknowledged_in(frame)
        bounds.check_kept(self, kept, acknowledged)
        starts = core.take_starts()
        self.mailbag.started(self, starts)
        self._tell_host()
        for assignment in starts:
            self._start(assignment)
        if not self.is_alive:
            return
        for order in core.take_stops():
            self._stop(order.assignment.token)
        for answer in core.take_answers():
            self._answered(answer)
        for told in core.occupying.take_answers():
            self._occupied((told.epoch, told.number), told.ask, told.code)
        for identity in core.entering.take_evictions():
            world.oracle.copies.left(self, identity)
        for wait, reason in core.awaiting.take_refused():
            wait.refuse(reason)
            world.oracle.told_of_circle(wait)
        for frame, payloads in sessions.watched(self, core.flush):
            if not self.send(frame, payloads):
                core.broken(now)
                break
        for token in core.take_settled():
            self.board.pop(token, None)
        for event, fields in core.take_notes():
            world.note(event, self, *fields.values())
            if event == "timed_out":
                world.oracle.expired(fields["token"])
        self._tell_host()
        if core.exit_reason and not fencing.vouched(core, self.vouched_at):
            world.note("EXITS", self, core.exit_reason)
            self.doomed = set(core.stopping.unwanted)
            self.die(exit_code=4)
        elif core.is_drained:
            bounds.check_left(self)
            if core.is_spare:
                world.count("scaled down")
            self.die(exit_code=EXIT_SPARE if core.is_spare else 0, has_left=not core.is_spare)
        if core.failure is not None and self.is_alive:
            # A late HELLO of a dead process took its name; the host starts another.
            assert core.failure.code == Code.NAME_TAKEN, (self.name, core.failure)
            assert not self.world.profile.is_deadly
            self.die(exit_code=3)
        if world.profile.strict:
            world.oracle.check_strict()

    def _tell_host(self) -> None:
        fence = self.core.fence
        if fence.is_new:
            fence.is_new = False
            self.renewed_at = fence.renewed_at if fence.is_held else None

    def read_board(self) -> Runs:
        """Return what the host reads when the process has ended, as `actor.machine.board` does."""
        started, finished, entering = (
            sorted(token for token, state in self.board.items() if state == wanted)
            for wanted in (STARTED, FINISHED, ENTERING)
        )
        if self.doomed is None:
            return Runs(started, finished, entering, [])
        beside = [token for token in started if token not in self.doomed]
        return Runs(sorted(set(started) & self.doomed), finished, entering, beside)

    def deadline(self) -> float:
        return self.core.deadline()

    def check(self) -> None:
        self.core.check()
        mailbox = self.core.mailbox
        if self.wants_paused is not None:
            assert self.core.standing.is_paused == self.wants_paused, "it forgot that it is paused"
        if not self.core.is_draining:
            there = (*mailbox.waiting, *mailbox.holders.values())
            held = typed.slots_of((one.recipe.call, one.slots) for one in there)
            for kind, amount in held.items():
                ahead = self.core.prefetch.maximum if kind == typed.SLOT else 0
                granted = self.capacity.get(kind, 0) + ahead
                assert amount <= granted, f"more of {kind!r} was assigned than granted"
        turns.check_actor(self)
        self.mailbag.check(self)
        for token, run in self.runs.items():
            held_as = mailbox.held[token].held
            assert held_as is (Held.RELEASED if run.is_released else Held.RUNNING)

    def is_idle(self) -> bool:
        """Tell whether nothing runs, waits or is kept here, and all slots are granted."""
        credit = self.world.broker_credit(self.incarnation)
        known = self.world.broker_typed(self.incarnation)
        return (
            not self.runs
            and not self.core.mailbox.held
            and not self.core.outcomes.kept
            and credit == self.slots + self.core.prefetch.ahead
            and known == {k: n for k, n in self.capacity.items() if k != typed.SLOT}
        )

    def later(self, delay: float, act: Any) -> None:
        """Call *act* after *delay* of this process's own time."""

        def call() -> None:
            if not self.is_alive:
                return
            if self.is_frozen:
                self.asleep.append(call)
                self.wake_at(self.world.now)
                return
            act()
            if self.is_alive:
                self.wake_at(self.world.now)

        self.world.after(delay, call)

    # --- user code

    def _start(self, assignment: Assignment) -> None:
        world, token = self.world, assignment.token
        task = world.oracle.started(self, assignment)
        check_strict_start(self, assignment)
        run = self.runs[token] = Run(assignment, task, world.now)
        world.oracle.copies.comes_in(self, run)
        self.board[token] = ENTERING if assignment.loads else STARTED
        if assignment.recipe.call.limits:
            world.oracle.check_limits()
        world.note("STARTS", self, task.name, token)
        environment = assignment.recipe.call.environment
        rng = world.rng
        if environment is not None and assignment.loads:
            is_entered = rng.random() >= world.profile.enter_fail or world.is_healing
            delay = rng.uniform(0.0, world.profile.run_s)
            if rng.random() < world.profile.enter_crash and not world.is_healing:
                self.later(delay, lambda: self.die(signal=11))
                return
            self.later(delay, lambda: self._loaded(run, environment, is_entered))
        else:
            self._works(run)

    def _loaded(self, run: Run, environment: Environment, is_entered: bool) -> None:
        core, now, token = self.core, self.world.now, run.assignment.token
        if is_entered:
            self.world.note("enters", self, token)
            if environment.named is not None:
                self.world.oracle.counters.entered(self, environment)
            core.entered(token, environment, 0.5, now)
        if self.runs.get(token) is not run:
            return
        if is_entered:
            self.board[token] = STARTED
            self.world.oracle.copies.entered(environment)
            self.world.oracle.copies.failures.pop(environment.id, None)
            self.world.oracle.counters.begins(run.task)
            if run.is_told_to_stop:
                self._finish(run, Status.CANCELED)
            else:
                self._works(run)
            return
        self.world.note("FAILS to enter", self, token)
        self.world.oracle.copies.failed(environment)
        self.world.oracle.counters.failed(environment)
        del self.runs[token]
        if not run.is_told_to_stop:
            self.world.oracle.not_entered(run.task, token)
        core.not_entered(token, Failure("environment-failed", "E", "it failed"), now)

    def _works(self, run: Run) -> None:
        world, profile, rng = self.world, self.world.profile, self.world.rng
        recipe = run.assignment.recipe
        if recipe.is_entry and named_of(recipe.call) is None:
            self._finish(run, Status.RESULT)
            return
        length = rng.uniform(0.0, profile.run_s)
        if rng.random() < profile.hang:
            length *= 8
            world.count("hang")
        if world.is_healing:
            length = min(length, 1.0)
        chance = rng.random
        ends = profile.crash + profile.oom + profile.exits + profile.along
        if not world.is_healing and chance() < ends:
            self.later(length, lambda: self._crashes(run))
            return
        if chance() < profile.release:
            self.later(length * rng.random(), lambda: self._release(run))
        if not world.is_healing and chance() < profile.child:
            self.later(length * rng.random(), lambda: self._submit_child(run))
        if profile.ask and chance() < profile.ask:
            self.later(length * rng.random(), lambda: self._ask(run))
        if profile.churn and chance() < profile.churn and not world.is_healing:
            for _ in range(max(1, round(profile.churn))):
                self.later(length * rng.random(), lambda: labels.flip(self))
        fails = RETRIED_FAILS if run.assignment.recipe.call.retries else profile.fail
        status = Status.FAILURE if chance() < fails else Status.RESULT
        self.later(length, lambda: self._finish(run, status))

    def _crashes(self, run: Run) -> None:
        """Let a run end its process: a signal, the kernel for want of memory, or exit."""
        profile, rng = self.world.profile, self.world.rng
        if not self._is_running(run):
            return
        chances = {"crash": profile.crash, "oom": profile.oom, "exit": profile.exits}
        chances["along"] = profile.along
        (kind,) = rng.choices(list(chances), list(chances.values()))
        self.world.count(kind)
        match kind:
            case "crash":
                self.die(signal=rng.choice((6, 7, 11)))
            case "oom":
                self.die(signal=9)
            case "along":
                self.world.end_all(self.host)
            case _:
                # Also what a process of ours would end with, that means something else.
                self.die(exit_code=rng.choice((0, 1, 3, 4, 5, 6)))

    def _is_running(self, run: Run) -> bool:
        return self.runs.get(run.assignment.token) is run

    def _release(self, run: Run) -> None:
        if self._is_running(run) and not run.is_released:
            token, part = run.assignment.token, typed.part_of(run)
            assert self.core.release(token, part, self.world.now)
            if part is None:
                self.core.prefetch.given_back(self.world.now - run.began)
            run.is_released = part is None
            typed.gave(run, part)
            self.world.count("released a part" if part else "released")
            self.world.note("releases", self, token, *([part] if part else ()))
            # Told apart by the number, so that nothing else of the seed's history changes.
            if self.world.profile.reacquire and token[1] % 3:
                self.later(0.05 * (token[1] % 7), lambda: self._reacquire(run))

    def _reacquire(self, run: Run) -> None:
        token = run.assignment.token
        slots = typed.cost_of(run.assignment.recipe.call)
        if self._is_running(run) and run.slots != slots and not run.is_waiting:
            self.world.note("reacquires", self, token)
            timeout_s = 0.3 if token[1] % 2 else None
            run.is_asking = True
            self.core.reacquire(token, slots, self.world.now, timeout_s=timeout_s)

    def _answered(self, answer: Answer) -> None:
        token, reply = answer.token, answer.reply
        self.world.note("is answered", self, token, reply.value)
        self.world.oracle.copies.gives_up(self, answer.evicts)
        run = self.runs.get(token)
        if run is not None:
            run.is_asking = False
            if reply is Reply.DEADLOCK:
                self.world.oracle.told_of_circle_of_slots(run)
        if run is not None and reply is Reply.GRANTED:
            had_none, run.is_released = run.is_released, False
            call = run.assignment.recipe.call
            typed.regained(run, typed.cost_of(call), answer.units)
            self.world.oracle.copies.comes_in(self, run)
            if call.limits and had_none:
                limits = call.limits
                # As a reacquiring task does: the slots first, then what it had of limits.
                self.core.occupying.ask(run.assignment, token, 0, limits)
                self.wake_at(self.world.now)
            if run.assignment.loads:
                environment = run.assignment.recipe.call.environment
                assert environment is not None
                self.core.entered(token, environment, 0.5, self.world.now)
                self.wake_at(self.world.now)
        if run is not None and run.regains:
            waiting.over(self, run, run.regains)

    def _ask(self, run: Run) -> None:
        """Ask for a limit from inside, for a while."""
        if self._is_running(run):
            run.asked += 1
            number, token = run.asked, run.assignment.token
            wanted = {self.world.rng.choice(ASKED): 1}
            if self.world.profile.strict and token[1] % 2:
                wanted = {"s": 1}
            if self.world.profile.rival and self.world.rng.random() < self.world.profile.rival:
                wanted = {RIVALS: 1}
                self.world.oracle.rivals.add(id(run.task.produced))
            self.world.note("asks", self, token, number, wanted)
            self.core.occupying.ask(run.assignment, token, number, wanted)
            delay = self.world.rng.uniform(0.0, 1.0)
            if delay < 0.5:
                # As a block that is entered without a timeout.
                run.waits_for.add(number)
            else:
                self.later(delay, lambda: self.core.occupying.vacate(token, number))

    def _occupied(self, token: Token, number: int, code: str) -> None:
        self.world.note("is told", self, token, number, code or "has it")
        assert code in ("", "canceled", "ended", "withdrawn", "deadlock"), code
        self.world.oracle.check_limits()
        self._tell_host()
        run = self.runs.get(token)
        if run is not None and number in run.waits_for:
            if not code and waiting.begin_inside(self, run, number):
                return
            self.later(0.1, lambda: self.leave_block(run, number))

    def leave_block(self, run: Run, number: int) -> None:
        """Let a run go on behind a block, or a wait."""
        run.waits_for.discard(number)
        self.core.occupying.vacate(run.assignment.token, number)
        if run.ends and not run.waits_for:
            self._finish(run, run.status)

    def _submit_child(self, run: Run) -> None:
        if not self._is_running(run):
            return
        record = self.world.submit_child(run.assignment.token)
        profile = self.world.profile
        if record is not None and profile.may_wait and self.world.rng.random() < profile.wait:
            waiting.begin(self, run, record)

    def _finish(self, run: Run, status: Status) -> None:
        token = run.assignment.token
        if not self._is_running(run):
            return
        if run.waits_for:
            run.ends, run.status = True, status
            return
        del self.runs[token]
        self.mailbag.ended += 1
        self.board[token] = FINISHED
        body, frames = self.world.oracle.finished(run.task, token, status)
        if status is Status.RESULT and self.world.is_huge(token[1]):
            run.task.is_huge = True
            frames = (*frames, bytes(HUGE))
        self.world.note("ENDS", self, run.task.name, token, status.value)
        run_s = self.world.now - run.began
        checkpoint = self.world.oracle.counters.finished(self, run.task, token)
        self.core.finished(token, status, body, frames, run_s, self.world.now, checkpoint)
        # As the leader of an actor does between brief runs.
        run.assignment.recipe.run_s = 0.01
        following = start_next(self.core, 1.0) if self.world.rng.random() < FOLLOWS else None
        if following is not None:
            self._start(following)

    def _stop(self, token: Token) -> None:
        run = self.runs.get(token)
        if run is None or run.is_told_to_stop:
            return
        run.is_told_to_stop = True
        if self.board[token] == ENTERING:
            # It never starts, whatever becomes of its environment.
            self.world.oracle.not_entered(run.task, token)
            return
        if self.world.rng.random() < 0.6:
            delay = self.world.rng.uniform(0.0, 0.2)
            self.later(delay, lambda: self._finish(run, Status.CANCELED))

    # --- its end

    def die(
        self, *, exit_code: int | None = None, signal: int | None = None, has_left: bool = False
    ) -> None:
        """End the process; its host reaps it after a moment."""
        if not self.is_alive:
            return
        self.world.note("DIES", self, exit_code, signal)
        if not has_left:
            self.world.oracle.died(self)
        self.end()
        self.world.after(
            self.world.rng.uniform(0.0, 0.05),
            lambda: self.host.reap(self, exit_code, signal, has_left),
        )


class HostProcess(Process):
    """A host and its machine: spawns, watches and reaps actor processes."""

    kind = "host"

    def __init__(self, world: "World", name: str) -> None:
        """Start on a machine where nothing of an earlier host is left."""
        super().__init__(world, name)
        self.incarnation = world.rng.getrandbits(62)
        replicas, slots = world.sizes.get(name, (world.profile.replicas, world.profile.slots))
        settings = HostSettings(
            name=name,
            replicas=replicas,
            replicas_max=replicas + world.profile.spare,
            slots=slots,
            limits={"gpu": 1},
            typed=typed.TYPES if world.profile.typed else {},
            units=typed.UNITS if world.profile.typed else {},
            start_timeout_s=START_TIMEOUT_S if "start_hangs" in world.profile.faults else None,
        )
        self.core = HostCore(settings, incarnation=self.incarnation, pid=1, now=world.now)
        self.actors: dict[int, ActorProcess] = {}
        # How many of the next starts hang.
        self.hanging = 0

    def turn(self, now: float) -> None:
        """As actor.host: tick, receive, spawn, kill, watch, send."""
        core, world = self.core, self.world
        for ward in core.running():
            self.actors[ward.incarnation].vouched_at = core.vouches(ward)
            ward.renewed_at = self.actors[ward.incarnation].renewed_at
            if not self.actors[ward.incarnation].hangs:
                ward.start_by = inf
        core.tick(now)
        for _, (control, _payloads) in self.batch():
            frame = decode_broker(control)
            sessions.at_peer(self, core.session, frame)
            core.receive(frame, now)
        for ward in core.take_spawns():
            incarnation = world.rng.getrandbits(62)
            core.spawned(ward, incarnation=incarnation, pid=world.next_pid(), now=now)
            actor = self.actors[incarnation] = ActorProcess(world, ward, self, incarnation)
            if self.hanging:
                self.hanging -= 1
                actor.hangs = True
                world.count("start hangs")
                world.note("HANGS", actor)
            world.add(actor)
        for ward in core.take_kills():
            if ward.is_ended:
                # By the host's own will: none of its runs is to blame.
                self.actors[ward.incarnation].doomed = set()
            self.actors[ward.incarnation].die(signal=9)
        for ward in core.take_drains():
            self.actors[ward.incarnation].core.drain(now, 3.0)
            self.actors[ward.incarnation].wake_at(now)
        for ward in core.running():
            actor = self.actors[ward.incarnation]
            if not actor.is_frozen or actor.is_busy_while_frozen:
                actor.cpu_s += 0.1
            core.observed(
                ward,
                cpu_s=actor.cpu_s,
                is_stopped=actor.is_frozen and not actor.is_busy_while_frozen,
            )
        for frame in sessions.watched(self, core.flush):
            if not self.send(frame, ()):
                core.broken(now)
                break
        for event, fields in core.take_notes():
            world.note(event, self, *fields.values())
            if event == "actor_wanted":
                world.count("scaled up")
        if core.is_over:
            world.note("LEAVES", self)
            self.end()

    def deadline(self) -> float:
        return self.core.deadline()

    def check(self) -> None:
        self.core.check()
        for actor in self.actors.values():
            has_time = self.world.now < actor.ward.started_at + START_TIMEOUT_S
            assert has_time or not (actor.hangs and actor.is_alive), "a start hangs for ever"

    @property
    def has_left_some(self) -> bool:
        """Tell whether some actor left by order and does not come back."""
        return any(ward.phase is Phase.GONE for ward in self.core.wards)

    @property
    def is_empty(self) -> bool:
        """Tell whether no actor runs here or ever will."""
        is_over = all(ward.phase is Phase.GONE for ward in self.core.wards)
        # Those that an operator drained leave only what may be started.
        return is_over or not any(w.phase in (Phase.DUE, Phase.RUNNING) for w in self.core.wards)

    def reap(
        self, actor: ActorProcess, exit_code: int | None, signal: int | None, has_left: bool
    ) -> None:
        """Learn that *actor* has ended; a host that is stopped learns it later."""
        if not self.is_alive:
            return
        if self.is_frozen:
            self.asleep.append(lambda: self.reap(actor, exit_code, signal, has_left))
            self.wake_at(self.world.now)
            return
        del self.actors[actor.incarnation]
        self.core.died(
            actor.ward,
            exit_code=exit_code,
            signal=signal,
            runs=actor.read_board(),
            overflow=0,
            has_left=has_left,
            now=self.world.now,
        )
        self.wake_at(self.world.now)

    def end(self) -> None:
        """End the host and, by their parents' death, its actors."""
        for actor in list(self.actors.values()):
            if actor.is_alive:
                self.world.oracle.died(actor)
                actor.end()
        super().end()


class ClientProcess(Process):
    """A program that submits."""

    kind = "client"

    def __init__(self, world: "World", name: str) -> None:
        """Start with nothing submitted."""
        super().__init__(world, name)
        self.incarnation = world.rng.getrandbits(62)
        settings = ClientSettings(name=name, python="3.11")
        self.core = ClientCore(settings, incarnation=self.incarnation, now=world.now)

    def connected(self) -> None:
        self.core.connected(self.world.now)
        self.wake_at(self.world.now)

    def turn(self, now: float) -> None:
        """As sdk.loop: receive, tick, send, settle."""
        core = self.core
        for _, (control, payloads) in self.batch():
            frame = decode_broker(control)
            check_payloads(frame, payloads)
            sessions.at_peer(self, core.session, frame)
            before = core.session.received
            core.receive(frame, payloads, now)
            if frame.number and core.session.received > before:
                self.world.oracle.crashes.client_heard(self, frame)
        if now >= core.deadline():
            sessions.watched(self, core.tick)
        outgoing = core.flush(now)
        for at, (frame, payloads) in enumerate(outgoing):
            if not self.send(frame, payloads):
                core.broken(now, [unsent for unsent, _ in outgoing[at:]])
                break
        for number, result, payloads in core.take_outcomes():
            self.world.oracle.resolved(self, number, result, payloads)
        for event, fields in core.take_notes():
            self.world.note(event, self, *fields.values())
        if core.has_left:
            assert core.is_leaving, core.session.error
            self.end()

    def deadline(self) -> float:
        return self.core.deadline()

    def check(self) -> None:
        self.core.check()


def acknowledged_in(frame: Any) -> set[Token]:
    """Return whose outcomes a frame acknowledges."""
    acks = [command for command in frame.commands if type(command) is OutcomeAck]
    return {tuple(token) for ack in acks for token in (*ack.accepted, *ack.stale)}


def assigns(frame: Any) -> list[Assign]:
    """Return the assignments in a frame."""
    return [command for command in frame.commands if type(command) is Assign]
