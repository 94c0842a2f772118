"""What the journal has of durable tasks, as rows and as the core works with it.

An operation is a tuple: its name and the fields of its statement in `broker.journal`. The rule that
must not be broken: what is read back from the rows is what the core held when they were written.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Protocol
from zlib import crc32

import msgspec
from msgspec import Struct

from broker.facts.deadlines import VOID_MIN
from broker.facts.task import Ending, FunctionBlob, Task, Template
from broker.facts.trouble import NO_TOKEN, FailedRun, Trouble
from wire.codec import INLINE_BYTES_MAX
from wire.parts import Call, Status, Token

if TYPE_CHECKING:
    from broker.tasks.naming import NamedActor

# What a row costs beside what its task brought along.
ROW_BYTES: Final = 512
# Integers of a row have 64 bits with a sign.
ROW_INTEGER_MAX: Final = 2**63 - 1
# SQLite takes no row of 1e9 octets.
ROW_PAYLOAD_BYTES_MAX: Final = 900_000_000

_encode = msgspec.msgpack.Encoder().encode


class Awaited(Enum):
    """What is done once an operation is on disk."""

    SUBMIT = auto()  # say ACCEPTED
    OUTCOME = auto()  # say the outcome, and let its actor forget it
    ARMED = auto()  # queue again what now may start
    PROGRESS = auto()  # say what went wrong with it
    FAILED = auto()  # let its actor forget a failure that is tried again
    SEALED = auto()  # let a named actor be entered


class Maker(Struct, frozen=True, array_like=True):
    """In which run of which task a call was made; without its numbers where these are not known."""

    client: int
    number: int
    token: Token


class Record:
    """What the journal has of one durable task, and who waits for its outcome."""

    __slots__ = (
        "attached",
        "expires_at",
        "given_to",
        "is_armed",
        "is_restored",
        "is_taken",
        "is_wanted",
        "key",
        "maker",
        "may_return",
        "octets",
        "outcome_sequence",
        "sequence",
    )

    def __init__(self, sequence: int, octets: int) -> None:
        """Begin as written by the operation with this number."""
        self.sequence = sequence
        self.octets = octets
        # The number of the operation that wrote the outcome; None before.
        self.outcome_sequence: int | None = None
        # One that the journal lets start: from here on nobody can tell whether it has. Of one that
        # *is_restored* from an earlier broker, and that may run twice, it says that it was given.
        self.is_armed = False
        self.is_restored = False
        # The process to which such a one was given; 0: an older journal does not say.
        self.given_to = 0
        # Whether its client may still ask for the outcome, and whether anybody has received it.
        self.is_wanted = True
        self.is_taken = False
        # Whether its client, which is gone, may come back and say an at_most_once call again.
        self.may_return = False
        self.attached: dict[Task, None] = {}
        # Text, digest, and until when the outcome is kept for it (seconds of the core's clock).
        self.key: tuple[str, bytes, float] | None = None
        self.expires_at = 0.0
        # The run that made it; None for a call that no run has made.
        self.maker: Maker | None = None


class Alias:
    """Says that a task is another name of a durable one."""

    __slots__ = ("target",)

    def __init__(self, target: Task) -> None:
        """Stand for *target*."""
        self.target = target


class Records:
    """All that a broker knows of its journal."""

    __slots__ = (
        "calls",
        "charged",
        "clock_ms",
        "codes",
        "ended_well",
        "expiring",
        "expiring_max",
        "given",
        "has_journal",
        "idle",
        "kept",
        "keys",
        "looked",
        "needed",
        "octets",
        "orphans",
        "refusal",
        "restored",
        "serial",
        "swept_at",
        "waiting",
        "wall_ms",
        "writing",
    )

    def __init__(self, now: float) -> None:
        """Begin without a journal."""
        self.has_journal = False
        # Whether the broker before was told to end, so that nothing that ran is to blame.
        self.ended_well = False
        # What went down with it, with the line that says so: the run of one may yet be offered.
        self.charged: dict[Task, str] = {}
        # What it gave out, by the process that has not come since and may still offer it.
        self.given: dict[int, list[Task]] = {}
        # Those that are restored and have no outcome, and up to which assignment it was looked
        # whether it is one of these.
        self.restored: dict[Task, None] = {}
        self.looked = 0
        # What must be added to the core's clock for the time in the journal, and for milliseconds
        # since 1970 as the clock on the wall had them at the start.
        self.clock_ms = 0.0
        self.wall_ms = 0.0
        # Why nothing can be written now, empty while it can.
        self.refusal = ""
        self.octets = 0
        # (number of the operation, what is done when it is on disk, for whom), oldest first.
        self.waiting: deque[tuple[int, Awaited, Task | FailedRun | NamedActor]] = deque()
        self.writing: dict[Task, None] = {}
        self.keys: dict[str, Task] = {}
        # Calls whose makers are not here and may come back, by the incarnation of their client.
        self.orphans: dict[int, dict[Task, None]] = {}
        # Ended tasks whose client does not ask for them: incarnation, number.
        self.kept: dict[int, dict[int, Task]] = {}
        # A heap of (when, serial, task): outcomes and keys that end.
        self.expiring: list[tuple[float, int, Task]] = []
        # With more in it, those are taken out that are over.
        self.expiring_max = VOID_MIN
        self.serial = 0
        # Hashes of calls and code on disk, with how many tasks, or calls, use each.
        self.calls: dict[bytes, tuple[Template, int]] = {}
        self.codes: dict[bytes, int] = {}
        self.idle: set[bytes] = set()
        # Code that tasks and named actors need: its octets, and how many of them do.
        self.needed: dict[bytes, tuple[int, int]] = {}
        self.swept_at = now


class Progress(Struct, frozen=True, array_like=True):
    """What a task went through. Fields are only ever appended, with a default."""

    tries: int = 0
    crashes: int = 0
    losses: int = 0
    history: list[str] = []
    # Since when it waits, in milliseconds since 1970.
    queued_ms: int = 0
    # How often it failed, the last run that did, and when it is tried again.
    failures: int = 0
    failed: Token = NO_TOKEN
    due_ms: int = 0
    # How often its process died beside others'.
    shared: int = 0
    # The run that made it.
    maker: Maker | None = None


class Told(Struct, frozen=True, array_like=True):
    """An outcome. Fields are only ever appended, with a default."""

    status: Status
    body: bytes
    actor: str
    attempt: int


class Row(Struct, frozen=True, array_like=True):
    """A task as the journal has it, in the order in which it is read."""

    client: int
    number: int
    call: bytes
    # None beside an outcome.
    body: bytes | None
    frames: bytes | None
    progress: bytes
    # 0, 1, or the incarnation of the actor that it was given to.
    armed: int
    key: str | None
    digest: bytes | None
    key_until_ms: int | None
    outcome: bytes | None
    ended_ms: int | None
    # Over body and frames, or outcome and frames; None where an older broker has written it.
    sum: int | None


class DeadRow(Struct, frozen=True, array_like=True):
    """A dead task as the journal has it; without a call it cannot be submitted again."""

    serial: int
    call: bytes | None
    facts: bytes
    body: bytes | None
    frames: bytes | None
    sum: int | None


class NamedState(Struct, frozen=True, array_like=True):
    """How a named actor stands. Fields are only ever appended, with a default."""

    generation: Token = NO_TOKEN
    # Generations up to this one are over.
    fence: Token = NO_TOKEN
    restarts: int = 0


class NamedRow(Struct, frozen=True, array_like=True):
    """A named actor as the journal has it, in the order in which it is read."""

    id: str
    call: bytes
    state: bytes
    serial: int
    checkpoint: bytes | None
    sum: int | None


def taken_from(rows: list[Any]) -> Iterator[Any]:
    """Return *rows* in their order, each taken out: what is made of it has its own octets."""
    rows.reverse()
    while rows:
        yield rows.pop()


class StoredTasks(Struct, frozen=True):
    """All that an earlier broker left of durable tasks, dead tasks and named actors.

    Its rows are gone once they were taken over: they would stay in memory as long as the journal.
    """

    rows: list[Row] = []
    dead: list[DeadRow] = []
    # Hash -> call; hash -> code.
    calls: dict[bytes, bytes] = {}
    codes: dict[bytes, bytes] = {}
    named: list[NamedRow] = []


decode_named_state = msgspec.msgpack.Decoder(NamedState).decode
_decode_progress = msgspec.msgpack.Decoder(Progress).decode
_decode_told = msgspec.msgpack.Decoder(Told).decode
_decode_call = msgspec.msgpack.Decoder(Call).decode
_decode_frames = msgspec.msgpack.Decoder(list[bytes]).decode


class Parts:
    """Payload frames on their way to a row; joined by the thread that writes."""

    __slots__ = ("frames",)

    def __init__(self, frames: Sequence[Any]) -> None:
        """Keep *frames*, which nobody changes."""
        self.frames = frames

    def packed(self) -> bytes:
        """Return the frames as one value."""
        return _encode([frame if type(frame) is bytes else frame.buffer for frame in self.frames])


def octets_of(operations: Sequence[tuple[Any, ...]]) -> int:
    """Return how many octets are to be written, but for small values."""
    octets = 0
    for operation in operations:
        for value in operation:
            if type(value) is bytes:
                octets += len(value)
            elif type(value) is Parts:
                octets += sum(map(len, value.frames))
    return octets


def name_of(task: Task) -> tuple[int, int]:
    """Return the fields that name *task* in each operation."""
    return task.client.incarnation, task.number


def progress_of(task: Task, queued_ms: int, clock_ms: float) -> bytes:
    """Return what *task* went through, as its row has it, with *clock_ms* added to what is due."""
    trouble, record = task.trouble, task.record
    maker = record.maker if isinstance(record, Record) else None
    if trouble is None:
        return _encode(Progress(task.tries, queued_ms=queued_ms, maker=maker))
    return _encode(
        Progress(
            task.tries,
            trouble.crashes,
            trouble.losses,
            trouble.history,
            queued_ms,
            trouble.failures,
            trouble.failed,
            int(clock_ms + trouble.due_at * 1000.0) if trouble.due_at else 0,
            trouble.shared,
            maker,
        )
    )


def resume(task: Task, row: Row, now: float, now_ms: int) -> None:
    """Give *task* what it went through before, and say who has made it."""
    progress = _decode_progress(row.progress)
    assert isinstance(task.record, Record)
    task.record.maker = progress.maker
    task.queued_at -= max(0.0, (now_ms - progress.queued_ms) / 1000.0)
    task.tries = progress.tries
    if progress.history or progress.failed > NO_TOKEN:
        trouble = task.trouble = Trouble()
        trouble.failures = progress.failures
        trouble.crashes, trouble.losses = progress.crashes, progress.losses
        trouble.shared = progress.shared
        trouble.history, trouble.failed = progress.history, progress.failed
        if progress.due_ms:
            trouble.due_at = now + (progress.due_ms - now_ms) / 1000.0


def state_of(record: "NamedActor") -> bytes:
    """Return how a named actor stands, as its row has it."""
    return _encode(NamedState(record.generation, record.fence, record.restarts))


def told_of(ending: Ending) -> bytes:
    """Return an outcome without its frames, as the row has it."""
    return _encode(Told(ending.status, bytes(ending.body), ending.actor, ending.attempt))


def ending_of(row: Row) -> Ending:
    """Return the outcome in *row*."""
    assert row.outcome is not None
    told = _decode_told(row.outcome)
    return Ending(told.status, told.body, frames_of(row), told.actor, told.attempt)


def frames_of(row: Row) -> Sequence[bytes]:
    """Return the payload frames in *row*: of the call, or of its outcome."""
    return unpack(row.frames)


def unpack(frames: bytes | None) -> Sequence[bytes]:
    """Return payload frames that stand in one value."""
    return _decode_frames(frames) if frames is not None else ()


def pack(frames: Sequence[Any]) -> Parts | None:
    """Return *frames* as an operation carries them."""
    return Parts(frames) if frames else None


def hash_call(call: Call) -> tuple[bytes, bytes]:
    """Return the name of *call* in the journal, and the call as the row has it."""
    encoded = _encode(call)
    return blake2b(encoded, digest_size=16).digest(), encoded


def sum_of(*values: bytes | None) -> int:
    """Return the sum over *values* by which it shows that an octet of them is another one."""
    found = 0
    for value in values:
        if value is not None:
            found = crc32(value, found)
    return found


def check_sums(stored: StoredTasks, codes: Iterable[tuple[bytes, bytes, int | None]]) -> None:
    """Raise ValueError where an octet of what users sent is not the one that was written."""
    for row in stored.rows:
        content = row.body if row.outcome is None else row.outcome
        check_sum(f"task {row.client:016x}-{row.number}", row.sum, content, row.frames)
    for one in stored.dead:
        check_sum(f"dead task {one.serial}", one.sum, one.facts, one.body, one.frames)
    for actor in stored.named:
        check_sum(f"the checkpoint of named actor {actor.id}", actor.sum, actor.checkpoint)
    for digest, code, written in codes:
        check_sum(f"code {digest.hex()}", written, code)


def check_sum(what: str, written: int | None, *values: bytes | None) -> None:
    """Raise ValueError where the sum over *values* is not the one that was *written*."""
    if written is not None and written != sum_of(*values):
        raise ValueError(f"{what} is not what was written")


def check_calls(stored: StoredTasks) -> None:
    """Raise ValueError where a call is not what its name says, or one is needed that is not there.

    Code has the name that its client gave it, which is not judged here.
    """
    for digest, encoded in stored.calls.items():
        if blake2b(encoded, digest_size=16).digest() != digest:
            raise ValueError(f"call {digest.hex()} is not what was written")
    needed = {row.call for row in stored.rows} | {row.call for row in stored.named}
    needed |= {row.call for row in stored.dead if row.call is not None}
    for digest in sorted(needed - stored.calls.keys()):
        raise ValueError(f"call {digest.hex()} is missing")


def code_of(blob: FunctionBlob) -> bytes:
    """Return the octets of a function, which came in the command or behind it."""
    if not blob.frames:
        return blob.body
    frame: Any = blob.frames[0]
    return frame if type(frame) is bytes else bytes(frame.buffer)


def codes_of(template: Template) -> list[FunctionBlob]:
    """Return the code that the tasks of *template* need."""
    return [blob for blob in (template.function, template.blob) if blob is not None]


def size_of(blob: FunctionBlob) -> int:
    """Return how many octets `code_of` has."""
    return len(blob.frames[0]) if blob.frames else len(blob.body)


def blob_of(digest: bytes, code: bytes) -> FunctionBlob:
    """Return code as FUNCTION would have brought it."""
    if len(code) > INLINE_BYTES_MAX:
        return FunctionBlob(digest, b"", (code,))
    return FunctionBlob(digest, code, ())


class Shapes(Protocol):
    """What knows the shape of a call; see `broker.backlog`."""

    def shape_of(self, call: Call) -> Any: ...


def templates_of(stored: StoredTasks, shapes: Shapes) -> dict[bytes, Template]:
    """Return the templates of all stored calls by their hash."""
    blobs = {digest: blob_of(digest, code) for digest, code in stored.codes.items()}
    templates = {}
    for digest, encoded in stored.calls.items():
        call = _decode_call(encoded)
        # The code of a named actor is where it was made; a call to one that has ended has none.
        blob = blobs.get(call.environment.blob) if call.environment else None
        function = blobs.get(call.function)
        template = Template(call, shapes.shape_of(call), function=function, blob=blob)
        template.hash = digest
        templates[digest] = template
    return templates
