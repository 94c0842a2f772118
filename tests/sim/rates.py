"""What is told from outside of limits that are not simply held until their holder ends.

What comes back with time is begun no faster, whoever ends; and where the newest cancels the oldest
no two that want the same key are let be.
"""

from typing import TYPE_CHECKING, Any

from tests.sim.kinds import RATE, RATE_MAXIMUM

if TYPE_CHECKING:
    from broker.core import Broker
    from tests.sim.world import World

RIVALS = "c[x]"


class Rates:
    """When what has a rate was given to somebody."""

    def __init__(self, world: "World") -> None:
        """Begin with nothing given."""
        self.world = world
        self.given: list[float] = []

    def assigned(self, call: Any) -> None:
        """Check that within no time more begins than is there at once, and comes back in it."""
        if "r" not in call.limits:
            return
        now = self.world.now
        self.given.append(now)
        for count, at in enumerate(reversed(self.given), 1):
            most = RATE_MAXIMUM + RATE * (now - at) + 1e-6
            assert count <= most, f"{count} begin within {now - at:.3f} s, {most:.3f} may"

    def looked(self, core: "Broker") -> None:
        """Check after a turn that one task alone is at a key where the newest cancels the oldest.

        What an earlier broker let wait is not judged again, and a durable task ends on disk.
        """
        profile = self.world.profile
        if not profile.rival or not profile.is_gentle or profile.is_forgetful or profile.durable:
            return
        there = {
            run.task.name
            for run in core.limits.runs.values()
            if not run.is_stopped and not run.task.is_finished
            for wants in (*run.rows.values(), *(waiter.wants for waiter in run.asks.values()))
            if any(name == RIVALS for name, _ in wants)
        }
        there |= {
            task.name
            for client in core.clients.values()
            for task in client.tasks.values()
            if not (task.is_over or task.is_finished)
            # What nobody has claimed has no call, nor has another name of a task.
            if task.template and RIVALS in task.call.limits
        }
        assert len(there) <= 1, f"{there} are at {RIVALS} together"
