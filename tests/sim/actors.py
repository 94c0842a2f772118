"""An actor's process: what its loop does around its core, and the board that its host reads."""

from math import inf
from typing import TYPE_CHECKING, Any

from actor.core import ActorCore
from actor.events import fencing
from actor.machine.board import ENTERING, FINISHED, STARTED, Runs
from actor.settings import EXIT_SPARE, Settings
from actor.supervision import Ward
from tests.sim import bounds, ends, sessions, turns, typed
from tests.sim.processes import Process
from tests.sim.runs import Run, UserCode
from tests.sim.waiting_ahead import Mailbag
from wire.codec import check_payloads, decode_broker
from wire.errors import Code
from wire.messages import OutcomeAck
from wire.parts import Held, Token

if TYPE_CHECKING:
    from tests.sim.hosts import HostProcess
    from tests.sim.world import World


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
        settings = Settings(
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
        self.user_code = UserCode(self)
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
            ends.peer_hears(self, frame, payloads, now)
            acknowledged |= acknowledged_in(frame)
        starts = core.take_starts()
        self.mailbag.started(self, starts)
        self.tell_host()
        for assignment in starts:
            self.user_code.start(assignment)
        if not self.is_alive:
            return
        for order in core.take_stops():
            self.user_code.stop(order.assignment.token)
        for answer in core.take_answers():
            self.user_code.answered(answer)
        for told in core.occupying.take_answers():
            self.user_code.occupied((told.epoch, told.number), told.ask, told.code)
        for identity in core.entering.take_evictions():
            world.oracle.copies.left(self, identity)
        for end, reason in core.awaiting.take_refused():
            end(reason)
        for frame, payloads in sessions.watched(self, core.flush):
            if not self.send(frame, payloads):
                core.broken(now)
                break
        bounds.check_kept(self, kept, acknowledged)
        for token in core.take_settled():
            self.board.pop(token, None)
        for event, fields in core.take_notes():
            world.note(event, self, *fields.values())
            if event == "timed_out":
                world.oracle.expired(fields["token"])
        self.tell_host()
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
            self.die(exit_code=3)
        if world.profile.strict:
            world.oracle.check_strict()

    def tell_host(self) -> None:
        """Let the host read since when the actor has strict limits, where that is new."""
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
        return Runs(sorted(set(started) & self.doomed), finished, [], beside)

    def deadline(self) -> float:
        return self.core.deadline()

    def check(self) -> None:
        self.core.check()
        ends.look(self)
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

    def die(
        self, *, exit_code: int | None = None, signal: int | None = None, has_left: bool = False
    ) -> None:
        """End the process; its host reaps it after a moment."""
        if not self.is_alive:
            return
        self.world.note("DIES", self, exit_code, signal)
        if has_left:
            self.world.oracle.left(self)
        else:
            self.world.oracle.died(self)
        self.end()
        self.world.after(
            self.world.rng.uniform(0.0, 0.05),
            lambda: self.host.reap(self, exit_code, signal, has_left),
        )


def acknowledged_in(frame: Any) -> set[Token]:
    """Return whose outcomes a frame acknowledges."""
    acks = [command for command in frame.commands if type(command) is OutcomeAck]
    return {tuple(token) for ack in acks for token in (*ack.accepted, *ack.stale)}
