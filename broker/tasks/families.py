"""Families: which calls were made in which run, and what becomes of them with it (section 9.6).

A call that is not durable ends with the run that made it, unless that returned or raised. The row
of a durable one names its maker, so it is known after a restart too. The rule that must not be
broken: where the next run of a task makes a call again, the former one does not go on.
"""

from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Final

from broker.disk import records, writing
from broker.disk.records import Maker, Record
from broker.facts import spans
from broker.facts.peers import is_owned
from broker.facts.task import State, Task
from broker.facts.trouble import NO_TOKEN
from broker.tasks import forgetting, lifecycle
from wire.errors import Code
from wire.parts import Span, Token

if TYPE_CHECKING:
    from broker.core import Broker


class Parting(Enum):
    """Why a run has ended that has no outcome; as the calls that end with it are told."""

    CANCELED = "the task that submitted it was canceled"
    # Its task runs again, and makes them again.
    LOST = "the run that submitted it was lost"
    # Its task runs again if its client comes, and makes them again then.
    UNCLAIMED = "the run that submitted it was lost before its client came back"
    # Nobody is there any more who wants the outcome.
    LEFT = "nobody waits any more for the task that submitted it"
    # It was cut off, and there is no next run: what is durable goes on.
    EXPIRED = "the run that submitted it had its time"


# So many calls are looked at with a heartbeat whether they have ended: 0.3 us each where many are
# of one run, and 1.3 us where each is of another one.
SWEPT_A_BEAT_MAX: Final = 500
# So many runs are remembered of which a call was refused, the oldest are forgotten.
REFUSED_MAX: Final = 65_536
# Nothing is known of a next run: what is durable goes on, until one is known of.
_LEAVING = (Parting.UNCLAIMED, Parting.LEFT, Parting.EXPIRED)


# ---------------------------------------------------------------------- who belongs to whom


def may_adopt(broker: "Broker", parent: Token) -> bool:
    """Tell whether a run is there, or may be."""
    owner = broker.tokens.get(parent)
    return may_come(broker, parent) or (owner is not None and is_owned(owner))


def may_come(broker: "Broker", parent: Token) -> bool:
    """Tell whether somebody may still offer a run: of its own ones a broker knows all.

    Also of those that it assigned before it heard of a higher epoch.
    """
    is_open = broker.window_ends_at is not None and parent[0] not in broker.epochs
    return is_open and parent not in broker.doubts.refused


def refuse(broker: "Broker", parent: Token) -> None:
    """Remember that a call of this run was refused, as the run is not there: it stays over."""
    refused = broker.doubts.refused
    refused[parent] = None
    if len(refused) > REFUSED_MAX:
        del refused[next(iter(refused))]


def ended(broker: "Broker", parent: Token) -> None:
    """Remember of a run that counts no more that it is over, if calls of it may come yet."""
    if may_come(broker, parent):
        refuse(broker, parent)


def adopt(broker: "Broker", task: Task, parent: Token) -> bool:
    """Note in which run *task* was submitted; False when that is there no more."""
    owner = broker.tokens.get(parent)
    if owner is None or not is_owned(owner):
        if not may_come(broker, parent):
            return False
        if owner is None:
            broker.unparented.setdefault(parent, []).append(task)
        elif owner.state is State.UNCLAIMED_OUTCOME:
            # Its client says whether it is tried again, and makes the call again then.
            belong(broker, task, owner, parent)
        return True
    belong(broker, task, owner, parent)
    return True


def join(broker: "Broker", owner: Task) -> None:
    """Note which calls were submitted in a run that was just adopted, and came before it."""
    assert owner.token
    for task in broker.unparented.pop(owner.token, ()):
        if not task.is_over:
            adopt(broker, task, owner.token)


def belong(broker: "Broker", task: Task, owner: Task, token: Token) -> None:
    """Let *task* be a call of *owner*, made in the run with *token*; what is durable says so."""
    link(task, owner)
    record = task.record
    if isinstance(record, Record):
        maker = Maker(*records.name_of(owner), token)
        if record.maker != maker:
            record.maker = maker
            write_maker(broker, task)


def link(task: Task, owner: Task) -> None:
    if owner.children is None:
        owner.children = {}
    owner.children[task] = None
    task.parent = owner


def write_maker(broker: "Broker", task: Task) -> None:
    writing.write(broker, "progress", writing.progress_of(broker, task), *records.name_of(task))


def maker_of(broker: "Broker", parent: Token | None) -> Maker | None:
    """Return what the row of a call says that was made in the run with this token."""
    if parent is None:
        return None
    owner = broker.tokens.get(parent)
    # Of one that is not back yet nobody knows the name.
    return Maker(*((0, 0) if owner is None else records.name_of(owner)), parent)


def attached(broker: "Broker", task: Task, parent: Token) -> None:
    """Note in which run *task* was submitted, which is another name of what has its key."""
    owner = broker.tokens.get(parent)
    if owner is not None and is_owned(owner):
        task.parent = owner


def has_later(task: Task, token: Token) -> bool:
    """Tell whether a later run of *task* than that with *token* has made a call, which is here."""
    makers = (c.record.maker for c in task.children or () if isinstance(c.record, Record))
    return any(maker is not None and maker.token > token for maker in makers)


def known(broker: "Broker", maker: Maker) -> Task | None:
    """Return the task whose run has made a call, if it is here and its client has it."""
    client = broker.clients.get(maker.client)
    return client.tasks.get(maker.number) if client is not None else None


# ---------------------------------------------------------------------- what becomes of them


def drop(
    broker: "Broker", task: Task, *, force: bool = False, reason: str, is_canceled: bool = False
) -> None:
    """Nobody wants *task* any more: stop its run, let its actor forget its outcome."""
    if is_owned(task):
        halt(broker, task, force=force, reason=reason)
    if task.children and task.state is not State.UNCLAIMED_OUTCOME:
        part(broker, task, Parting.CANCELED if is_canceled else Parting.LEFT, force=force)
    forgetting.forget(broker, task)


def halt(broker: "Broker", task: Task, *, force: bool = False, reason: str) -> None:
    """Stop the run of *task*, which counts no more."""
    assert task.token
    lifecycle.stop(broker, task, force=force, reason=reason)
    ended(broker, task.token)


def part(broker: "Broker", task: Task, why: Parting, *, force: bool = False) -> bool:
    """Settle what becomes of the calls of *task*, whose run has ended and has no outcome.

    Return whether one of them has ended with it.
    """
    children, task.children = task.children, None
    return children is not None and settle(broker, list(children), why, task, force=force)


def cut_off(broker: "Broker", task: Task) -> None:
    """End the calls of *task*, which had its time and is tried no more, but for durable ones."""
    calls = [call for call in task.children or () if not goes_on(call, Parting.EXPIRED)]
    settle(broker, calls, Parting.EXPIRED, None)


def settle(
    broker: "Broker", calls: list[Task], why: Parting, root: Task | None, *, force: bool = False
) -> bool:
    """End *calls*, and what they have made, or let them go on; *root* may find them again.

    Return whether one has ended.
    """
    has_ended = False
    # Not by recursion: how deep calls are nested is the user's to say.
    for call in calls:
        if call.is_over:
            continue
        if goes_on(call, why):
            leave(broker, call, why, root)
            continue
        made, call.children = call.children, None
        if not withdraw(broker, call, why.value, force=force):
            continue
        calls += made or ()
        record = call.record
        if isinstance(record, Record) and record.key is not None:
            writing.free_key(broker, call, record)
        lifecycle.end(broker, call, Code.PARENT_GONE, why.value)
        has_ended = True
    return has_ended


def goes_on(call: Task, why: Parting) -> bool:
    """Tell whether a call goes on though the run that made it has ended so."""
    record = call.record
    if not isinstance(record, Record):
        return False
    if why is Parting.CANCELED and record.key is not None:
        # Others have come with its key, or asked for it.
        return any(other.parent is not call.parent for other in record.attached)
    return why in _LEAVING or (why is Parting.LOST and record.key is not None)


def leave(broker: "Broker", call: Task, why: Parting, root: Task | None) -> None:
    """Let a durable call go on whose run has ended."""
    record = call.record
    assert isinstance(record, Record)
    if why is Parting.LOST and root is not None and not root.is_over:
        # The next run comes with its key. Until then it can be canceled with the task.
        belong(broker, call, root, record.maker.token if record.maker else NO_TOKEN)
        return
    call.parent = None
    if record.maker is not None and record.key is None:
        broker.records.orphans.setdefault(record.maker.client, {})[call] = None


def withdraw(broker: "Broker", task: Task, reason: str, *, force: bool = False) -> bool:
    """Take *task* from wherever it waits or runs; False when it is over."""
    match task.state:
        case State.QUEUED:
            forgetting.take_out(broker, task)
        case State.HELD:
            del broker.held[task]
        case State.WRITING:
            forgetting.written(broker, task)
        case State.DELAYED:
            broker.delays.discard(task)
        case State.ALONE:
            del broker.isolation.waiting[task]
        case State.ASSIGNED:
            halt(broker, task, force=force, reason=reason)
            forgetting.detach(broker, task)
        case _:
            return False
    return True


# ---------------------------------------------------------------------- a restarted broker


def restore(broker: "Broker", task: Task) -> None:
    """Let a task of the journal belong to its maker again, if that is there and goes on."""
    record = task.record
    if not isinstance(record, Record) or record.maker is None or task.is_over:
        return
    owner = known(broker, record.maker)
    if owner is not None and not owner.is_over:
        link(task, owner)
    broker.unparented.setdefault(record.maker.token, []).append(task)


def end_window(broker: "Broker") -> dict[Task, Token]:
    """Settle what becomes of calls whose run nobody has offered: it has ended, or was lost.

    Return the lost runs with which a call has ended, by the task that is to run again. Of calls
    that are not durable nobody knows that: they go on, and their run may be offered later still.
    """
    over: dict[Task, Token] = {}
    unparented, broker.unparented = broker.unparented, {}
    for parent, task in [(token, task) for token, calls in unparented.items() for task in calls]:
        record = task.record
        if task.is_over:
            continue
        if not isinstance(record, Record):
            broker.unparented.setdefault(parent, []).append(task)
            continue
        if record.maker is None:
            continue
        maker = record.maker
        owner = known(broker, maker)
        if owner is None:
            leave(broker, task, Parting.LEFT, None)
        elif (
            owner.token != maker.token
            and not (owner.is_over and owner.token is None)
            and settle(broker, [task], Parting.LOST, owner)
        ):
            over[owner] = max(maker.token, over.get(owner, NO_TOKEN))
    return over


def sweep(broker: "Broker", at_most: int = SWEPT_A_BEAT_MAX) -> None:
    """Forget those that have ended of the calls whose run has not come, of the next *at_most*."""
    unparented = broker.unparented
    for parent in list(islice(unparented, at_most)):
        calls = unparented.pop(parent)
        left = calls[at_most:] + [call for call in calls[:at_most] if not call.is_over]
        if left:
            unparented[parent] = left  # Behind all others, which are looked at before.
        at_most -= len(calls)
        if at_most <= 0:
            return


def stopped(broker: "Broker", parent: Token) -> None:
    """End the calls of a run that was offered and is stopped, but for durable ones.

    It stays over then, offered once more it would be told that they are gone; and in the window, in
    which calls of it may come yet.
    """
    calls = broker.unparented.pop(parent, [])
    durable = [call for call in calls if isinstance(call.record, Record)]
    if durable:
        broker.unparented[parent] = durable
    plain = [call for call in calls if not isinstance(call.record, Record)]
    if settle(broker, plain, Parting.LOST, None):
        refuse(broker, parent)
    elif parent not in broker.tokens:
        ended(broker, parent)


def sent_again(broker: "Broker", incarnation: int, numbers: list[Span]) -> None:
    """End calls of tasks that their client sends again: these run again, and make them again."""
    for call in list(broker.records.orphans.get(incarnation, ())):
        record = call.record
        assert isinstance(record, Record)
        assert record.maker
        if spans.holds(numbers, record.maker.number):
            forgetting.forget_orphan(broker, call)
            settle(broker, [call], Parting.LOST, None)


# ---------------------------------------------------------------------- invariants


def check(broker: "Broker", task: Task) -> None:
    """Assert that *task* and its calls know one another, and that none is left of a lost run."""
    for call in task.children or ():
        assert call.parent is task
        assert call.state is not State.FORGOTTEN
    assert not (task.children and task.state is State.ENDED)
    record = task.record
    if not isinstance(record, Record) or record.maker is None or task.is_over:
        return
    owner = known(broker, record.maker)
    if broker.window_ends_at is None and record.key is None and owner is not None:
        # Its client may have that of another run, and this one was offered after that.
        is_over = owner.is_over or owner.state is State.UNCLAIMED_OUTCOME
        # Where that was lost before it came, it runs again beside them.
        is_over |= task.parent is not None and task.parent is not owner
        assert is_over or owner.token == record.maker.token, "a lost run's call goes on"
