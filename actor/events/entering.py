"""Environments that are being entered, and what is to be left: what is said of both.

Until its environment is entered a run has not started: when that fails it is handed back with the
reason, and burns no try. The rule that must not be broken: whoever enters is in `until` until it is
known what became of it.
"""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from actor.granting.grant import compute_credit
from actor.holding.mailbox import Assignment
from actor.holding.outcomes import failure_late
from actor.holding.residents import Replica, Warmth
from wire.codec import encode_failure
from wire.errors import Code
from wire.exceptions import shortened
from wire.messages import Credit, Entered, Leave
from wire.parts import Environment, Failure, Held, Status, Token

if TYPE_CHECKING:
    from actor.core import ActorCore, Outgoing

# A failure of `enter` stands in the control frame, of which no broker takes one that is too large.
REJECT_FAILURE_BYTES_MAX: Final = 2**18
REASON_LENGTH_MAX: Final = 1_024


def nowhere(_: Token) -> str:
    """Say nothing of where a run is."""
    return ""


class Entering:
    """Who enters, until when; what was entered and is to be told; what is to be left."""

    __slots__ = ("again", "evictions", "said_next", "until", "where")

    def __init__(self) -> None:
        """Begin with nothing to do."""
        self.until: dict[Token, float] = {}
        # Those of them that began before, and come back to what had to leave.
        self.again: set[Token] = set()
        # Environments that the loop has left, each by its `exit`.
        self.evictions: list[str] = []
        self.said_next: list[Entered] = []
        # How to find out where a run is that enters, as a traceback tells it.
        self.where: Callable[[Token], str] = nowhere

    @property
    def deadline(self) -> float:
        """Return when the next has had its time."""
        return min(self.until.values(), default=inf)

    def take(self) -> list[Entered]:
        """Return what is to be said now."""
        said, self.said_next = self.said_next, []
        return said

    def take_evictions(self) -> list[str]:
        """Return which environments are to be left now."""
        evictions, self.evictions = self.evictions, []
        return evictions

    def begin(self, assignment: Assignment, now: float, *, again: bool = False) -> None:
        """Note until when the environment of *assignment* must be entered."""
        self.until[assignment.token] = latest(assignment, now)
        if again:
            self.again.add(assignment.token)

    def hold(self, assignment: Assignment, now: float) -> None:
        """Let it wait for what leaves before it, for as long as that may take."""
        if assignment.token in self.until:
            self.until[assignment.token] = inf

    def go_on(self, assignment: Assignment, now: float) -> None:
        """Count its time from now, as nothing is to leave before it any more."""
        if assignment.token in self.until:
            self.until[assignment.token] = latest(assignment, now)

    def end(self, token: Token) -> bool:
        """Note that a run enters no more; tell whether it did, and so begins only now."""
        is_first = self.until.pop(token, None) is not None and token not in self.again
        self.again.discard(token)
        return is_first

    def say(self, replica: Replica, *, again: bool) -> None:
        """Have the broker told that a replica is warm."""
        self.said_next.append(Entered(replica.known, replica.load_s, again))

    def check(self, held: dict[Token, Assignment]) -> None:
        """Assert that whoever enters is here."""
        assert self.again <= self.until.keys() <= held.keys()
        assert all(held[token].held is not Held.WAITING for token in self.until)


def latest(assignment: Assignment, now: float) -> float:
    """Return until when the environment of *assignment* must be entered, if that begins now."""
    environment = assignment.recipe.call.environment
    assert environment is not None
    timeout_s = environment.reuse.enter_timeout_s
    return inf if timeout_s is None else now + timeout_s


def entered(
    core: "ActorCore", token: Token | None, environment: Environment, load_s: float
) -> None:
    """Note that an environment is warm; the run that entered it, if one did, starts now."""
    entering, residents = core.entering, core.mailbox.residents
    assignment = core.mailbox.held.get(token) if token is not None else None
    if assignment is not None and entering.end(assignment.token):
        core.stopping.started(assignment, core.now)
    if residents.change(environment.id, Warmth.WARM):
        core.relabel()
        core.is_stale = True
        replica = residents.by_id.get(environment.id)
        if replica is None:
            return  # A named actor, of which RESIDES speaks.
        replica.load_s = load_s
        entering.say(replica, again=False)


def failed(core: "ActorCore", token: Token, failure: Failure) -> None:
    """Hand back a run whose environment could not be entered here; an unknown one is ignored.

    Both are said at once: a broker that heard first that the environment is gone, and only then
    why, would have it entered elsewhere without waiting.
    """
    assignment = core.mailbox.held.get(token)
    if assignment is None or assignment.held is Held.WAITING:
        return
    environment = assignment.recipe.call.environment
    assert environment is not None
    lost(core, environment.id)
    core.leave(assignment)
    if assignment.is_stopped:
        core.outcomes.settled.append(token)
        core.mailbox.residents.named.canceled(environment)
    else:
        recipe = assignment.recipe
        if len(encode_failure(failure)) > REJECT_FAILURE_BYTES_MAX:
            failure = shortened(failure)
        reason = failure.message[:REASON_LENGTH_MAX]
        core.returns.reject(token, reason, recipe, bars=False, failure=failure)
        core.returns.failed.append(token)


def lost(core: "ActorCore", identity: str) -> None:
    """Note that an environment could not be entered, or takes nobody more as its `reset` failed."""
    residents = core.mailbox.residents
    if residents.spoil(identity) or residents.change(identity, Warmth.COLD):
        if residents.worn:
            give_up_worn(core)
        core.relabel()
        core.is_stale = True


def expire(core: "ActorCore") -> None:
    """Hand back the runs whose environment takes too long, and end what still enters it.

    A run that came back to it had begun: it has had its time.
    """
    late = [token for token, until in core.entering.until.items() if core.now >= until]
    for token in late:
        is_first = core.entering.end(token)
        assignment = core.mailbox.held[token]
        environment = assignment.recipe.call.environment
        assert environment is not None
        message = (
            f"environment {environment.name} could not be entered{'' if is_first else ' again'}"
            f" within its enter_timeout of {environment.reuse.enter_timeout_s:g} s"
        )
        hangs = core.entering.where(token)
        # Nobody hears of a run that was canceled; but its slot is held for as long as it enters.
        if not assignment.is_stopped and is_first:
            failure = Failure(Code.ENVIRONMENT_FAILED, "TimeoutError", message, hangs)
            # Where it is entered after all nobody may find it: it is another's by then.
            core.mailbox.residents.named.order(Leave(environment.id, token, message))
            core.returns.reject(token, message, assignment.recipe, bars=False, failure=failure)
        elif not assignment.is_stopped:
            timeout_s = environment.reuse.enter_timeout_s or 0.0
            body = failure_late(assignment, message, hangs)
            core.outcomes.keep(assignment, Status.EXPIRED, body, (), timeout_s)
            core.note("timed_out", task=assignment.name, token=token, after_s=timeout_s)
        core.stopping.order(assignment, core.now, force=True, reason=message)
        core.reconsider()


def held_up(core: "ActorCore", name: str, is_held: bool, now: float) -> None:  # noqa: FBT001
    """Note that the `exit` of an environment holds up the event loop, or has let go of it."""
    core.now = now
    if is_held:
        core.note("event_loop_held_up", environment=name)
        core.stopping.hold_up(now)
    elif not core.stopping.let_go():
        return
    core.reconsider()


def evict(core: "ActorCore", identity: str) -> None:
    """Give up an environment that nobody is inside or waits for; any other stays."""
    mailbox = core.mailbox
    if mailbox.residents.evict(identity, mailbox.awaited()):
        core.entering.evictions.append(identity)
        core.relabel()
        core.is_stale = True


def is_weighed(core: "ActorCore") -> bool:
    """Tell whether somebody wants to know how much memory the process takes."""
    by_id = core.mailbox.residents.by_id
    return bool(by_id) and (
        core.settings.environments_memory_mb is not None
        or any(r.environment.reuse.max_memory_mb is not None for r in by_id.values())
    )


def weigh(core: "ActorCore", used_mb: float) -> None:
    """Give up an idle environment, or the process, where that takes too much memory."""
    residents = core.mailbox.residents
    for replica in residents.by_id.values():
        most_mb = replica.environment.reuse.max_memory_mb
        if most_mb is not None and used_mb > most_mb and replica.warmth is Warmth.WARM:
            # What has leaked does not come back by `exit`.
            name = replica.environment.name
            reason = f"{used_mb:.0f} MiB used, environment {name} has max_memory_mb={most_mb:g}"
            retire(core, reason)
            return
    budget_mb = core.settings.environments_memory_mb
    if budget_mb is not None and used_mb > budget_mb and len(residents.by_id) > 1:
        oldest = residents.idle()
        if oldest is not None:
            evict(core, oldest.environment.id)


def retire(core: "ActorCore", reason: str) -> None:
    """Leave as by a drain, to be followed by a new process."""
    if not core.is_draining:
        core.is_retiring = True
        core.note("retiring", reason=reason)
        core.drain(core.now)


def greet(core: "ActorCore") -> None:
    """Tell a session that has begun of each environment that is warm."""
    # What was entered while there was no session counts as a load all the same.
    untold = {said.environment.id for said in core.entering.take() if not said.again}
    core.mailbox.residents.named.begin_session()
    for replica in core.mailbox.residents.by_id.values():
        if replica.warmth is Warmth.WARM and not replica.is_for_one:
            core.entering.say(replica, again=replica.environment.id not in untold)


def give_up_worn(core: "ActorCore") -> None:
    """Have left what was given up after its last task."""
    worn = core.mailbox.residents.worn
    core.entering.evictions += worn
    worn.clear()
    core.relabel()
    core.is_stale = True


def credit_of(core: "ActorCore", *, may_grant: bool) -> Credit:
    """Compute what is granted: nothing before the broker knows which named actors are here.

    It would have one entered where an older generation of it is, and its calls would run in that.
    """
    is_known = not core.mailbox.residents.named.has_untold
    return compute_credit(core.mailbox, core.prefetch.ahead, may_grant=may_grant and is_known)


def tell_residents(core: "ActorCore", now: float, *, may_grant: bool) -> "list[Outgoing]":
    """Tell a session that has begun which named actors are here, and then what is granted."""
    told = core.mailbox.residents.named.tell(core.session, now)
    credit = core.said.news(core.mailbox, core.prefetch.ahead, may_grant=may_grant)
    if credit is not None:
        told.append((core.session.frame([credit], now), ()))
    return told
