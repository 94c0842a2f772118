"""Runs that went down with an earlier broker (protocol.md section 9.6, rule 11).

A death that takes actor, host and broker along at once is reported by nobody. So the journal has it
of each task that it has brought over one start already to which process it was given, and a start
after an end that nobody asked for counts what does not come back. Nothing waits for that. The rules
that must not be broken: what is counted and what is given out no more is written in one commit, so
each end counts once; what was given to a process that lives is counted never.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from broker.disk import writing
from broker.disk.records import Record
from broker.facts.peers import Actor
from broker.facts.task import State, Task
from broker.placing import requeueing

if TYPE_CHECKING:
    from broker.core import Broker

REASON: Final = "it was running when the broker ended, and nobody has its run"


def note(broker: "Broker") -> None:
    """Write of each restored task that was given out since the last time that it was."""
    known = broker.records
    for number in range(known.looked + 1, broker.assignments + 1):
        task = broker.tokens.get((broker.epoch, number))
        if task in known.restored and writing.must_arm(task):
            writing.arm_row(broker, task)
    known.looked = broker.assignments


def forget(broker: "Broker") -> None:
    """Look no more at what is over."""
    known = broker.records
    known.charged = {task: line for task, line in known.charged.items() if not task.is_over}
    known.restored = {task: None for task in known.restored if not task.is_over}
    for incarnation, tasks in list(known.given.items()):
        known.given[incarnation] = [task for task in tasks if not task.is_over]
        if not known.given[incarnation]:
            del known.given[incarnation]


def count(broker: "Broker", held: Collection[Task]) -> None:
    """Count a crash of each of the *held* that was given out, or a shared one of several."""
    given = [task for task in held if isinstance(task.record, Record) and task.record.is_armed]
    # Those that are at_most_once, or calls to named actors, are judged elsewhere.
    gone = [task for task in given if writing.is_counted(task)]
    if broker.records.ended_well:
        # Written now, not at the start: a broker that ends in its window has begun nothing.
        writing.write(broker, "running")
        for task in gone:
            writing.requeued(broker, task, burns=None)
        return
    burns = "crash" if len(given) == 1 else "shared"
    for task in gone:
        trouble = requeueing.charge(task, REASON, burns=burns)
        if not requeueing.is_given_up(broker, task, trouble, REASON):
            broker.records.charged[task] = trouble.history[-1]
            writing.requeued(broker, task, burns=burns)


def came_back(broker: "Broker", actor: Actor) -> None:
    """Count nothing of what was given to *actor* and is not in its inventory: it never began."""
    for task in broker.records.given.pop(actor.incarnation, ()):
        record = task.record
        if not isinstance(record, Record):
            continue
        if task.state is State.HELD and record.given_to == actor.incarnation:
            writing.requeued(broker, task, burns=None)
        elif not task.is_over:
            take_back(broker, task)


def take_back(broker: "Broker", task: Task) -> None:
    """Hold nothing against *task* for a run that goes on after all, and came late."""
    line, trouble = broker.records.charged.pop(task, None), task.trouble
    if line is None or trouble is None or line not in trouble.history:
        return
    is_shared = line.endswith("beside others")
    trouble.shared -= is_shared
    trouble.crashes -= not is_shared
    task.tries -= not is_shared
    trouble.correct(line, None)
    writing.write_progress(broker, task)
