"""What is said of named actors: by the processes that have them, and to whoever asks or orders.

The rule that must not be broken: of two that have one name the one of the higher generation stays,
and a checkpoint counts only from the generation that is here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from broker.facts import outbox, spans
from broker.facts.peers import Actor, Session
from broker.facts.task import FunctionBlob, Task
from broker.placing import requeueing
from broker.tasks import families, inscribing
from broker.tasks.named import end, release
from broker.tasks.naming import Address, NamedActor, settle_at
from wire import codec
from wire.errors import Code, RemoteProtocolError
from wire.messages import Answer, Leave, Outcome, Query, Resides
from wire.parts import Call, Token

if TYPE_CHECKING:
    from broker.core import Broker

KILL: Final = "named-kill"
QUERIES: Final = frozenset({"named", KILL})

# ---------------------------------------------------------------------- what actors say


def resides(
    broker: "Broker",
    session: Session,
    command: Resides,
    own: Sequence[Any],
    now: float,
) -> None:
    """Take over a named actor that a process has, or tell it that another one has the name."""
    actor, call, generation = session.peer, command.call, command.generation
    assert isinstance(actor, Actor)
    if call.environment is None or call.environment.named is None or not 1 <= len(own) <= 2:
        raise RemoteProtocolError(Code.BAD_FRAME, "no named actor with its code")
    known = broker.named.by_id.get(call.environment.id)
    if known is None:
        known = adopt(broker, call, generation)
    is_here = known is not None and known.home is actor and known.generation == generation
    if known is None or not (is_here or is_newer(known, generation)):
        broker.say(session, Leave(call.environment.id, generation, "its name is another's now"))
        return
    known.is_unsure = False
    known.ended = {client: spans.merge(numbers) for client, numbers in command.ended}
    if not is_here:
        former, older = known.home, known.generation
        known.is_awaited, known.sealed = False, 0
        settle_at(broker, known, actor, generation)
        inscribing.changed(broker, known)
        # In one process it is entered by a later call where the first was canceled before.
        if former is not None and former is not actor:
            dislodge(broker, known, former, older, now)
        broker.note("named_adopted", named=known.title, actor=actor.name)
        if broker.window_ends_at is None and broker.held:
            release(broker)
    if known.blob is None:
        known.blob = FunctionBlob(known.environment.blob, b"", [own[0]])
    if command.serial > known.serial and len(own) > 1:
        keep(broker, known, command.serial, own[1])


def is_newer(known: NamedActor, generation: Token) -> bool:
    """Tell whether a *generation* goes before the one that is here, or that the journal knows."""
    is_latest = generation == known.generation and known.home is None
    return generation > known.fence and (is_latest or generation > known.generation)


def dislodge(
    broker: "Broker", record: NamedActor, former: Actor, generation: Token, now: float
) -> None:
    """Have *former* give up an actor that a newer one has replaced, with what it runs there."""
    reason = "a newer one was entered elsewhere"
    broker.say(former.session, Leave(record.id, generation, reason))
    for task in list(former.assigned.values()):
        if task.template and task.template.shape in record.shapes:
            families.halt(broker, task, force=True, reason=reason)
            requeueing.requeue(broker, task, f"{record.title}: {reason}", now, burns="loss")


def adopt(broker: "Broker", call: Call, generation: Token) -> NamedActor | None:
    """Make the record of a named actor that somebody has, unless its name is another's."""
    named, record = broker.named, NamedActor(call, None)
    # One that the journal does not have has ended.
    if record.id in named.ended or (call.durable and broker.records.has_journal):
        return None
    holder = named.by_address.get(record.address)
    if holder is not None:
        if holder.home is None or holder.generation > generation:
            return None
        end(broker, holder, f"{record.title}: a newer actor has the name")
    named.add(record)
    return record


def take_checkpoint(
    broker: "Broker", task: Task, command: Outcome, own: Sequence[Any]
) -> tuple[Sequence[Any], str]:
    """Take the checkpoint from an outcome's frames; return the others, and why it was refused.

    In the same step as the outcome that it came with is settled: the journal writes both under one
    sequence number, or neither.
    """
    if not own:
        raise RemoteProtocolError(Code.BAD_FRAME, "a checkpoint without a frame")
    environment = task.call.environment if task.template else None
    record = broker.named.by_id.get(environment.id) if environment else None
    refused = ""
    if (
        record is not None
        and record.home is task.actor
        and task.token is not None
        and task.token >= record.generation
        and command.checkpoint > record.serial
    ):
        refused = keep(broker, record, command.checkpoint, own[-1])
    return own[:-1], refused


def keep(broker: "Broker", record: NamedActor, serial: int, checkpoint: Any) -> str:
    """Keep the newest checkpoint, or say why there is no room for it."""
    refused = inscribing.refusal(broker, record, len(checkpoint))
    if not refused:
        record.serial, record.checkpoint = serial, checkpoint
        inscribing.keep(broker, record)
    return refused


# ---------------------------------------------------------------------- questions and orders


def query(broker: "Broker", session: Session, command: Query) -> None:
    """Answer a question or an order; of one that is durable once what is said is on disk."""
    if command.what == KILL:
        body, is_durable = order(broker, command.argument)
    else:
        body = answer(broker, command.argument)
        record = broker.named.by_address.get(address_of(command.argument))
        is_durable = record is not None and record.sealed > 0
    reply = Answer(command.request, codec.encode(body))
    if is_durable:
        is_order = command.what == KILL
        outbox.say_when_written(broker, session, reply, is_order=is_order)
    else:
        outbox.answer(broker, session, reply)


def order(broker: "Broker", argument: str) -> tuple[dict[str, Any], bool]:
    """End the named actor that *argument* describes, by id or by address; tell if it was durable.

    From then on the journal must not have it, or a new start would find it again.
    """
    try:
        wish = msgspec.json.decode(argument, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError) as error:
        return {"error": f"not a map in JSON: {error}"}, False
    wanted = str(wish.get("actor", ""))
    record = broker.named.by_id.get(wanted) or broker.named.by_address.get(address_of(wanted))
    if record is None:
        return {"killed": []}, False
    end(broker, record, f"{record.title} was killed", force=bool(wish.get("force", True)))
    return {"killed": [record.title]}, bool(record.hash)


def address_of(text: str) -> Address:
    """Read NAMESPACE/NAME."""
    namespace, _, name = text.partition("/")
    return namespace, name


def answer(broker: "Broker", argument: str) -> dict[str, Any]:
    """Return all, or the one at the address *argument* with what its calls are made of."""
    recovering = broker.limits.is_closed
    if not argument:
        found = [describe(record) for record in broker.named.by_id.values()]
        return {"named": found, "recovering": recovering}
    record = broker.named.by_address.get(address_of(argument))
    found = [] if record is None else [describe(record) | {"call": record.call}]
    return {"named": found, "recovering": recovering}


def explain(broker: "Broker", task: Task) -> str:
    """Say why a call to a named actor waits, if that is due to the actor."""
    assert task.call.environment
    record = broker.named.by_id.get(task.call.environment.id)
    if record is None:
        return ""
    if record.retry_at:
        return f"{record.title} could not be entered, and is tried again in a moment"
    if record.home is None:
        return ""
    running = describe(record)["running"]
    home = record.home
    if home.session is None:
        return f"{record.title} is on {home.name}, which is not connected"
    if home.closed:
        return f"{record.title} is on {home.name}, which takes no work: {home.closed}"
    if running:
        return f"{record.title} on {home.name} runs {running} of its calls"
    return f"{record.title} is on {home.name}, where no slot is free"


def titles(broker: "Broker") -> dict[Actor, dict[str, str]]:
    """Return the named actors of each actor process, and how they stand."""
    found: dict[Actor, dict[str, str]] = {}
    for record in broker.named.by_id.values():
        if record.home is not None:
            found.setdefault(record.home, {})[record.title] = record.state
    return found


def describe(record: NamedActor) -> dict[str, Any]:
    """Return what an operator wants to know of a named actor."""
    running = sum(
        1
        for task in (record.home.assigned.values() if record.home else ())
        if task.template and task.template.shape in record.shapes
    )
    return {
        "name": record.title,
        "environment": record.environment.name,
        "state": record.state,
        "actor": record.home.name if record.home else "",
        "generation": list(record.generation),
        "pending": record.calls_queued,
        "running": running,
        "restarts": record.restarts,
        "max_restarts": record.named.max_restarts,
        "checkpoint": record.serial,
        "octets": len(record.checkpoint) if record.serial else 0,
        "lifetime": "client" if record.named.owner else "detached",
        "durable": bool(record.hash),
    }
