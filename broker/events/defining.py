"""What an operator changes of limits: set, delete, release (protocol.md section 9.5).

The rule that must not be broken: an order that is to last is answered when it is on disk.
"""

from typing import TYPE_CHECKING, Final

import msgspec

from broker.events import strategies
from broker.events.occupancy import RELEASED, say_occupied
from broker.facts import outbox
from broker.facts.peers import Session
from broker.facts.task import State
from broker.holding.wants import refusal
from broker.tasks import lifecycle
from wire import codec
from wire.limits import HOST_PREFIX, Definition, base_of, check_definition
from wire.messages import Answer, Query
from wire.parts import Token
from wire.texts import brief

if TYPE_CHECKING:
    from broker.core import Broker

HOLDER_PARTS: Final = 3
# A heartbeat each way may be under way, and as much again is left to end a process.
HEARTBEATS_OF_STRICT: Final = 4
ORDERS: Final = frozenset({"limit-set", "limit-delete", "limit-release"})


def order(broker: "Broker", session: Session, command: Query, now: float) -> None:
    """Do what an operator wants; the answer comes when it is on disk."""
    broker.limits.now = now
    try:
        obey(broker, command)
    except (ValueError, msgspec.MsgspecError) as error:
        broker.say(session, Answer(command.request, codec.encode({"error": str(error)})))
        return
    answer = Answer(command.request, codec.encode({"done": command.what}))
    outbox.say_when_written(broker, session, answer)


def obey(broker: "Broker", command: Query) -> None:
    """Do it. Raises ValueError for what makes no sense, or cannot be written now."""
    if broker.records.refusal and command.what != "limit-release":
        raise ValueError(
            f"the journal cannot be written now: {broker.records.refusal}; nothing was changed"
        )
    match command.what:
        case "limit-set":
            definition = msgspec.json.decode(command.argument, type=Definition)
            check_definition(definition)
            define(broker, definition)
        case "limit-delete":
            undefine(broker, command.argument)
        case _:
            force(broker, command.argument)


def answer(broker: "Broker") -> None:
    """Say the answers to orders that are on disk by now."""
    waiting = broker.limits.answers
    broker.limits.answers = [one for one in waiting if one[0] > broker.committed_sequence]
    for sequence, session, message, _ in waiting:
        if sequence <= broker.committed_sequence and not session.is_closing:
            outbox.answer(broker, session, message)


def stuck(broker: "Broker") -> None:
    """Tell those whose order is not on disk why they wait; it is written as soon as it can be."""
    waiting = broker.limits.answers
    broker.limits.answers = [one for one in waiting if not one[3]]
    for _, session, message, is_order in waiting:
        if is_order and not session.is_closing:
            outbox.say_unwritten(broker, session, message)


def define(broker: "Broker", definition: Definition, *, is_stored: bool = False) -> None:
    """Set a limit, also one that is there: who holds more than there is now keeps it."""
    limits = broker.limits
    former = limits.definitions.get(definition.name)
    if former == definition:
        return
    if former is not None and (former.per_key, former.rate) != (
        definition.per_key,
        definition.rate,
    ):
        busy = [name for name in limits.keys if base_of(name)[0] == definition.name]
        if any(limits.keys[name].holders for name in busy):
            raise ValueError(
                f"limit {definition.name} is held: whether it is per key, and its rate, can only"
                " be changed when nobody holds it"
            )
    was_strict = former is not None and former.strict
    if definition.strict and not was_strict:
        check_strict(broker, definition)
    limits.definitions[definition.name] = definition
    if definition.strict != was_strict:
        tell_actors(broker)
    if not is_stored:
        write(broker, "limit-set", definition.name, msgspec.json.encode(definition).decode())
        broker.note("limit_set", limit=definition.name, maximum=definition.maximum)
    review(broker, definition.name)


def check_strict(broker: "Broker", definition: Definition) -> None:
    """Raise ValueError where a limit cannot be made strict now."""
    limits, settings = broker.limits, broker.settings
    if settings.lease_s < HEARTBEATS_OF_STRICT * settings.heartbeat_s:
        raise ValueError(
            f"limit {definition.name}: a strict limit needs a lease of {HEARTBEATS_OF_STRICT}"
            f" heartbeats at least, and {settings.lease_s:g} s are less"
        )
    busy = (key for name, key in limits.keys.items() if base_of(name)[0] == definition.name)
    if any(key.holders for key in busy):
        raise ValueError(
            f"limit {definition.name} is held by those who do not know that it is strict"
        )


def tell_actors(broker: "Broker") -> None:
    """Let every actor open a new session, since WELCOME says which limits are strict."""
    limits = broker.limits
    strict = frozenset(one.name for one in limits.definitions.values() if one.strict)
    if strict - limits.strict and limits.now < limits.started_at + broker.settings.lease_s:
        # Somebody may hold it by the word of an earlier broker.
        limits.close()
    limits.strict = strict
    for actor in broker.actors.values():
        session = actor.session
        if session is not None:
            broker.close(session, limits.now)
            broker.who(session.rid, session.number)


def undefine(broker: "Broker", name: str) -> None:
    """Delete a limit; who waits for it is told, who holds it goes on."""
    former = broker.limits.definitions.pop(name, None)
    if former is None:
        of_host = ": those of machines are what their actors say with --limit"
        raise ValueError(
            f"no limit is called {brief(name)}{of_host * name.startswith(HOST_PREFIX)}"
        )
    if former.strict:
        tell_actors(broker)
    write(broker, "limit-delete", name)
    broker.note("limit_deleted", limit=name)
    review(broker, name)


def write(broker: "Broker", *operation: str) -> None:
    broker.sequence += 1
    broker.operations.append(operation)


def review(broker: "Broker", base: str) -> None:
    """Tell those that wait for a limit that is another one now, and let go who can."""
    limits = broker.limits
    asking = [
        task
        for client in broker.clients.values()
        for task in client.tasks.values()
        if task.template and not task.is_over
        if any(base_of(name)[0] == base for name in task.call.limits)
    ]
    for task in sorted(asking, key=lambda one: one.queued_at):
        refused = refusal(broker, task.call.limits, None) if task.state is State.QUEUED else None
        if refused is not None:
            broker.backlog.remove(task)
            lifecycle.end(broker, task, *refused)
        else:
            # By a strategy that cancels those count that were there before it.
            strategies.join(broker, task)
    for run in list(limits.runs.values()):
        for number, waiter in list(run.asks.items()):
            wanted = {name: n for name, n in waiter.wants if base_of(name)[0] == base}
            refused = refusal(broker, wanted, run.actor) if wanted else None
            if refused is not None:
                limits.vacate(run.token, number)
                say_occupied(broker, run, number, *refused)
        strategies.join_run(broker, run)
    for name in [name for name in limits.keys if base_of(name)[0] == base]:
        definition = limits.definition(name)
        if definition is not None and definition.rate is None:
            # What a former rate has taken never comes back with time now.
            key = limits.keys[name]
            key.used = sum(key.holders.values())
        limits.touch(name)


def force(broker: "Broker", text: str) -> None:
    """Take back one holder's share, as `describe_key` names it; its run goes on."""
    parts = text.split(".")
    if not all(part.isascii() and part.isdigit() for part in parts) or len(parts) != HOLDER_PARTS:
        raise ValueError(f"{brief(text)} is no holder, as `limits list` shows them")
    epoch, number, asked = map(int, parts)
    token: Token = (epoch, number)
    run = broker.limits.runs.get(token)
    if run is None or asked not in run.rows:
        raise ValueError(f"{text} holds nothing")
    if broker.limits.is_strict(run):
        raise ValueError(
            f"{text} holds a strict limit, and would go on beside the next holder: end the task"
            f" {run.task.name} with force instead"
        )
    broker.note("limit_released", task=run.task.name, limits=dict(run.rows[asked]))
    broker.limits.vacate(token, asked)
    # It must not say in its next HELLO that it has it.
    say_occupied(broker, run, asked, RELEASED, "an operator took it back")
