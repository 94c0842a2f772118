"""The outcomes that the broker has not acknowledged, and which of them are on their way.

The rule that must not be broken: an outcome stays here until it is acknowledged, whatever becomes
of sessions meanwhile.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from actor.holding.mailbox import Assignment, Payloads
from actor.holding.recipe import Buffer
from actor.holding.retries import is_retriable, is_timeout_retriable
from sdk.errors import EnvironmentFailed
from wire.codec import INLINE_BYTES_MAX, encode_failure, read_failure
from wire.errors import Code
from wire.exceptions import shortened
from wire.messages import Outcome, Welcome
from wire.parts import Failure, Kept, Status, Token
from wire.payload import size_of

# A frame of outcomes that are said again stays far below the limits of a control frame.
COMMANDS_A_FRAME_MAX: Final = 512
PAYLOADS_A_FRAME_MAX: Final = 16_384
# Each outcome counts for so much beside its octets: with the default of kept_bytes_max no more are
# kept than the board has records for.
OVERHEAD_BYTES: Final = 4_096

Batch = tuple[list[Outcome], list[Buffer], list[Token]]


class KeptOutcome(Struct, eq=False):
    """An outcome with what names its task, and its payload frames."""

    token: Token
    client: int
    task: int
    command: Outcome
    payloads: Payloads
    size: int

    @property
    def is_retriable(self) -> bool:
        """Tell whether it is a failure that may be tried again; read anew, since few ask."""
        if self.command.status is Status.RESULT:
            return False
        body = self.command.body or (self.payloads or (b"",))[0]
        failure = read_failure(body)
        return failure is not None and failure.retriable


class Outcomes:
    """All outcomes that are kept."""

    __slots__ = ("_in_flight", "fresh", "kept", "octets", "settled")

    def __init__(self) -> None:
        """Begin with none."""
        self.kept: dict[Token, KeptOutcome] = {}
        self.octets = 0
        # Runs that the board can forget: the outcome is at the broker, or nobody wants it.
        self.settled: list[Token] = []
        # Those that are to be said.
        self.fresh: list[KeptOutcome] = []
        # The frame that carries which, oldest first.
        self._in_flight: deque[tuple[int, list[Token]]] = deque()

    def keep(  # noqa: PLR0917 - on the path of each task.
        self,
        assignment: Assignment,
        status: Status,
        body: Buffer,
        frames: Payloads,
        run_s: float,
        checkpoint: int = 0,
    ) -> None:
        """Keep the outcome of *assignment*, to be said now.

        With the serial of a *checkpoint* that is the last of *frames*.
        """
        if len(body) > INLINE_BYTES_MAX:
            frames, body = (body, *frames), b""
        token = assignment.token
        if type(body) is not bytes:
            body = bytes(body)
        command = Outcome(token[0], token[1], status, body, len(frames), run_s, checkpoint)
        size = OVERHEAD_BYTES + len(body)
        if frames:
            size += sum(map(size_of, frames))
        self.kept[token] = kept = KeptOutcome(
            token, assignment.client, assignment.task, command, frames, size
        )
        self.octets += size
        self.fresh.append(kept)

    def acknowledge(self, tokens: Sequence[Token]) -> None:
        """Forget the outcomes of *tokens*."""
        forget, fresh = self.kept.pop, self.fresh
        for token in tokens:
            kept = forget(token, None)
            if kept is not None:
                self.octets -= kept.size
                # Else the broker has received all that was said, and this is settled already.
                if fresh or self._in_flight:
                    self.settled.append(token)
                    if kept in fresh:
                        fresh.remove(kept)

    def received(self, number: int) -> None:
        """Note that the broker has the frames up to *number*."""
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= number:
            self.settled += in_flight.popleft()[1]

    def begin_session(self) -> None:
        """Note that nothing is on its way any more."""
        self.fresh = []
        for _, tokens in self._in_flight:
            # Those that had no outcome: HELLO says by silence that they are not here.
            self.settled += [token for token in tokens if token not in self.kept]
        self._in_flight.clear()

    def say_all(self) -> None:
        """Have all said again."""
        self.fresh = list(self.kept.values())

    def take_fresh(self) -> list[Batch]:
        """Return what is to be said, a batch for each frame."""
        fresh = self.fresh
        if len(fresh) == 1:
            self.fresh = []
            [kept] = fresh
            return [([kept.command], [*kept.payloads], [kept.token])]
        batches: list[Batch] = []
        if len(fresh) <= COMMANDS_A_FRAME_MAX and not [k for k in fresh if k.payloads]:
            self.fresh = []
            return [([kept.command for kept in fresh], [], [kept.token for kept in fresh])]
        commands: list[Outcome] = []
        payloads: list[Buffer] = []
        tokens: list[Token] = []
        for kept in fresh:
            if len(commands) >= COMMANDS_A_FRAME_MAX or (
                payloads and len(payloads) + len(kept.payloads) > PAYLOADS_A_FRAME_MAX
            ):
                batches.append((commands, payloads, tokens))
                commands, payloads, tokens = [], [], []
            commands.append(kept.command)
            payloads += kept.payloads
            tokens.append(kept.token)
        self.fresh = []
        batches.append((commands, payloads, tokens))
        return batches

    def sent(self, number: int, tokens: list[Token]) -> None:
        """Note that the frame *number* carries what became of *tokens*."""
        self._in_flight.append((number, tokens))

    def inventory(self) -> list[Kept]:
        """Return what HELLO lists."""
        return [
            Kept(kept.client, kept.task, kept.token, kept.is_retriable)
            for kept in self.kept.values()
        ]

    def check(self) -> None:
        """Assert that the octets are those of what is kept, and that only what is kept is said."""
        assert self.octets == sum(kept.size for kept in self.kept.values())
        assert all(self.kept.get(fresh.token) is fresh for fresh in self.fresh)
        numbers = [number for number, _ in self._in_flight]
        assert numbers == sorted(numbers)


def fitting(
    welcome: Welcome | None,
    assignment: Assignment,
    status: Status,
    body: Buffer,
    frames: Payloads,
) -> tuple[Status, Buffer, Payloads]:
    """Return an outcome as the broker takes it, who said in *welcome* how large it may be."""
    octets = len(body) + sum(map(size_of, frames))
    if welcome is None or octets <= welcome.payload_bytes_max:
        return status, body, frames
    limit = welcome.payload_bytes_max
    return Status.FAILURE, failure_too_large(assignment, status, body, octets, limit), ()


def failure_too_large(
    assignment: Assignment, status: Status, body: Buffer, octets: int, limit: int
) -> bytes:
    """Make the body of the outcome of a run whose own one the broker would not take."""
    if status is Status.FAILURE and (failure := read_failure(body)) is not None:
        # What went wrong is worth more than that it is large: as text, without the exception.
        short = encode_failure(shortened(failure))
        if len(short) <= limit:
            return short
    return encode_failure(
        Failure(
            Code.PAYLOAD_TOO_LARGE,
            "PayloadTooLarge",
            f"the result of {assignment.recipe.call.name!r} takes {octets} octets, the broker"
            f" allows {limit} (--payload-bytes-max); return a path or a key instead",
        )
    )


def failure_timeout(assignment: Assignment, refreshed_s: float | None) -> bytes:
    """Make the body of the outcome of a run that has had its time, or what it got at last."""
    call = assignment.recipe.call
    message = f"task {call.name!r} ran for longer than its timeout of {call.timeout_s} s"
    if refreshed_s is not None:
        message = (
            f"task {call.name!r} ran for longer than the {refreshed_s} s that it got at last by"
            " refresh_timeout"
        )
    retriable = is_timeout_retriable(call)
    return encode_failure(Failure(Code.TASK_TIMEOUT, "TaskTimeout", message, retriable=retriable))


def failure_late(assignment: Assignment, message: str, hangs: str) -> bytes:
    """Make the body of the outcome of a run that could not enter its environment again in time.

    *hangs* is where it is.
    """
    retriable = is_retriable(EnvironmentFailed(message), assignment.recipe.call)
    failure = Failure(Code.ENVIRONMENT_FAILED, "TimeoutError", message, hangs, retriable=retriable)
    return encode_failure(failure)
