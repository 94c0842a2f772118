"""Calls and what they share: plans, their code, and what the broker of this session has of both.

Plain data for the core. A plan is made once for a function with its options; calls refer to it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from wire.codec import INLINE_BYTES_MAX, TEMPLATE_BYTES_MAX, encode
from wire.messages import Cancel, Function, Template, Welcome
from wire.parts import Call, Span, Token
from wire.payload import Buffer
from wire.tables import SenderTable

Payloads = Sequence[Buffer]


class Settings(Struct, frozen=True, kw_only=True):
    """What a client can be told."""

    name: str = "client"
    python: str = ""


class Code(Struct, frozen=True):
    """The pickle of a function, or of an environment's class with its parameters, and its hash."""

    hash: bytes
    stream: bytes


class Plan:
    """What all calls of one function with the same options share: a template and its code."""

    __slots__ = ("call", "codes", "is_durable", "key", "schedule_timeout_s", "size", "sticky")

    def __init__(self, call: Call, codes: Iterable[Code] = ()) -> None:
        """Name the plan by what it says, so that equal ones share a template.

        Raises ValueError for more than a template may say.
        """
        self.call = call
        self.codes = tuple(codes)
        self.schedule_timeout_s = call.schedule_timeout_s
        self.sticky = call.sticky.key if call.sticky is not None else ""
        try:
            self.key: bytes = encode(call)
        except (OverflowError, UnicodeEncodeError) as error:
            raise ValueError(f"what is said of {call.name!r} cannot be sent: {error}") from None
        if len(self.key) > TEMPLATE_BYTES_MAX:
            raise ValueError(
                f"what is said of {call.name!r} beside its arguments (labels, metadata, limits)"
                f" takes {len(self.key):,} octets, over {TEMPLATE_BYTES_MAX:,}"
            )
        self.is_durable = call.durable
        self.size = len(self.key) + sum(len(code.stream) for code in self.codes)


class Owned(Struct, eq=False):
    """A call that has no outcome yet. Its *frames* must not change until that is there."""

    number: int
    plan: Plan
    body: bytes
    frames: Payloads
    parent: Token | None
    size: int
    tries: int = 0
    # The epoch it was first sent to; in which (session, frame) first and last; 0 is never.
    epoch: int = 0
    first_sent: tuple[int, int] = (0, 0)
    sent: tuple[int, int] = (0, 0)
    # The broker of this session has it.
    is_there: bool = False

    __repr__ = object.__repr__

    def is_heard(self, session: int, confirmed: int) -> bool:
        """Tell whether the broker has received it, which has *confirmed* frames of *session*."""
        return self.is_there and (self.sent[0] != session or self.sent[1] <= confirmed)


def check_calls(calls: dict[int, Owned], queue: Iterable[Owned], queued_bytes: int) -> int:
    """Assert that what waits to be sent is counted right, and return how many calls that are."""
    waiting = [owned for owned in queue if owned.number in calls]
    assert not any(owned.is_there for owned in waiting)
    assert sum(owned.size for owned in waiting) == queued_bytes
    assert len({owned.number for owned in waiting}) == len(waiting)
    assert list(calls) == sorted(calls)
    return len(waiting)


class Introduced:
    """What the broker of this session was told: which code and which templates."""

    __slots__ = ("_functions", "_last", "_slot", "_templates")

    def __init__(self, welcome: Welcome | None = None) -> None:
        """Begin empty, as every session does."""
        self._functions: SenderTable[bytes] = SenderTable(welcome.functions_max if welcome else 1)
        self._templates: SenderTable[bytes] = SenderTable(welcome.templates_max if welcome else 1)
        # What was found last, in both tables the most recently used.
        self._last: Plan | None = None
        self._slot: int | None = None

    def find(self, plan: Plan) -> int | None:
        """Return the template's slot, or None unless the broker has it and all of its code."""
        if plan is self._last:
            return self._slot
        find = self._functions.find
        for code in plan.codes:
            if find(code.hash) is None:
                return None
        slot = self._templates.find(plan.key)
        if slot is not None:
            self._last, self._slot = plan, slot
        return slot

    def add(self, plan: Plan, commands: list[Any], payloads: list[Buffer]) -> int:
        """Send code and template ahead of the call; return the template's slot."""
        self._last = None
        for code in plan.codes:
            if self._functions.find(code.hash) is None:
                slot = self._functions.add(code.hash)
                if len(code.stream) > INLINE_BYTES_MAX:
                    commands.append(Function(slot, code.hash, b"", 1))
                    payloads.append(code.stream)
                else:
                    commands.append(Function(slot, code.hash, code.stream))
        template = self._templates.find(plan.key)
        if template is None:
            template = self._templates.add(plan.key)
        commands.append(Template(template, plan.call))
        return template


def join_cancels(commands: Iterable[Any]) -> tuple[list[Any], list[int]]:
    """Say the cancels among *commands* in two at most, first; return also whom they cancel."""
    chosen: dict[bool, list[int]] = {False: [], True: []}
    others = []
    for command in commands:
        if type(command) is Cancel:
            chosen[command.force] += command.tasks
        else:
            others.append(command)
    joined: list[Any] = [Cancel(tasks, force) for force, tasks in chosen.items() if tasks]
    return joined + others, chosen[False] + chosen[True]


def spans_of(numbers: Iterable[int]) -> list[Span]:
    """Join ascending numbers to runs."""
    return list(_runs(numbers))


def _runs(numbers: Iterable[int]) -> Iterator[Span]:
    first = last = None
    for number in numbers:
        if first is None or last is None:
            first = last = number
        elif number == last + 1:
            last = number
        else:
            yield (first, last)
            first = last = number
    if first is not None and last is not None:
        yield (first, last)
