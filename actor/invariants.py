"""What must hold in an actor's core at any time; tests and the simulator look after each step."""

from typing import TYPE_CHECKING

from actor.granting.grant import check_credit
from actor.granting.standing import may_take
from wire.messages import Credit
from wire.parts import Token

if TYPE_CHECKING:
    from actor.core import ActorCore


def check(core: "ActorCore", credit: Credit, *, highest: Token, labels_said: int) -> None:
    """Assert every invariant."""
    core.mailbox.check()
    core.outcomes.check()
    held = core.mailbox.held
    # A run that has had its time has its outcome before it returns.
    assert all(held[token].is_stopped for token in core.outcomes.kept.keys() & held.keys())
    assert all(token <= highest for token in held)
    core.stopping.check(held)
    core.entering.check(held)
    core.occupying.check(held)
    core.prefetch.check()
    check_credit(credit, core.mailbox, core.prefetch.ahead)
    if not core.is_stale:
        core.returns.check()
    core.standing.check(is_draining=core.is_draining, is_forced=core.stopping.is_forced)
    if not may_take(core):
        assert credit.free == credit.ahead == credit.room == 0
        # A call of a run that waits no more may be about to enter its environment.
        assert core.is_draining or not core.mailbox.waiting
    assert labels_said <= core.labels_version
