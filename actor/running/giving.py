"""What a run gives back of its slots and asks for, each until the other side knows of it."""

from concurrent.futures import Future

from actor.holding.occupying import Typed
from actor.holding.reacquiring import Answer, Reply
from sdk.errors import Deadlock, SlotReleased, TaskCanceled


class Ask:
    """One wait for slots: who asked handles the answer, others wait until that is done."""

    __slots__ = ("answer", "done", "is_abandoned", "is_after_wait", "is_unwanted", "slots")

    def __init__(self, slots: dict[str, int], *, is_after_wait: bool) -> None:
        """Wait to hold *slots* in all."""
        self.slots = slots
        # Whether a wait that is over wants them; whether they were released for good meanwhile.
        self.is_after_wait = is_after_wait
        self.is_unwanted = False
        self.answer: Future[Answer] = Future()
        self.done: Future[None] = Future()
        self.is_abandoned = False


class Give:
    """What was given back at once: until the leader knows of it, it may grant the same again."""

    __slots__ = ("_unsaid", "held_s", "is_known", "is_said", "keeps_limits", "typed")

    def __init__(
        self, typed: Typed, held_s: float | None = None, *, keeps_limits: bool = False
    ) -> None:
        """Give back all, or what *typed* names; *held_s* says for how long for good."""
        self.typed = typed
        self.held_s = held_s
        self.keeps_limits = keeps_limits
        # Whether it is on its way to the leader, in line; whether the leader has acted on it.
        self.is_said = False
        self.is_known = False
        self._unsaid: Future[None] | None = None

    def said(self) -> None:
        """Note that whatever is posted from now on the leader sees after it."""
        self.is_said = True
        if self._unsaid is not None:
            self._unsaid.set_result(None)

    def unsaid(self) -> Future[None] | None:
        """Return what to wait for until it is said; None when it is. One thread at a time asks."""
        # In this order: `said` looks for it after it has said so.
        self._unsaid = self._unsaid or Future()
        return None if self.is_said else self._unsaid


def refusal(name: str, reply: Reply) -> Exception:
    """Return what a user is told whose wait for slots ended without them."""
    match reply:
        case Reply.TIMEOUT:
            return TimeoutError(f"task {name!r} did not get its slot again in time; it goes on")
        case Reply.CANCELED:
            return TaskCanceled(f"task {name!r} was canceled while it waited for its slot")
        case Reply.DEADLOCK:
            return Deadlock(
                f"task {name!r} waits for its slot in a circle: whoever has it waits for what this"
                " task has, which is the younger; it goes on without its slot"
            )
        case _:
            return SlotReleased(f"task {name!r} has ended: it gets no slot any more")
