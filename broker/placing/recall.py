"""Which tasks are asked back from a mailbox, for a slot that is free (protocol.md section 9.3).

A task that waits ahead in a mailbox is as if it stood in the backlog: where a slot is free that it
could have had from there, it is asked back. The rule that must not be broken: asking changes
nothing. The task stays assigned until the actor hands it back, and what has started stays there.
"""

from collections.abc import Iterator
from itertools import chain, islice
from math import inf
from typing import TYPE_CHECKING, Final

from broker.facts.credit import OWN
from broker.facts.peers import Actor, Session, is_barred
from broker.facts.task import State, Task
from broker.placing import preference, replicas
from broker.waiting.costs import SLOT
from wire.messages import Recall
from wire.parts import Token

if TYPE_CHECKING:
    from broker.core import Broker

# What was submitted later than this is about to start, or the runs ahead of it are not short.
RECALL_AFTER_S: Final = 0.002
# So many mailboxes are looked into at once; those that come later in the next turn.
DONORS_A_LOOK: Final = 64


class Asked:
    """A task that was asked back, and for whom."""

    __slots__ = ("frame", "session", "target", "task")

    def __init__(self, task: Task, target: Actor, session: Session) -> None:
        """Name the task; *frame* is the one of *session* that asks."""
        self.task = task
        self.target = target
        self.session = session
        self.frame = 0

    def is_current(self, token: Token) -> bool:
        """Tell whether the task is still where it was asked back from."""
        actor = self.task.actor
        return self.task.token == token and actor is not None and actor.session is self.session

    @property
    def is_answered(self) -> bool:
        """Tell whether the actor has heard it. What it has not handed back then has started."""
        return self.session.acked >= self.frame


class Recalls:
    """Where something may wait ahead, and what was asked back."""

    __slots__ = ("ahead", "asked", "count", "due_at", "free", "is_anybody", "started", "unlooked")

    def __init__(self) -> None:
        """Begin with nothing that waits."""
        # The actors to which more was assigned than they had slots for.
        self.ahead: dict[Actor, None] = {}
        self.asked: dict[Token, Asked] = {}
        # What was asked back and had started.
        self.started: set[Token] = set()
        # How many tasks were ever asked back.
        self.count = 0
        # When somebody has to look: at these actors, which may have a free slot, or at all.
        self.due_at = inf
        self.free: dict[Actor, None] = {}
        self.is_anybody = False
        # How many mailboxes are still to be looked into for them.
        self.unlooked = 0

    def look_at(self, actor: Actor, now: float) -> None:
        """Have looked at once what could run in a slot of *actor*."""
        self.free[actor] = None
        self.due_at = now
        self.unlooked = len(self.ahead)

    def look_at_all(self, now: float) -> None:
        """Have looked at once what could run anywhere; for what is seen by no statement."""
        self.is_anybody = True
        self.due_at = now
        self.unlooked = len(self.ahead)

    def settle(self, broker: "Broker") -> None:
        """Forget what was answered."""
        for token, asked in list(self.asked.items()):
            if not asked.is_current(token):
                del self.asked[token]
            elif asked.is_answered:
                del self.asked[token]
                self.started.add(token)
        self.started &= broker.tokens.keys()

    def room(self, target: Actor) -> int:
        """Return how many slots of *target* are free, and nothing was asked back for them."""
        coming = sum(asked.target is target for asked in self.asked.values())
        return target.credit.slots_available - coming


def look(broker: "Broker", now: float) -> None:
    """Ask back what could run in a slot that the backlog leaves free."""
    recalls = broker.recalls
    recalls.due_at = inf
    recalls.settle(broker)
    looked_at = list(broker.open_actors if recalls.is_anybody else recalls.free)
    recalls.is_anybody = False
    recalls.free = {a: None for a in looked_at if a.is_open and a.credit.slots_available > 0}
    if not recalls.free:
        return
    donors = waiting_in(recalls)
    donors.sort(key=len, reverse=True)
    candidates = [t for t in chain.from_iterable(donors) if t.token not in recalls.asked]
    wanted: dict[Session, list[Asked]] = {}
    for target in recalls.free:
        if not candidates:
            break
        found = list(choose(broker, target, candidates, now))
        for asked in found:
            wanted.setdefault(asked.session, []).append(asked)
        if found:
            candidates = [task for task in candidates if task.token not in recalls.asked]
    for session, asks in wanted.items():
        tokens = [asked.task.token for asked in asks if asked.task.token]
        broker.say(session, Recall(tokens, "another actor has a free slot"))
        recalls.count += len(tokens)
        # After say: a frame that was full is sealed by it.
        for asked in asks:
            asked.frame = session.sent + len(session.sealed) + 1
    if recalls.unlooked:
        recalls.due_at = now
    elif recalls.due_at == inf:
        # Whatever else may become of use to them is seen with the next look at all.
        recalls.free.clear()


def waiting_in(recalls: Recalls) -> list[list[Task]]:
    """Return what waits in some mailboxes, and look into others the next time."""
    found: list[list[Task]] = []
    ahead = recalls.ahead
    recalls.unlooked = max(0, recalls.unlooked - DONORS_A_LOOK)
    for donor in list(islice(ahead, DONORS_A_LOOK)):
        del ahead[donor]
        waiting = waiting_at(recalls, donor)
        if waiting:
            ahead[donor] = None
            if donor.is_open:
                found.append(waiting)
    return found


def choose(broker: "Broker", target: Actor, candidates: list[Task], now: float) -> Iterator[Asked]:
    """Ask back as many of *candidates* as *target* has slots for, the first of them first."""
    recalls = broker.recalls
    room = recalls.room(target)
    for task in candidates if room > 0 else ():
        token, actor = task.token, task.actor
        if token is None or not fits(broker, task, target):
            continue
        at = recall_at(broker, task, target, now)
        if now < at:
            recalls.due_at = min(recalls.due_at, at)
            continue
        assert actor is not None
        assert actor.session is not None
        asked = recalls.asked[token] = Asked(task, target, actor.session)
        yield asked
        room -= 1
        if room <= 0:
            return


def recall_at(broker: "Broker", task: Task, target: Actor, now: float) -> float:
    """Return when *task* may be asked back for *target*, where it would go from the backlog."""
    assert task.template
    shape = task.template.shape
    at = task.queued_at + RECALL_AFTER_S
    record = broker.environments.find(shape)
    if record is not None and record.environment.id not in target.copies:
        at = max(at, replicas.enter_at(record, task, now))
    elif shape.wait is not None:
        at = max(at, preference.stays_until(broker, task, target))
    return at


def waiting_at(recalls: Recalls, actor: Actor) -> list[Task]:
    """Return what seems to wait in the mailbox of *actor*, the newest first.

    It starts them in their order, so as many wait as there are more than slots. What may wait ahead
    takes all turns of its environment, so there one runs at a time.
    """
    held = [task for task in actor.assigned.values() if not task.is_released]
    shapes = [task.template.shape for task in held if task.template]
    beyond = sum(shape.cost.plain for shape in shapes) + len(held) - len(shapes)
    # Those that share a replica have one slot together.
    beyond += len({shape.cost.place for shape in shapes if shape.cost.is_sharing})
    beyond -= actor.slots.get(SLOT, 0)
    costs = [shape.cost for shape in shapes if shape.cost.may_wait_ahead]
    turns = [cost.environment for cost in costs if cost.environment and cost.pool != OWN]
    beyond = max(beyond, len(turns) - len({*turns}))
    waiting: list[Task] = []
    for task in reversed(held) if beyond > 0 else ():
        if len(waiting) == beyond:
            break
        has_started = task.is_finished or task.token in recalls.started
        if not has_started and task.template and task.template.shape.cost.may_wait_ahead:
            waiting.append(task)
    return waiting


def fits(broker: "Broker", task: Task, target: Actor) -> bool:
    """Tell whether *task* would get a slot of *target* from the backlog."""
    if task.actor is target or task.state is not State.ASSIGNED or task.client.is_paused:
        return False
    assert task.template
    shape = task.template.shape
    reserved = broker.reservation
    kept = reserved.shape.cost if reserved and reserved.binds(task, target) else None
    return (
        shape.suits(target)
        and target.credit.has_place(shape.cost, kept)
        and not is_barred(task, target)
    )
