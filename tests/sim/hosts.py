"""A host's process: what its loop does around its core, and the processes of its machine."""

from math import inf
from typing import TYPE_CHECKING

from actor.settings import HostSettings
from actor.supervision import HostCore, Phase
from tests.sim import ends, sessions, typed
from tests.sim.actors import ActorProcess
from tests.sim.processes import Process
from wire.codec import decode_broker

if TYPE_CHECKING:
    from tests.sim.world import World

# How long a start may take, where some hang.
START_TIMEOUT_S = 4.0


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
            ends.peer_hears(self, frame, now)
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
        ends.look(self)
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
            is_starved=False,
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
