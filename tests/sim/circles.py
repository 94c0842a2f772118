"""Who is told of a circle, and who makes way so that nobody need be (protocol.md section 9.8).

Told apart from how the broker looks for circles: of some simple calls anybody can say that they
would start if a run that waits for a limit gave its slot back.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from broker.facts import spans
from broker.facts.task import State
from tests.sim import typed
from wire.errors import Code
from wire.limits import GIVE_BACK
from wire.messages import ActorHello, Occupied, Reacquire, Release, Vacate
from wire.parts import Token

if TYPE_CHECKING:
    from tests.sim.actors import ActorProcess
    from tests.sim.world import World


class Circles:
    """Who was told to give its slots back, and who of a circle."""

    def __init__(self, world: "World") -> None:
        """Begin with nobody told."""
        self.world = world
        # Those that are about to give back, and for which ask.
        self.giving: dict[Token, int] = {}

    def told(self, actor: "ActorProcess", command: Any) -> None:
        """Check what is told to a run that waits."""
        if type(command) is not Occupied:
            return
        if command.code == GIVE_BACK:
            self._check_giver(actor, command)
        elif command.code == Code.DEADLOCK:
            self.giving.pop((command.epoch, command.number), None)
            self._check_circle(actor, command)

    def heard(self, frame: Any) -> None:
        """Follow who gave back, or has no reason any more."""
        for command in frame.commands:
            if type(command) is ActorHello:
                for item in command.holding:
                    self.giving.pop(item.token, None)
            elif type(command) is Vacate:
                token = (command.epoch, command.number)
                if command.ask in {None, self.giving.get(token)}:
                    self.giving.pop(token, None)
            elif type(command) in {Release, Reacquire} and getattr(command, "typed", None) is None:
                self.giving.pop((command.epoch, command.number), None)

    def _check_giver(self, actor: "ActorProcess", command: Occupied) -> None:
        """Check that it can, is told once, and that others wait."""
        token = (command.epoch, command.number)
        assert token not in self.giving, f"{token} is told twice to give its slots back"
        self.giving[token] = command.ask
        run = actor.runs.get(token)
        asked = actor.core.occupying.runs.get(token)
        ask = asked.asks.get(command.ask) if asked is not None else None
        assert ask is None or ask.may_give_back, f"{token} may not give its slots back"
        profile = self.world.profile
        if run is None or not profile.is_gentle or profile.faults or profile.cancel:
            return
        others = [
            other
            for one in self.world.actors
            for other in one.runs.values()
            if other is not run and (other.waits_for or other.is_asking or other.is_waiting)
        ]
        assert others, f"{run.task.name} makes way for nobody who waits"

    def _check_circle(self, actor: "ActorProcess", command: Occupied) -> None:
        """Check that nobody is told of a circle that goes over slots which a run would give back.

        Only of calls that need a slot, and nothing else.
        """
        core = self.world.broker.core
        if core.reservation is not None:
            return
        for call in self._calls_of(actor, command):
            for run in core.limits.runs.values():
                makes_way = (
                    run.giving is None
                    and not (run.is_stopped or run.task.is_released or run.task.is_finished)
                    and any(ask.may_give_back for ask in run.asks.values())
                    and has_slot(run.task)
                    and call.template.shape.suits(run.actor)
                    and not (run.actor.is_leaving or call.barred)
                    and not has_claims(core, run.actor)
                )
                assert not makes_way, f"{run.task.name} could make way for {call.name}"

    def _calls_of(self, actor: "ActorProcess", command: Occupied) -> Iterator[Any]:
        """Return the queued calls that some in the circle wait for and that are as plain as can be.

        Those that the run waits for that is told, or those of which the holders of its limit do.
        """
        core, token = self.world.broker.core, (command.epoch, command.number)
        wait = actor.core.awaiting.waits.get((token, command.ask))
        if wait is not None:
            found = [(wait.record.client.incarnation, wait.record.number)]
        else:
            found = [
                (other.client, number)
                for waits in core.limits.waits.by_run.values()
                for other in waits.values()
                if other.enough and other.task.name in command.message
                if other.client in core.clients
                for number in core.clients[other.client].tasks
                if spans.holds(other.calls, number)
            ]
        for incarnation, number in found:
            client = core.clients.get(incarnation)
            task = client.tasks.get(number) if client is not None else None
            if task is not None and task.state is State.QUEUED and is_plain(task):
                yield task


def is_plain(task: Any) -> bool:
    """Tell whether a task needs a slot and nothing else."""
    if not task.template:
        return False
    call = task.call
    return has_slot(task) and not (call.limits or call.environment or call.sticky)


def has_slot(task: Any) -> bool:
    """Tell whether a task has one slot for itself while it runs."""
    return typed.cost_of(task.call) == {typed.SLOT: 1} and not typed.is_sharing(task.call)


def has_claims(core: Any, actor: Any) -> bool:
    """Tell whether somebody waits on *actor* to have its slots again."""
    waits = [wait for of_run in core.limits.waits.by_run.values() for wait in of_run.values()]
    return any(wait.actor is actor and not wait.enough for wait in waits)
