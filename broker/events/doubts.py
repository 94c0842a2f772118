"""Losses that may be none: of an assignment nobody could tell whether it had started.

The HELLO of the next process can come before the report of the former one's death, and a lease can
end before either. Then each task burns a try, which is corrected when somebody tells (protocol.md
section 10). The rule that must not be broken: only counts change here, and only those of a loss.
"""

from typing import TYPE_CHECKING, Final

from broker.disk import writing
from broker.disk.records import Record
from broker.facts.peers import Actor
from broker.facts.task import State, Task
from broker.placing import isolation
from broker.tasks import retrying
from wire.messages import ActorHello
from wire.parts import Token

if TYPE_CHECKING:
    from broker.core import Broker

# Of so many processes it is known whom their loss was charged to; the oldest are forgotten.
PROCESSES_MAX: Final = 1_024


class Doubts:
    """Whom a loss was charged to, by the process that was lost."""

    __slots__ = ("by_incarnation", "refused")

    def __init__(self) -> None:
        """Begin with no doubt."""
        # Incarnation -> token -> the task, and the line of its history that tells of the loss.
        self.by_incarnation: dict[int, dict[Token, tuple[Task, str]]] = {}
        # Runs that were not here when a call of their own came, which was refused for that.
        self.refused: dict[Token, None] = {}


def note(broker: "Broker", actor: Actor, lost: dict[Token, Task]) -> None:
    """Remember who has just been charged with the loss of *actor*."""
    charged = {
        token: (task, task.trouble.history[-1])
        for token, task in lost.items()
        if can_change(task) and task.trouble and task.trouble.losses
    }
    if not charged:
        return
    known = broker.doubts.by_incarnation
    known[actor.incarnation] = charged
    if len(known) > PROCESSES_MAX:
        del known[next(iter(known))]


def charged_with(broker: "Broker", token: Token) -> Task | None:
    """Return the task that was charged with the loss of this run, while that is not settled."""
    for charged in broker.doubts.by_incarnation.values():
        if token in charged:
            return charged[token][0]
    return None


def can_change(task: Task) -> bool:
    """Tell whether *task* goes on; calls to a named actor are counted with that."""
    return bool(not task.is_over and task.template and not task.template.costs.named)


def sweep(broker: "Broker") -> None:
    """Forget what can be corrected no more."""
    known = broker.doubts.by_incarnation
    for incarnation, charged in list(known.items()):
        for token in [token for token, (task, _) in charged.items() if task.is_over]:
            del charged[token]
        if not charged:
            del known[incarnation]


def came_back(broker: "Broker", hello: ActorHello, now: float) -> None:
    """Take back what was charged for assignments that a lost actor never started."""
    charged = broker.doubts.by_incarnation.pop(hello.incarnation, None)
    if charged is None:
        return
    started = {item.token for item in hello.holding if item.held != "waiting"}
    started |= {item.token for item in hello.kept} | {item.token for item in hello.stopped}
    for token, (task, line) in charged.items():
        if token not in started:
            correct(broker, task, line, None, "", now)


def died(
    broker: "Broker", incarnation: int, started: dict[Token, str], reason: str, now: float
) -> None:
    """Charge each task as if its loss had been a death from the beginning."""
    charged = broker.doubts.by_incarnation.pop(incarnation, None)
    for token, (task, line) in (charged or {}).items():
        correct(broker, task, line, started.get(token), reason, now)


def correct(  # noqa: PLR0917
    broker: "Broker", task: Task, line: str, burns: str | None, reason: str, now: float
) -> None:
    """Charge *task* with what *burns* says in the place of a loss, as `requeue` would."""
    trouble = task.trouble
    if trouble is None or not trouble.losses or not can_change(task):
        return
    trouble.losses -= 1
    task.tries -= burns != "crash"
    trouble.crashes += burns == "crash"
    trouble.shared += burns == "shared"
    is_charged = burns in {"crash", "shared"}
    beside = ", beside others" if burns == "shared" else ""
    attempt = line.partition(":")[0]
    trouble.correct(line, f"{attempt}: {reason}{beside}" if is_charged else None)
    if isinstance(task.record, Record) and task.record.outcome_sequence is None:
        writing.write_progress(broker, task)
    retrying.say_again(broker, task, now)
    if is_charged:
        trouble.is_patient = False
        if task.state is State.QUEUED and task.must_be_alone:
            isolation.take(broker, task, now)
