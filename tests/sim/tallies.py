"""What the broker counts of tasks that have ended: no count falls, and none is counted twice."""

from typing import TYPE_CHECKING, Any

from broker.events import explain
from wire.messages import Attach, Submit

if TYPE_CHECKING:
    from broker.core import Broker

GROWS = ("submitted", "succeeded", "failed", "canceled", "retried", "requeued", "rejected")


class Tallies:
    """Follows the counts of one broker from its start."""

    def __init__(self, core: "Broker") -> None:
        """Begin with what the journal has."""
        self.former = explain.status(core, core.started_at)
        # Each of these makes one task at most.
        self.calls = self.former["submitted"]

    def heard(self, frame: Any) -> None:
        """Count the calls in a *frame* that the broker reads."""
        self.calls += sum(type(command) in {Submit, Attach} for command in frame.commands)

    def looked(self, core: "Broker") -> None:
        """Check what the broker would tell now."""
        told = explain.status(core, core.ticked_at)
        for name in GROWS:
            assert told[name] >= self.former[name], f"{name}: {self.former[name]}, {told[name]}"
        own = core.named.own
        most = self.calls + (own.number if own is not None else 0)
        assert told["submitted"] <= most, f"{told['submitted']} tasks of {most} calls"
        self.former = told
