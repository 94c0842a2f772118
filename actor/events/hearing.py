"""What the broker says to an actor, command by command (protocol.md section 7).

What must not be broken: a token that came before is never taken again, and one that cannot be taken
here is handed back.
"""

from typing import TYPE_CHECKING, Any, Final

from actor.events import entering, fencing
from actor.granting.returns import BEHIND
from actor.granting.standing import takes_own_calls
from actor.holding.awaiting import SLOTS
from actor.holding.mailbox import Assignment, Payloads
from actor.holding.reacquiring import Reply
from actor.holding.recipe import Recipe
from wire.errors import Code
from wire.messages import (
    Assign,
    Beat,
    ByeAck,
    Drain,
    Error,
    Evict,
    Frame,
    Function,
    Leave,
    Occupied,
    OutcomeAck,
    Pause,
    Recall,
    Restore,
    Stop,
    Template,
)
from wire.parts import Held

if TYPE_CHECKING:
    from actor.core import ActorCore

NO_PAYLOADS: Final[Payloads] = ()


def hear(core: "ActorCore", frame: Frame[Any], payloads: Payloads) -> None:
    """Act on the commands of *frame* in their order. Raises RemoteProtocolError."""
    at = 0
    for command in frame.commands:
        kind = type(command)
        if kind is Assign:
            mine = NO_PAYLOADS
            if command.frames:
                mine = payloads[at : at + command.frames]
                at += command.frames
            assign(core, frame, command, mine)
        elif kind is OutcomeAck:
            core.outcomes.acknowledge(command.accepted)
            if command.stale:
                core.outcomes.acknowledge(command.stale)
        else:
            at = hear_other(core, frame, command, payloads, at)


def hear_other(
    core: "ActorCore", frame: Frame[Any], command: object, payloads: Payloads, at: int
) -> int:
    """Act on what is said seldom, and return where the payload frames of the next begin."""
    match command:
        case Beat():
            fencing.heard(core, frame.received)
        case Function():
            mine = payloads[at : at + command.frames]
            at += command.frames
            code = mine[0] if mine and not command.body else command.body
            core.functions.put(command.slot, (command.hash, code))
        case Template():
            learn(core, command)
        case Occupied():
            occupied(core, frame, command)
        case Stop():
            stop(core, command)
        case Recall():
            core.returns.recall(command)
            core.is_stale = True
        case Pause():
            core.pause(core.now, paused=command.paused)
        case Evict():
            entering.evict(core, command.environment)
        case Restore():
            mine = payloads[at : at + command.frames]
            at += command.frames
            core.mailbox.residents.named.restore(command, mine)
        case Leave():
            core.mailbox.residents.named.order(command)
            entering.give_up_worn(core)
        case Drain():
            # Who is told to leave is followed by nobody, whatever it was about to do.
            core.is_retiring &= command.is_spare
            core.drain(core.now, command.deadline_s, is_spare=command.is_spare)
        case ByeAck():
            if core.bye_session == core.session.number:
                core.session.end()
        case Error():
            core.note("told_of_error", code=command.code, reason=command.message)
            if command.code == Code.UNKNOWN_TEMPLATE:
                core.session.close(core.now)
        case _:
            core.note("not_for_an_actor", command=type(command).__name__)
    return at


def learn(core: "ActorCore", command: Template) -> None:
    """Remember how calls of one kind are made."""
    code_by_hash = dict(core.functions.values())
    recipe = Recipe.of(command.call, code_by_hash)
    if not core.mailbox.fits(recipe):
        recipe.missing = f"needs {recipe.slots}, this actor has {core.settings.slots}"
    recipe.is_strict = bool(command.call.limits) and core.fence.is_strict(command.call.limits)
    core.recipes.put(command.slot, recipe)


def assign(core: "ActorCore", frame: Frame[Any], command: Assign, payloads: Payloads) -> None:
    """Take an assignment into the mailbox, or hand it back."""
    token = (frame.epoch, command.number)
    if token <= core.highest:
        core.note("assigned_twice", token=token)
        return
    core.highest = token
    recipe = core.recipes.get(command.template)
    core.said.spend(recipe)
    if recipe is not None and recipe.is_strict:
        fencing.heard(core, frame.received)
    if core.bye_session == core.session.number:
        # BYE hands back whatever the broker believes to be here.
        return
    reason = core.standing.closed
    if reason and takes_own_calls(core) and core.standing.has_heard(frame.received):
        reason = ""  # The broker knew, so it is a call of a run that is here.
    if recipe is None or recipe.missing or reason:
        core.returns.refuse(token, command.template, recipe, reason)
    elif (
        not recipe.is_plain
        and core.returns.behind
        and core.returns.stands_behind(recipe, frame.received)
    ):
        core.returns.reject(token, BEHIND, recipe, bars=False)
    else:
        client, task, attempt = command.client, command.task, command.attempt
        body, slots = command.body, recipe.slots
        core.mailbox.put(Assignment(token, client, task, attempt, recipe, body, payloads, slots))
        core.is_stale = True


def occupied(core: "ActorCore", frame: Frame[Any], command: Occupied) -> None:
    """Tell a run what became of a wait for limits, calls or slots."""
    token = (command.epoch, command.number)
    if command.ask == SLOTS:
        core.reacquiring.drop(token, Reply.DEADLOCK)
    elif (
        token in core.mailbox.held
        and not core.awaiting.told(command)
        and fencing.may_have(core, command)
    ):
        core.occupying.told(command, frame.received)


def stop(core: "ActorCore", command: Stop) -> None:
    """Drop what waits; tell what runs that nobody wants it."""
    assignment = core.mailbox.held.get((command.epoch, command.number))
    if assignment is None:
        return
    if assignment.held is Held.WAITING:
        core.mailbox.drop(assignment)
        core.occupying.dropped(assignment)
        if assignment.is_named and assignment.recipe.environment is not None:
            core.mailbox.residents.named.canceled(assignment.recipe.environment)
    else:
        core.stopping.order(assignment, core.now, force=command.force, reason=command.reason)
    core.reconsider()
