"""What the client says beside its calls: questions, cancels, what went wrong with a call before.

Each is said again in each session until the broker has heard it. A cancel that the next HELLO says
anyway, by not listing the call, is not said again; a forced one is more than that.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from sdk.calls.call import Owned, join_cancels
from sdk.calls.waiting import Waiting
from wire.messages import ARGUMENT_LENGTH_MAX, Cancel, Query, Requeued, Tried
from wire.texts import brief, cut

HISTORY_MAX: Final = 10
# A question about a task that nobody has: nothing else that a client says is answered at once, and
# the answer says what was received until then.
PROBE: Final = ("explain", "0")


def asked(what: str, argument: str) -> str:
    """Return what a question or an order was, for people, with a colon: of JSON only the name.

    Empty for limits, dead tasks and environments to retry, which nobody calls as the protocol does:
    the answer names them.
    """
    if what.startswith(("limit-", "dead", "environment-")):
        return ""
    if argument.startswith("{"):
        said: dict[str, Any] = msgspec.json.decode(argument)
        argument = str(said.get("name") or said.get("actor") or "")
    return f"{what} {cut(argument)}".strip() + ": "


def check_question(what: Any, argument: Any) -> None:
    """Raise TypeError or ValueError for what the broker would refuse, with the session."""
    for text in (what, argument):
        if not isinstance(text, str):
            raise TypeError(f"the broker is asked in texts, not by {brief(text)}")
    if len(argument) > ARGUMENT_LENGTH_MAX:
        raise ValueError(
            f"{what}: its argument has at most {ARGUMENT_LENGTH_MAX:,} characters, not"
            f" {len(argument):,}: ask several times"
        )


def split_questions(commands: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return what is said ahead of the calls of a frame, and behind: questions about such a call.

    A cancel goes ahead: it makes room in the window.
    """
    first: list[Any] = []
    last: list[Any] = []
    for command in commands:
        is_question = type(command) is Query and not command.what.startswith("cancel")
        (last if is_question else first).append(command)
    return first, last


class Questions:
    """What was asked and not answered."""

    __slots__ = ("_last", "_lasting", "open")

    def __init__(self) -> None:
        """Begin with nothing asked."""
        self.open: dict[int, Query] = {}
        # Orders that nobody waits for, and that are to hold at the next broker as well.
        self._lasting: set[int] = set()
        self._last = 0

    def ask(self, what: str, argument: str) -> Query:
        """Make a question with a number of its own."""
        self._last += 1
        query = self.open[self._last] = Query(self._last, what, argument)
        return query

    def last(self, request: int) -> None:
        """Say an order again in each session until it is on disk."""
        self._lasting.add(request)

    def answered(self, request: int, body: bytes = b"") -> bool:
        """Ask no more, and tell whether somebody still wanted to know."""
        if request in self._lasting:
            if body and msgspec.msgpack.decode(body).get("unwritten"):
                return False
            self._lasting.discard(request)
        return self.open.pop(request, None) is not None

    def clear(self) -> None:
        """Forget all."""
        self.open.clear()
        self._lasting.clear()


class Cancels:
    """Calls that were given up and that the broker may still have."""

    __slots__ = ("_sent", "open")

    def __init__(self) -> None:
        """Begin with none."""
        # Task -> whether its process may be ended for it.
        self.open: dict[int, bool] = {}
        self._sent: deque[tuple[int, list[int]]] = deque()

    def begin_session(self) -> list[int]:
        """Forget those that HELLO says by not listing them, and return those that it lists."""
        self.open = {task: force for task, force in self.open.items() if force}
        self._sent.clear()
        return list(self.open)

    def again(self) -> Iterable[Cancel]:
        """Return what is to be said once a session is open."""
        return (Cancel([task], force) for task, force in self.open.items())

    def sending(self, commands: list[Any], frame: int) -> list[Any]:
        """Join the cancels among *commands*, which leave in *frame*."""
        if not any(type(command) is Cancel for command in commands):
            return commands
        joined, canceled = join_cancels(commands)
        self._sent.append((frame, canceled))
        return joined

    def confirm(self, received: int) -> None:
        """Forget what the broker has heard in our frames up to *received*."""
        while self._sent and self._sent[0][0] <= received:
            for task in self._sent.popleft()[1]:
                self.open.pop(task, None)

    def clear(self) -> None:
        """Forget all."""
        self.open.clear()
        self._sent.clear()


class Trials:
    """What went wrong with calls that have no outcome yet, as the broker told."""

    __slots__ = ("_history", "told")

    def __init__(self) -> None:
        """Begin with nothing that went wrong."""
        # Call -> what was told last, and when.
        self.told: dict[int, tuple[Requeued, float]] = {}
        self._history: dict[int, list[str]] = {}

    def note(self, owned: Owned, told: Requeued, waiting: Waiting, now: float) -> None:
        """Remember what is to be said when the call is sent again, whose wait begins anew."""
        if told.tries > owned.tries:
            waiting.again(told.task, now + told.wait_s)
        # A try that was none is given back.
        owned.tries = told.tries
        known = self.told.get(told.task)
        history = self._history.setdefault(told.task, [])
        more = told.tries + told.shared - (known[0].tries + known[0].shared if known else 0)
        if history and (more < 0 or (more == 0 and told.reason != history[-1])):
            history.pop()
        if told.reason and (more > 0 or told.reason not in history):
            history.append(told.reason)
            del history[:-HISTORY_MAX]
        self.told[told.task] = (told, now)

    def say(self, task: int, now: float) -> Tried:
        """Make what is said before the SUBMIT of a call that was tried before."""
        told, at = self.told[task]
        return Tried(
            task,
            told.failures,
            told.crashes,
            told.losses,
            max(0.0, told.wait_s - (now - at)),
            told.failed,
            self._history[task],
            told.shared,
        )

    def forget(self, task: int) -> None:
        """Let go of a call that has its outcome, or that nobody wants."""
        self.told.pop(task, None)
        self._history.pop(task, None)

    def clear(self) -> None:
        """Let go of all."""
        self.told.clear()
        self._history.clear()
