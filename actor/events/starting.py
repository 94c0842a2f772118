"""Which of those that wait in the mailbox start now.

The rule that must not be broken: whoever starts has its slots and its turn, and the labels of this
moment satisfy it.
"""

from typing import TYPE_CHECKING

from actor.events import fencing
from actor.holding.mailbox import Assignment
from wire.labels import satisfies_all
from wire.messages import Reacquire

if TYPE_CHECKING:
    from actor.core import ActorCore


def start_all(core: "ActorCore") -> None:
    """Start whatever can start, those that wait for their slots again first."""
    core.is_stale = False
    mailbox = core.mailbox
    for regained, had_none in core.reacquiring.grant() if mailbox.reacquiring else ():
        if had_none:
            core.commands.append(Reacquire(*regained.token))
        if regained.loads:
            core.entering.begin(regained, core.now, again=True)
        if regained.evicts:
            core.relabel()
    while mailbox.waiting:
        assignment = mailbox.next_start()
        if assignment is None:
            core.returns.trim()
            return
        recipe = assignment.recipe
        if recipe.call.desires and recipe.satisfied_version != core.labels_version:
            if not satisfies_all(core.labels, recipe.call.desires):
                mailbox.drop(assignment)
                core.returns.reject(assignment.token, "the labels of this actor changed", recipe)
                continue
            recipe.satisfied_version = core.labels_version
        if recipe.is_strict and not fencing.may_start(core, assignment):
            continue
        mailbox.start(assignment)
        core.starts.append(assignment)
        if assignment.loads:
            core.entering.begin(assignment, core.now)
        elif recipe.call.timeout_s is not None:
            core.stopping.started(assignment, core.now)
        if assignment.evicts:
            core.relabel()


def expire(core: "ActorCore") -> None:
    """End the waits for slots whose time is over; who can have them now has them, however late."""
    start_all(core)
    core.reacquiring.expire(core.now)
    core.is_stale = True


def start_next(core: "ActorCore", brief_s: float) -> Assignment | None:
    """Start what waits first, if it usually takes less than *brief_s* and takes the last slot.

    None where anything else is to be looked at: `start_all` does that.
    """
    mailbox = core.mailbox
    waiting = mailbox.waiting
    # Not `is_plain`, which costs a call: only plain slots, and only tasks of one.
    if (
        not waiting
        or core.starts
        or mailbox.reacquiring
        or mailbox.unusual
        or mailbox.has_types
        or mailbox.residents.by_id
    ):
        return None
    assignment = waiting[0]
    recipe = assignment.recipe
    if (
        recipe.run_s >= brief_s
        or recipe.call.timeout_s is not None
        or recipe.is_strict
        or (recipe.call.desires and recipe.satisfied_version != core.labels_version)
        or len(mailbox.holders) + 1 != mailbox.slots
    ):
        return None
    mailbox.start(assignment)
    core.is_stale = False
    return assignment
