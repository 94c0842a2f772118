"""Dead tasks (protocol.md section 9.11): what ended badly, kept with its call and its history.

Which ones, for how long, and what is told of them. The rule that must not be broken: there are
never more of them, in number and octets, than the settings allow; the oldest go first.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from broker.disk import records, writing
from broker.facts.tally import CANCELED
from broker.facts.task import Ending, Task, Template
from wire.codec import decode_failure
from wire.errors import Code
from wire.messages import Query
from wire.parts import Failure, Status
from wire.texts import cut

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.disk.records import StoredTasks

Name = tuple[int, int]

ORDERS: Final = frozenset({"dead-forget"})
ALL: Final = "*"
LISTED_MAX: Final = 1_000
# What stands in an entry beside the call; the rest is cut.
MESSAGE_MAX: Final = 500
TRACEBACK_MAX: Final = 16_384
ENTRY_BYTES: Final = 512
# What the broker ended of which somebody should know: runs were lost, or never could begin.
KEPT: Final = frozenset(
    {Code.POISON_TASK, Code.OUTCOME_UNKNOWN, Code.ENVIRONMENT_FAILED, Code.ACTOR_LOST}
)
# Whoever submitted a durable task may be gone, so of these also what only its client would mind.
KEPT_DURABLE: Final = KEPT | {
    Code.SCHEDULE_TIMEOUT,
    Code.INFEASIBLE,
    Code.LIMIT_UNKNOWN,
    Code.BAD_OPTION,
}


class Facts(Struct, frozen=True, array_like=True):
    """What is told of a dead task. Fields are only ever appended, with a default."""

    client: int
    number: int
    client_name: str
    task: str
    code: str
    type: str
    message: str
    traceback: str
    actor: str
    tries: int
    failures: int
    crashes: int
    losses: int
    history: list[str]
    ended_ms: int
    octets: int
    # The name under which it was submitted again, and when.
    successor: Name | None = None
    redriven_ms: int = 0
    # How many of its runs began, also those that were no tries; -1 where a row does not say it.
    runs: int = -1


_encode = msgspec.msgpack.Encoder().encode
read_facts = msgspec.msgpack.Decoder(Facts).decode


class DeadTask:
    """One task that ended badly, with its call as long as it can be submitted again."""

    __slots__ = ("body", "facts", "frames", "is_written", "octets", "serial", "template")

    def __init__(
        self,
        serial: int,
        facts: Facts,
        template: Template | None,
        body: bytes,
        frames: Sequence[Any],
        *,
        is_written: bool,
    ) -> None:
        """Keep *template* and payload; without the template there is no call any more."""
        self.serial = serial
        self.facts = facts
        self.template = template
        self.body = body
        self.frames = frames
        self.is_written = is_written
        self.octets = octets_of(facts, body, frames)

    @property
    def name(self) -> Name:
        """Return the name that the task had."""
        return self.facts.client, self.facts.number

    @property
    def is_redriven(self) -> bool:
        """Tell whether it was submitted again."""
        return self.facts.successor is not None


class DeadTasks:
    """All dead tasks, the oldest first."""

    __slots__ = ("by_name", "codes", "octets", "serial")

    def __init__(self) -> None:
        """Begin with none."""
        self.by_name: dict[Name, DeadTask] = {}
        # The code that their calls need: its octets, and how many of them do.
        self.codes: dict[bytes, tuple[int, int]] = {}
        # All that they take, each code once.
        self.octets = 0
        self.serial = 0

    def add(self, dead: DeadTask) -> None:
        """Take one in that is newer than all others."""
        assert dead.name not in self.by_name
        self.by_name[dead.name] = dead
        self.octets += dead.octets
        self.serial = dead.serial
        for digest, size in codes_of(dead.template).items():
            octets, count = self.codes.get(digest, (size, 0))
            self.codes[digest] = (octets, count + 1)
            self.octets += 0 if count else octets

    def remove(self, dead: DeadTask) -> None:
        """Let go of one."""
        del self.by_name[dead.name]
        self.octets -= dead.octets

    def let_go_of_code(self, template: Template) -> None:
        """Count the code of a call that is kept no more for one less."""
        for digest in codes_of(template):
            octets, count = self.codes.pop(digest)
            if count > 1:
                self.codes[digest] = (octets, count - 1)
            else:
                self.octets -= octets

    def oldest(self) -> DeadTask:
        """Return the one that goes next."""
        return next(iter(self.by_name.values()))


# ---------------------------------------------------------------------- which ones


def keep_ended(broker: "Broker", task: Task, ending: Ending, code: Code) -> None:
    """Keep *task*, which the broker itself ends with *code*, if that is worth to be known."""
    template = task.template
    if not template or code not in (KEPT_DURABLE if template.head.durable else KEPT):
        return
    keep(broker, task, ending, decode_failure(ending.body))


def keep_failed(broker: "Broker", task: Task, ending: Ending) -> None:
    """Keep *task*, whose last run failed; it was to be tried again, or nobody may be there."""
    if ending.status is not Status.FAILURE and ending.status is not Status.EXPIRED:
        return
    # What cannot be read says so itself.
    failure = decode_failure(ending.body or (ending.frames or (b"",))[0])
    # The run has canceled itself, or got it from a call of its own: it counts as canceled too.
    if failure.code not in CANCELED:
        keep(broker, task, ending, failure)


def keep(broker: "Broker", task: Task, ending: Ending, failure: Failure) -> None:
    """Keep *task* as dead; what it is called by is a named actor's no more."""
    template, known, settings = task.template, broker.dead_tasks, broker.settings
    assert template
    # A call of a named actor means what that actor was then; its order among others is lost.
    if template.costs.named or not settings.dead_tasks_max:
        return
    former = known.by_name.get(records.name_of(task))
    if former is not None:
        if former.is_redriven:
            return  # Its client says it once more; it was submitted again, and is so once.
        forget(broker, former)
    facts = facts_of(broker, task, ending, failure)
    dead = DeadTask(
        known.serial + 1, facts, template, bytes(task.body), task.frames, is_written=False
    )
    if dead.octets + sum(codes_of(template).values()) > settings.dead_bytes_max:
        dead = DeadTask(dead.serial, facts, None, b"", (), is_written=False)
    # What is not durable never fills the memory of a broker that cannot write.
    if broker.records.has_journal and (task.record is not None or not broker.records.refusal):
        write(broker, dead)
    known.add(dead)
    broker.note("task_dead", task=task.name, code=failure.code, reason=facts.message)
    bound(broker)


def bound(broker: "Broker") -> None:
    """Let go of the oldest beyond what the settings allow."""
    known, settings = broker.dead_tasks, broker.settings
    while known.by_name and (
        len(known.by_name) > settings.dead_tasks_max or known.octets > settings.dead_bytes_max
    ):
        forget(broker, known.oldest())


def facts_of(broker: "Broker", task: Task, ending: Ending, failure: Failure) -> Facts:
    """Return what is told of *task*."""
    trouble = task.trouble
    return Facts(
        task.client.incarnation,
        task.number,
        task.client.name,
        task.call.name,
        failure.code,
        failure.type,
        failure.message[:MESSAGE_MAX],
        failure.traceback[-TRACEBACK_MAX:],
        ending.actor,
        task.tries,
        trouble.failures if trouble else 0,
        trouble.crashes if trouble else 0,
        trouble.losses if trouble else 0,
        list(trouble.history) if trouble else [],
        writing.wall_ms(broker, broker.ticked_at),
        task.size,
        runs=runs_of(task, ending, failure),
    )


def runs_of(task: Task, ending: Ending, failure: Failure) -> int:
    """Return how many runs of *task* began; one of which nobody knows that is taken for one."""
    trouble = task.trouble
    is_of_run = bool(ending.actor) and ending.status in (Status.FAILURE, Status.EXPIRED)
    is_last = is_of_run or failure.code == Code.OUTCOME_UNKNOWN
    return task.tries + (trouble.shared if trouble else 0) + is_last


def codes_of(template: Template | None) -> dict[bytes, int]:
    """Return the octets of the code that a call needs, by its hash."""
    if template is None:
        return {}
    return {blob.hash: records.size_of(blob) for blob in records.codes_of(template)}


def octets_of(facts: Facts, body: bytes, frames: Sequence[Any]) -> int:
    """Return what a dead task takes."""
    told = len(facts.message) + len(facts.traceback) + sum(map(len, facts.history))
    return ENTRY_BYTES + told + len(body) + sum(map(len, frames))


# ---------------------------------------------------------------------- the journal


def write(broker: "Broker", dead: DeadTask) -> None:
    """Write *dead*, with its call if it has one; one that is written already is changed."""
    template = dead.template
    if template is not None:
        writing.count_call(broker, template)
    dead.is_written = True
    writing.write(
        broker,
        "dead",
        dead.serial,
        None if template is None else template.hash,
        _encode(dead.facts),
        None if template is None else dead.body,
        None if template is None else records.pack(dead.frames),
    )


def restore(broker: "Broker", stored: "StoredTasks", templates: dict[bytes, Template]) -> None:
    """Take over what an earlier broker kept."""
    known = broker.dead_tasks
    for row in records.taken_from(stored.dead):
        template = templates[row.call] if row.call is not None else None
        frames = records.unpack(row.frames)
        dead = DeadTask(
            row.serial, read_facts(row.facts), template, row.body or b"", frames, is_written=True
        )
        if template is not None:
            writing.count_call(broker, template)
        known.add(dead)
    bound(broker)


# ---------------------------------------------------------------------- what becomes of them


def redriven(broker: "Broker", dead: DeadTask, successor: Name) -> None:
    """Note that *dead* was submitted again; its call is the other task's from here on."""
    known = broker.dead_tasks
    known.octets -= dead.octets
    let_go_of_call(broker, dead)
    now_ms = writing.wall_ms(broker, broker.ticked_at)
    dead.facts = msgspec.structs.replace(dead.facts, successor=successor, redriven_ms=now_ms)
    dead.octets = octets_of(dead.facts, b"", ())
    known.octets += dead.octets
    if dead.is_written:
        write(broker, dead)


def lives_again(broker: "Broker", name: Name) -> None:
    """Forget a dead task whose client has no outcome of it, and so has it run again."""
    dead = broker.dead_tasks.by_name.get(name)
    if dead is not None and not dead.is_redriven:
        forget(broker, dead)


def forget(broker: "Broker", dead: DeadTask) -> None:
    """Keep *dead* no longer."""
    broker.dead_tasks.remove(dead)
    let_go_of_call(broker, dead)
    if dead.is_written:
        writing.write(broker, "forget-dead", dead.serial)


def let_go_of_call(broker: "Broker", dead: DeadTask) -> None:
    template, dead.template, dead.body, dead.frames = dead.template, None, b"", ()
    if template is not None:
        broker.dead_tasks.let_go_of_code(template)
    if template is not None and dead.is_written:
        first, count = broker.records.calls[template.hash]
        broker.records.calls[template.hash] = (first, count - 1)


# ---------------------------------------------------------------------- questions and orders


def order(broker: "Broker", command: Query) -> dict[str, Any]:
    """Forget the dead tasks that are named between blanks, or all of them."""
    known, text = broker.dead_tasks, command.argument.split()
    if text == [ALL]:
        chosen = list(known.by_name.values())
    else:
        found = {one: find(broker, one) for one in text}
        lost = [one for one, dead in found.items() if dead is None]
        if lost or not found:
            return {"error": f"no dead task {cut(', '.join(lost)) or 'is named'} is kept here"}
        chosen = [dead for dead in found.values() if dead is not None]
    for dead in chosen:
        forget(broker, dead)
    return {"forgotten": [text_of(dead.name) for dead in chosen]}


def answer(broker: "Broker", argument: str) -> dict[str, Any]:
    """Return all dead tasks, those that can be redriven first, or one in full."""
    known = broker.dead_tasks
    common = {"count": len(known.by_name), "octets": known.octets}
    common |= {"has_journal": broker.records.has_journal, "newest": known.serial}
    if argument:
        dead = find(broker, argument)
        if dead is None:
            return {"error": f"no dead task {cut(argument)} is kept here"}
        return common | {"dead": [describe(dead) | in_full(dead)]}
    entries = sorted(known.by_name.values(), key=lambda dead: dead.is_redriven)
    return common | {"dead": [describe(dead) for dead in entries[:LISTED_MAX]]}


def describe(dead: DeadTask) -> dict[str, Any]:
    """Return what an operator wants to know of a dead task."""
    facts = dead.facts
    return {
        "task": text_of(dead.name),
        "serial": dead.serial,
        "name": facts.task,
        "client": facts.client_name,
        "ended_ms": facts.ended_ms,
        "code": facts.code,
        "type": facts.type,
        "message": facts.message,
        "actor": facts.actor,
        "runs": facts.tries if facts.runs < 0 else facts.runs,
        "tries": facts.tries,
        "failures": facts.failures,
        "crashes": facts.crashes,
        "losses": facts.losses,
        "history": facts.history,
        "octets": facts.octets,
        "has_call": dead.template is not None,
        "redriven_as": text_of(facts.successor) if facts.successor else "",
    }


def in_full(dead: DeadTask) -> dict[str, Any]:
    """Return what is told of one dead task alone: its error, and what its call asked for."""
    facts, call = dead.facts, dead.template.call if dead.template else None
    options = {}
    if call is not None:
        told = msgspec.to_builtins(call, str_keys=True)
        names = call.__struct_fields__
        options = {
            name: value
            for name, value in zip(names, told, strict=True)
            if value and name not in ("name", "function", "environment")
        }
        if call.environment is not None:
            options["environment"] = call.environment.id
    return {
        "traceback": facts.traceback,
        "redriven_ms": facts.redriven_ms,
        "options": options,
    }


def find(broker: "Broker", text: str) -> DeadTask | None:
    """Find a dead task by the whole name that it had."""
    client, _, number = text.rpartition("-")
    try:
        return broker.dead_tasks.by_name.get((int(client, 16), int(number)))
    except ValueError:
        return None


def text_of(name: Name) -> str:
    """Name a task for people."""
    return f"{name[0]:016x}-{name[1]}"


def check(broker: "Broker") -> None:
    """Assert that the bounds hold, and that what is counted is there."""
    known, settings = broker.dead_tasks, broker.settings
    assert len(known.by_name) <= settings.dead_tasks_max
    assert known.octets <= settings.dead_bytes_max
    needed = Counter(d for dead in known.by_name.values() for d in codes_of(dead.template))
    assert needed == {digest: count for digest, (_, count) in known.codes.items()}
    own = sum(dead.octets for dead in known.by_name.values())
    assert known.octets == own + sum(octets for octets, _ in known.codes.values())
    serials = [dead.serial for dead in known.by_name.values()]
    assert serials == sorted(set(serials))
    assert not serials or serials[-1] <= known.serial
    for name, dead in known.by_name.items():
        assert dead.name == name
        assert dead.octets == octets_of(dead.facts, dead.body, dead.frames)
        assert not (dead.is_redriven and dead.template is not None)
