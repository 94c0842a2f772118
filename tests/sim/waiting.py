"""Runs that wait for calls of their own, as `nested` of the sdk and `release` of the actor have it.

A run gives its slots back, looks again and again whether the call has ended, and has its slots
again before it goes on.
"""

from typing import TYPE_CHECKING

from tests.sim import typed
from wire.parts import Span

if TYPE_CHECKING:
    from tests.sim.actors import ActorProcess
    from tests.sim.records import TaskRecord
    from tests.sim.runs import Run
    from tests.sim.world import World

LOOK_S = 0.1


class Wait:
    """One wait for one call."""

    def __init__(
        self, world: "World", record: "TaskRecord", number: int, inside: int | None
    ) -> None:
        """Wait for *record* under *number*, in the block of the ask *inside*."""
        self.world = world
        self.record = record
        self.number = number
        self.inside = inside
        self.is_said = False
        self.within: list[int] | None = None if inside is None else [inside]
        self.refusal = ""

    def calls(self) -> tuple[int, list[Span], int] | None:
        """Return what is waited for."""
        record = self.record
        if not record.is_open:
            return None
        return record.client.incarnation, [(record.number, record.number)], 1

    def refuse(self, reason: str) -> None:
        """End the wait at the next look."""
        self.refusal = reason
        self.world.oracle.told_of_circle(self)

    def cancel(self, reason: str) -> None:
        """End the wait at the next look, since nobody wants the run any more."""
        self.refusal = reason


def begin_inside(actor: "ActorProcess", run: "Run", number: int) -> bool:
    """Let *run* call somebody in the block that it has just entered, now and then."""
    world = actor.world
    if run.is_waiting or world.is_healing or not world.profile.may_wait:
        return False
    if world.rng.random() >= world.profile.wait:
        return False
    record = world.submit_child(run.assignment.token)
    if record is not None:
        begin(actor, run, record, number)
    return record is not None


def begin(
    actor: "ActorProcess", run: "Run", record: "TaskRecord", inside: int | None = None
) -> None:
    """Let *run* wait for *record*."""
    is_busy = run.is_asking and (run.regaining or not run.is_released)
    if run.is_waiting or run.enters or is_busy:
        return
    run.asked += 1
    run.is_waiting = True
    run.waits_for.add(run.asked)
    wait = Wait(actor.world, record, run.asked, inside)
    token = run.assignment.token
    actor.world.note("waits", actor, token, record.name)
    actor.core.awaiting.begin(token, wait.number, wait)
    gave = not run.is_released
    if gave:
        assert actor.core.release(token, None, actor.world.now)
        run.is_released = True
        typed.gave(run, None)
    actor.later(LOOK_S, lambda: look(actor, run, wait, gave=gave))


def look(actor: "ActorProcess", run: "Run", wait: Wait, *, gave: bool) -> None:
    """Go on when the call has ended, or never will."""
    token = run.assignment.token
    if actor.runs.get(token) is not run:
        return
    if wait.record.is_open and not wait.refusal:
        actor.later(LOOK_S, lambda: look(actor, run, wait, gave=gave))
        return
    actor.world.note("waited", actor, token, wait.record.name, wait.refusal)
    actor.core.awaiting.end(token, wait.number)
    if gave:
        run.regains = wait
        slots = run.assignment.recipe.slots
        actor.core.reacquire(token, slots, actor.world.now)
    else:
        over(actor, run, wait)


def over(actor: "ActorProcess", run: "Run", wait: Wait) -> None:
    """Let the run do what comes behind the wait."""
    run.is_waiting = False
    run.regains = None
    if wait.inside is not None:
        actor.later(LOOK_S, lambda: actor.user_code.leave_block(run, wait.inside))
    actor.user_code.leave_block(run, wait.number)
