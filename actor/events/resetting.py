"""A `reset` that takes too long: nobody waits for it any longer (protocol.md section 9.7, rule 6).

The rule that must not be broken: what a run has come to is not lost for what cleans up after it.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from actor.events import entering
from actor.holding.mailbox import Payloads
from actor.holding.outcomes import failure_late, fitting
from actor.holding.recipe import Buffer
from wire.parts import Status, Token

if TYPE_CHECKING:
    from actor.core import ActorCore

Ending = tuple[Status, Buffer, Payloads]


def goes_on(
    core: "ActorCore",
    began: float,
    runs: Iterable[tuple[Token, Ending | None, float]],
    where: Callable[[], str],
) -> None:
    """Note that a `reset` goes on which *began* then; after too long have done with its *runs*.

    Each stands there with its outcome and how long it ran. One without was to give its turn back
    and go on: it has had its time. The process ends unless the reset is over soon.
    """
    for token, ending, run_s in runs:
        assignment = core.mailbox.held.get(token)
        environment = assignment.recipe.call.environment if assignment is not None else None
        if assignment is None or environment is None or token in core.stopping.unwanted:
            continue
        timeout_s = environment.reuse.enter_timeout_s
        if timeout_s is None or core.now < began + timeout_s:
            continue
        message = (
            f"environment {environment.name} could not be reset within its enter_timeout of"
            f" {timeout_s:g} s"
        )
        hangs = where()
        # Nobody hears of a run that was canceled; but its slot is held for as long as that takes.
        if not assignment.is_stopped:
            late = Status.EXPIRED, failure_late(assignment, message, hangs), ()
            told = fitting(core.session.welcome, assignment, *(ending or late))
            core.outcomes.keep(assignment, *told, run_s)
        core.note("reset_timed_out", task=assignment.name, after_s=timeout_s, where=hangs)
        entering.lost(core, environment.id)
        core.stopping.order(assignment, core.now, force=True, reason=message)
        core.reconsider()
