"""What HELLO does: the one path of connect, reconnect and restart (protocol.md section 8.1)."""

from math import inf
from typing import TYPE_CHECKING, Any, Final

from broker.events import holders, liveness, recovery
from broker.facts import orders, spans
from broker.facts.peers import Actor, Client, Host, Session
from broker.facts.task import State, Template, share
from broker.placing import callers
from broker.tasks import attaching, bindings, families, forgetting, lifecycle, naming, retrying
from wire.codec import TEMPLATE_BYTES_MAX, encode
from wire.errors import Code, RemoteProtocolError
from wire.labels import Labels, validate_desire, validate_labels
from wire.limits import check_amounts
from wire.messages import ActorHello, Beat, ClientHello, Error, Frame, HostHello, Welcome
from wire.parts import Call, Role, Span
from wire.retries import check_retries
from wire.session import transfer_s
from wire.tables import ReceiverTable, SenderTable

if TYPE_CHECKING:
    from broker.core import Broker

NAME_LENGTH_MAX: Final = 256
PRIORITY_MAX: Final = 10
# Epochs are milliseconds of clocks. A peer may have heard one of any clock up to the year 2109, or
# of one that ran some years ahead of ours; a higher one, heard once, would be there for good.
EPOCH_NEAR: Final = 2**42
EPOCH_STEP_MAX: Final = 2**38


def open_session(  # noqa: PLR0917
    broker: "Broker", rid: bytes, former: Session | None, role: Role, frame: Frame[Any], now: float
) -> None:
    """Open the session that a HELLO asks for, or say why not."""
    hello: ClientHello | ActorHello | HostHello = frame.commands[0]
    try:
        check_hello(hello, frame, former, role, epoch=broker.epoch)
        check_name(broker, hello)
    except RemoteProtocolError as error:
        broker.bad(rid, error, now)
        return
    if 0 < frame.epoch != broker.epoch:
        broker.had_earlier = True
    if frame.epoch > broker.epoch:
        for session in list(broker.sessions.values()):
            broker.close(session, now)
        broker.raise_epoch(frame.epoch)
    replaced = broker.dead.get(hello.incarnation)
    if replaced is not None:
        if replaced:
            message = f"another process has taken the name {hello.name!r}"
            broker.say_outside(rid, frame.session, Error(Code.NAME_TAKEN, message, fatal=True))
        return
    peer = find_peer(broker, hello, now)
    if frame.session <= peer.session_highest:
        return
    for old in (former, peer.session):
        if old is not None:
            broker.close(old, now)
    peer.session_highest = frame.session
    broker.strikes.pop(rid, None)
    session = Session(rid, frame.session, peer, now)
    peer.session = broker.sessions[rid] = session
    peer.heard_at = now
    missing: list[Span] = []
    # WELCOME leaves first whatever is said below: it stands outside the count.
    match hello, peer:
        case ClientHello(), Client():
            missing = greet_client(broker, peer, hello, session, now)
            # What it has seen at this broker itself is no news.
            if hello.bound and 0 < frame.epoch < broker.epoch:
                bindings.told(broker, hello.bound, now)
        case ActorHello(), Actor():
            settings = broker.settings
            session.functions_told = SenderTable(settings.functions_max)
            session.templates_told = SenderTable(settings.templates_max)
            recovery.greet_actor(broker, peer, hello, now)
            orders.repeat(broker, peer)
        case HostHello(), Host():
            peer.greet(hello, now)
            holders.greet_host(broker, peer, now)
        case _:
            raise AssertionError(hello)
    strict = sorted(broker.limits.strict) if role is Role.ACTOR else []
    broker.say_outside(rid, frame.session, welcome(broker, missing, now, strict))
    broker.note("session_opened", role=role, name=hello.name, session=frame.session)


def heard_outside(session: Session, frame: Frame[Any], now: float) -> None:
    """Wait longer for the next frame of *session* where its peer says that it is a large one."""
    if frame.number == 0 and frame.session == session.number and frame.commands:
        command = frame.commands[0]
        if isinstance(command, Beat) and session.role is Role.ACTOR:
            session.peer.heard_at = now + transfer_s(command.ahead)


def check_hello(
    hello: ClientHello | ActorHello | HostHello,
    frame: Frame[Any],
    former: Session | None,
    role: Role,
    *,
    epoch: int,
) -> None:
    """Raise for a HELLO that is not allowed here, where the epoch is *epoch*."""
    if len(frame.commands) != 1 or frame.number != 0:
        raise RemoteProtocolError(Code.BAD_FRAME, "HELLO is alone in its frame, with number 0")
    if frame.epoch > max(epoch, EPOCH_NEAR) + EPOCH_STEP_MAX:
        message = f"epoch {frame.epoch} is above what any broker can have said, ours is {epoch}"
        raise RemoteProtocolError(Code.BAD_FRAME, message)
    if former is not None and former.role is not role:
        raise RemoteProtocolError(
            Code.NOT_ALLOWED, f"this connection belongs to a {former.role}, not to a {role}"
        )
    if isinstance(hello, ActorHello):
        check_held_limits(hello)
        check_offered(hello.labels)
    if not 0 < len(hello.name) <= NAME_LENGTH_MAX:
        raise RemoteProtocolError(
            Code.BAD_FRAME, f"a name of {len(hello.name)} characters", fatal=True
        )


def check_offered(labels: Labels) -> None:
    """Raise for labels that nobody can offer."""
    try:
        validate_labels(labels)
    except ValueError as error:
        raise RemoteProtocolError(Code.BAD_FRAME, str(error)) from None


def check_held_limits(hello: ActorHello) -> None:
    """Raise for runs that have, or ask for, what no run can."""
    for item in (*hello.holding, *hello.stopped):
        for held in item.limits:
            try:
                check_amounts(held.limits)
            except ValueError as error:
                raise RemoteProtocolError(Code.BAD_FRAME, str(error)) from None
            if not held.limits:
                raise RemoteProtocolError(Code.BAD_FRAME, "a run with no limit at all in its ask")


def check_name(broker: "Broker", hello: ClientHello | ActorHello | HostHello) -> None:
    """Raise for an actor that changes its name: it would stand under both."""
    known = broker.actors.get(hello.incarnation) if isinstance(hello, ActorHello) else None
    if known is not None and known.name != hello.name:
        raise RemoteProtocolError(
            Code.NOT_ALLOWED, f"actor {known.name} now says that it is {hello.name}"
        )


def find_peer(
    broker: "Broker", hello: ClientHello | ActorHello | HostHello, now: float
) -> Client | Actor | Host:
    """Return the peer that says HELLO; a new process under a known name ends the former one."""
    number = hello.incarnation
    match hello:
        case ClientHello():
            client = broker.clients.get(number)
            if client is None:
                client = broker.clients[number] = Client(number, now)
            return client
        case ActorHello():
            actor = broker.actors.get(number)
            if actor is None:
                former = broker.actors_by_name.get(hello.name)
                if former is not None and former.incarnation != number:
                    forgetting.bury(broker, former.incarnation, replaced=True)
                    if former.incarnation in broker.actors:
                        reason = f"actor {former.name} was replaced by a new process"
                        liveness.lose(broker, former, reason, now, started=None)
                actor = broker.actors[number] = Actor(hello, now)
                broker.actors_by_name[hello.name] = actor
            return actor
        case _:
            host = broker.hosts.get(number)
            if host is None:
                for known in list(broker.hosts.values()):
                    if known.name == hello.name:
                        forgetting.bury(broker, known.incarnation, replaced=True)
                        liveness.lose_host(broker, known, now)
                host = broker.hosts[number] = Host(hello, now)
            return host


def greet_client(
    broker: "Broker", client: Client, hello: ClientHello, session: Session, now: float
) -> list[Span]:
    """Release what is not listed, say outcomes again, and return what must be sent again."""
    settings = broker.settings
    session.functions_known = ReceiverTable(settings.functions_max)
    session.templates_known = ReceiverTable(settings.templates_max)
    client.greet(hello)
    client.gone_at = client.tried = None
    listed = spans.merge(hello.unresolved)
    if broker.records.has_journal:
        attaching.listed(broker, client, listed)
    for task in list(client.tasks.values()):
        if not spans.holds(listed, task.number):
            if task.record is not None:
                attaching.unlisted(broker, task)
            else:
                reason = "its client wants it no more"
                families.drop(broker, task, reason=reason, is_canceled=True)
        elif task.state is State.ENDED:
            if 0 < hello.room < (size := task.ending.size if task.ending else 0):
                lifecycle.deliver_too_large(broker, task, size, hello.room)
            else:
                lifecycle.deliver(broker, task)
        else:
            retrying.say_again(broker, task, now)
    unclaimed = (State.UNCLAIMED_RUN, State.UNCLAIMED_OUTCOME)
    known = [task.number for task in client.tasks.values() if task.state not in unclaimed]
    if broker.records.has_journal:
        attaching.say_accepted(broker, client)
        # Durable ones stay although nobody lists them.
        known = [number for number in known if spans.holds(listed, number)]
    missing = spans.without(listed, known)
    if broker.records.orphans:
        families.sent_again(broker, client.incarnation, missing)
    return missing


def welcome(broker: "Broker", missing: list[Span], now: float, strict: list[str]) -> Welcome:
    """Make the answer to a HELLO."""
    settings = broker.settings
    ends_at = broker.window_ends_at
    return Welcome(
        heartbeat_s=settings.heartbeat_s,
        suspect_s=settings.suspect_s,
        lease_s=settings.lease_s,
        recovering_s=0.0 if ends_at is None else max(0.0, ends_at - now),
        missing=missing,
        window_tasks=settings.window_tasks,
        window_bytes=settings.window_bytes,
        payload_bytes_max=settings.payload_bytes_max,
        functions_max=settings.functions_max,
        templates_max=settings.templates_max,
        strict=strict,
    )


def check_sticky(call: Call) -> None:
    """Raise ValueError for a key that is none."""
    if call.sticky is not None and not 0 < len(call.sticky.key) <= NAME_LENGTH_MAX:
        raise ValueError(f"a key of {len(call.sticky.key)} characters cannot be sticky")


def join_template(broker: "Broker", session: Session, call: Call, now: float) -> Template:
    """Find the code that *call* names among what the session brought, and its shape."""
    if not -PRIORITY_MAX <= call.priority <= PRIORITY_MAX:
        raise RemoteProtocolError(Code.BAD_FRAME, f"priority {call.priority} is not in -10..10")
    if (octets := len(encode(call))) > TEMPLATE_BYTES_MAX:
        message = f"a template of {octets} octets is over {TEMPLATE_BYTES_MAX}"
        raise RemoteProtocolError(Code.BAD_FRAME, message)
    try:
        for desire in call.desires:
            validate_desire(desire)
        check_amounts(call.limits)
        check_retries(call)
        check_sticky(call)
    except ValueError as error:
        raise RemoteProtocolError(Code.BAD_FRAME, str(error)) from None
    wait_s = call.affinity_wait_s
    if wait_s is not None and not 0.0 <= wait_s < inf:
        raise RemoteProtocolError(Code.BAD_FRAME, f"affinity_wait_s {wait_s} is no time")
    timeout_s = call.schedule_timeout_s
    if timeout_s is not None and not 0.0 < timeout_s < inf:
        raise RemoteProtocolError(Code.BAD_FRAME, f"schedule_timeout_s {timeout_s} is no time")
    environment = call.environment
    if environment is not None and not 1 <= environment.turns <= environment.size:
        message = f"a call that takes {environment.turns} of {environment.size} turns"
        raise RemoteProtocolError(Code.BAD_FRAME, message)
    if any(amount < 1 for amount in call.slots.values()):
        raise RemoteProtocolError(Code.BAD_FRAME, f"slots {call.slots} are no amounts")
    known = {blob.hash: blob for blob in session.functions_known.values()}
    function = known.get(call.function)
    blob = known.get(call.environment.blob) if call.environment else None
    if call.environment is not None and call.environment.named is not None:
        return naming.join(broker, call, blob)
    if (function is None and not call.method) or (call.environment is not None and blob is None):
        raise RemoteProtocolError(Code.UNKNOWN_TEMPLATE, f"the code of {call.name!r} was not sent")
    share(call, function)
    shape = broker.backlog.shape_of(call)
    if call.environment is not None:
        broker.environments.learn(call.environment, now).shapes[shape] = None
        if isinstance(session.peer, Client):
            callers.came(broker, call.environment, session.peer)
    kind = None
    if call.desires or call.sticky:
        kind = broker.backlog.kind_of(call, shape, function, blob)
    return Template(call, shape, function=function, blob=blob, kind=kind)
