"""Clients and actors: their real cores with what stands around them in a process."""

from math import inf
from typing import Any, NamedTuple

from actor.core import ActorCore
from actor.events import fencing
from actor.events.starting import start_next
from actor.holding.mailbox import Assignment
from actor.holding.occupying import AT_SCHEDULING
from actor.holding.reacquiring import Reply
from actor.settings import Settings as ActorSettings
from sdk.calls.call import Code, Plan
from sdk.calls.call import Settings as ClientSettings
from sdk.core import ClientCore
from tests.model.processes import (
    LIMIT,
    MEMORY,
    OTHER_LIMIT,
    SLICE_S,
    Messages,
    Process,
    long_ago,
)
from tests.model.scenarios import RETRIES
from wire.codec import check_payloads, decode_broker, decode_peer, encode_failure
from wire.errors import Code as ErrorCode
from wire.labels import Comparator, Desire
from wire.parts import Backoff, Call, Environment, Failure, Held, Named, Reuse, Status
from wire.session import HELLO_REPEAT_FIRST_S, PeerSession, State

# Below every timeout, so that a HELLO is late and not lost.
HELLO_LATER_S = 0.5
CODE = Code(b"f" * 16, b"code")
LARGE = Desire("memory", Comparator.GREATER_THAN, 256)
LIKED = Desire("memory", Comparator.GREATER_THAN, 256, False, 10.0)
AT_ONCE, LATER = Backoff(0.0, 1.0, 0.0, 0.0), Backoff(SLICE_S / 2, 1.0, SLICE_S / 2, 0.0)
ASKED = (LIMIT.name, OTHER_LIMIT.name)
BLOB = Code(b"e" * 16, b"environment")


def _asked(task: int, ask: int) -> str:
    return ASKED[(task + ask) % len(ASKED)]


def counter(method: str, retries: int) -> Plan:
    """Return a call of the named actor; without method it enters it."""
    named = Named("default", "n", "Counter", 0, -1, retries)
    environment = Environment("named", "Counter", BLOB.hash, named=named)
    return Plan(Call(method or "enter", method=method, environment=environment), [BLOB])


def warm(wait_s: float) -> Plan:
    """Return a call in an environment of one turn, which two actors may have."""
    environment = Environment("warm", "Warm", BLOB.hash, reuse=Reuse(0, 2))
    call = Call("run", method="run", environment=environment, affinity_wait_s=wait_s)
    return Plan(call, [BLOB])


# Of which there may be one copy.
BOX = Environment("box", "Box", BLOB.hash, reuse=Reuse(replicas_max=1))
PLANS = {
    "warm": warm(0.75),
    "kept": warm(3_600.0),
    "boxed": Plan(Call("boxed", method="work", environment=BOX), [BLOB]),
    "enter": counter("", -1),
    "count": counter("incr", -1),
    "enter-once": counter("", 0),
    "count-once": counter("incr", 0),
    "plain": Plan(Call("plain", CODE.hash), [CODE]),
    "once": Plan(Call("once", CODE.hash, at_most_once=True), [CODE]),
    "limited": Plan(Call("limited", CODE.hash, limits={LIMIT.name: 1}), [CODE]),
    "large": Plan(Call("large", CODE.hash, desires=[LARGE]), [CODE]),
    "retried": Plan(Call("retried", CODE.hash, retries=RETRIES, backoff=AT_ONCE), [CODE]),
    "delayed": Plan(Call("delayed", CODE.hash, retries=RETRIES, backoff=LATER), [CODE]),
    "fond": Plan(Call("fond", CODE.hash, desires=[LIKED], affinity_wait_s=0.75), [CODE]),
}


class PeerFacts(NamedTuple):
    state: State
    number: int
    sent: int
    # (token, is released, is told to stop), of an actor.
    runs: tuple[tuple[Any, bool, bool], ...] = ()
    # Why it is not at rest, or nothing.
    unrest: str = ""
    is_over: bool = False
    memory: int = 0
    # Of an actor: how many wait in its mailbox, and how many it lets wait there now.
    waiting: int = 0
    ahead: int = 0
    board: tuple[Any, ...] = ()
    # The runs that have a limit, and which; those that wait for one, or may ask for one.
    limited: tuple[Any, ...] = ()
    asking: tuple[Any, ...] = ()
    may_ask: tuple[Any, ...] = ()
    # The calls of the named actor that run here.
    inside: tuple[Any, ...] = ()
    # Those that are entering their environment.
    loading: tuple[Any, ...] = ()
    is_paused: bool = False
    is_draining: bool = False
    has_copy: bool = False
    # Of an actor: what its runs have of limits, whatever its core and the broker know; who has it
    # since it was scheduled; when it was sure to be heard, where it may hold a strict one; whom its
    # process ends for, if it does by its own will.
    occupied: tuple[str, ...] = ()
    scheduled: tuple[Any, ...] = ()
    renewed_at: float | None = None
    doomed: tuple[Any, ...] | None = None
    # Of a host: since when the broker has heard of each of its actors.
    vouches: tuple[tuple[int, float], ...] = ()


class PeerProcess(Process):
    """A process with a session."""

    def hear(self, messages: Messages, number: int) -> None:
        control, payloads = messages[number]
        frame = decode_broker(control)
        check_payloads(frame, payloads)
        self.core.receive(frame, payloads, 0.0)

    def hello(self, messages: Messages) -> None:
        """Let it be time to say HELLO."""
        self.core.session.hello_at = 0.0

    def beat(self, messages: Messages) -> None:
        """Let it be time for a heartbeat."""
        session = self.core.session
        session.said_at = -session.heartbeat_s

    def shift(self, seconds: float) -> None:
        session = self.core.session
        session.heard_at -= seconds
        session.said_at -= seconds
        session.ticked_at -= seconds

    def settle(self) -> None:
        """Forget when exactly a HELLO is due: the world says it."""
        session: PeerSession = self.core.session
        session._jitter = 1
        session._repeat_s = HELLO_REPEAT_FIRST_S
        is_due = session.state in (State.CLOSED, State.OPENING)
        session.hello_at = HELLO_LATER_S if is_due else 0.0


class ClientProcess(PeerProcess):
    """A program that submits."""

    @classmethod
    def start(cls, name: str, incarnation: int) -> "ClientProcess":
        return cls(ClientCore(ClientSettings(name=name), incarnation=incarnation, now=0.0))

    unpack = classmethod(lambda cls, core: cls(core))

    def shift(self, seconds: float) -> None:
        super().shift(seconds)
        told = self.core._trials.told
        for task, (what, at) in told.items():
            # What is over is over.
            told[task] = what, max(at - seconds, -what.wait_s)

    def facts(self) -> PeerFacts:
        core = self.core
        unrest = f"calls {list(core.calls)}" if core.calls else ""
        session = core.session
        return PeerFacts(session.state, session.number, session.sent, unrest=unrest)

    def submit(self, messages: Messages, kind: str) -> None:
        self.core.submit(PLANS[kind], b"", (), 0.0)

    def cancel(self, messages: Messages, number: int, forces: bool = False) -> None:
        self.core.cancel(number, forces, 0.0)

    def broken(self, messages: Messages, numbers: tuple[int, ...]) -> None:
        unsent = [decode_peer(messages[number][0]) for number in numbers]
        self.core.broken(0.0, unsent)

    def turn(self, now: float) -> None:
        core = self.core
        if now >= core.deadline():
            core.tick(now)
        self.sends += [(None, *sent) for sent in core.flush(now)]
        for number, result, payloads in core.take_outcomes():
            body = bytes(result.body) + b"".join(map(bytes, payloads))
            self.news.append(("outcome", number, result, body))
        core.take_notes()


class ActorProcess(PeerProcess):
    """An actor with the user code in its slots."""

    def __init__(self, state: Any) -> None:
        # The board is what the host reads after a death: what started and is not settled.
        # What the named actor remembers is the calls that it has counted.
        # Those that enter their environment have not started.
        # What the host reads of strict limits.
        core, self.runs, self.board, self.counted, self.loading, self.renewed_at = state
        self.vouched_at = -inf
        super().__init__(core)

    @classmethod
    def start(
        cls, name: str, incarnation: int, slots: int, prefetch: int, host: int
    ) -> "ActorProcess":
        settings = ActorSettings(
            name=name,
            host=host,
            labels={"memory": MEMORY[0]},
            slots={"slot": slots},
            prefetch=prefetch,
        )
        return cls((ActorCore(settings, incarnation=incarnation, now=0.0), {}, (), (), {}, None))

    unpack = classmethod(lambda cls, state: cls(state))

    def pack(self) -> Any:
        return self.core, self.runs, self.board, self.counted, self.loading, self.renewed_at

    def facts(self) -> PeerFacts:
        core, session = self.core, self.core.session
        unrest = [n for n in ("held", "waiting") if getattr(core.mailbox, n)]
        unrest += ["kept"] if core.outcomes.kept else []
        runs = tuple((token, *run[2:4]) for token, run in self.runs.items())
        return PeerFacts(
            session.state,
            session.number,
            session.sent,
            runs,
            " ".join(unrest),
            bool(core.failure or core.exit_reason or core.is_drained),
            core.labels["memory"],
            len(core.mailbox.waiting),
            core.prefetch.ahead,
            self.board,
            tuple((token, name) for token in self.runs for name in self._has_limits(token)),
            tuple(token for token in self.runs if self._is_asking(token)),
            tuple(token for token in self.runs if self._may_ask(token)),
            tuple(token for token in self.runs if self.core.mailbox.held[token].is_named),
            tuple(self.loading),
            core.standing.is_paused,
            core.is_draining,
            BOX.id in core.mailbox.residents.by_id,
            tuple(name for run in self.runs.values() for name in run[5].values()),
            tuple(token for token, run in self.runs.items() if AT_SCHEDULING in run[5]),
            self.renewed_at,
            tuple(core.stopping.unwanted) if core.exit_reason else None,
        )

    def _has_limits(self, token: Any) -> list[str]:
        assignment = self.core.mailbox.held[token]
        held = self.core.occupying.inventory(assignment)
        names = [name for one in held if one.has_it for name in one.limits]
        return [] if assignment.is_stopped else names

    def _is_asking(self, token: Any) -> bool:
        run = self.core.occupying.runs.get(token)
        return run is not None and not all(ask.has_it for ask in run.asks.values())

    def _may_ask(self, token: Any) -> bool:
        _, _, is_released, is_stopped, asked, _ = self.runs[token]
        return asked < len(ASKED) and not (is_released or is_stopped or self._is_asking(token))

    def broken(self, messages: Messages, numbers: tuple[int, ...]) -> None:
        self.core.broken(0.0)

    def enter(self, messages: Messages, token: Any) -> None:
        """Let an environment be loaded, and the run that waited for it start."""
        assignment, is_stopped = self.loading.pop(token)
        self.core.entered(token, assignment.recipe.call.environment, 0.0, 0.0)
        self._run(assignment, is_stopped=is_stopped)

    def finish(self, messages: Messages, token: Any, follows: bool) -> None:
        """Let a run end; the next may follow at once, as after a brief one."""
        client, task, _, is_stopped, *_ = self.runs.pop(token)
        status = Status.CANCELED if is_stopped else Status.RESULT
        body, checkpoint = b"%d-%d by %d.%d" % (client, task, *token), None
        assignment = self.core.mailbox.held[token]
        if assignment.is_named:
            name = b"%d-%d" % (client, task)
            if assignment.recipe.call.method and not is_stopped:
                assert name not in self.counted, "a call is counted twice"
                self.counted = (*self.counted, name)
            checkpoint = b",".join(self.counted)
            body = checkpoint + b" " + body
        self.core.finished(token, status, body, (), 0.0, 0.0, checkpoint)
        if follows:
            for waiting in self.core.mailbox.waiting:
                waiting.recipe.run_s = 0.0
            following = start_next(self.core, SLICE_S)
            if following is not None:
                self._start(following)

    def fail(self, messages: Messages, token: Any, is_final: bool) -> None:
        """Let a run raise what may be tried again, or what may not."""
        client, task, *_ = self.runs.pop(token)
        what = f"{client}-{task} by {token[0]}.{token[1]}"
        failure = Failure(ErrorCode.TASK_FAILED, "", what, retriable=not is_final)
        self.core.finished(token, Status.FAILURE, encode_failure(failure), (), 0.0, 0.0)

    def look(self, messages: Messages) -> None:
        """Let what waits have waited for long."""
        prefetch = self.core.prefetch
        for _ in range(2):
            self._age(SLICE_S)
            prefetch.look_at = 0.0
            self.core.tick(0.0)

    def ask(self, messages: Messages, token: Any) -> None:
        """Ask for one more limit, inside those that were asked for."""
        run = self.runs[token]
        run[4] += 1
        number, name = run[4], _asked(run[1], run[4])
        assignment, within = self.core.mailbox.held[token], list(range(1, number))
        self.core.occupying.ask(assignment, token, number, {name: 1}, within)

    def release(self, messages: Messages, token: Any) -> None:
        assert self.core.release(token, None, 0.0)
        self.runs[token][2] = True
        self.runs[token][5].pop(AT_SCHEDULING, None)

    def reacquire(self, messages: Messages, token: Any) -> None:
        self.core.reacquire(token, {"slot": 1}, 0.0)

    def read(self, vouched_at: float = -inf) -> None:
        self.vouched_at = vouched_at

    def go_on(self, messages: Messages, vouched_at: float) -> None:
        """Look at the clock after a time in which it could not."""
        self.read(vouched_at)

    def pause(self, messages: Messages, paused: bool) -> None:
        self.core.pause(0.0, paused=paused)

    def drain(self, messages: Messages) -> None:
        self.core.drain(0.0)

    def relabel(self, messages: Messages, memory: int) -> None:
        self.core.change_labels({"memory": memory}, 0.0)

    def turn(self, now: float) -> None:
        core = self.core
        core.tick(now)
        if core.exit_reason:
            fencing.vouched(core, self.vouched_at)
        for assignment in core.take_starts():
            self._start(assignment)
        for order in core.take_stops():
            if order.assignment.token in self.runs:
                self.runs[order.assignment.token][3] = True
            elif order.assignment.token in self.loading:
                self.loading[order.assignment.token] = (order.assignment, True)
        for answer in core.take_answers():
            if answer.reply is Reply.GRANTED:
                self.runs[answer.token][2] = False
                assignment = core.mailbox.held[answer.token]
                if assignment.recipe.call.limits:
                    # The slots first, then what it had of limits.
                    limits = assignment.recipe.call.limits
                    core.occupying.ask(assignment, answer.token, AT_SCHEDULING, limits)
        for told in core.occupying.take_answers():
            self.news.append(("occupied", told.code))
            run = self.runs.get((told.epoch, told.number))
            if run is not None and not told.code:
                name = LIMIT.name if told.ask == AT_SCHEDULING else _asked(run[1], told.ask)
                run[5][told.ask] = name
        if core.fence.is_new:
            core.fence.is_new = False
            self.renewed_at = core.fence.renewed_at if core.fence.is_held else None
        self.sends += [(None, *sent) for sent in core.flush(now)]
        core.entering.take_evictions()
        settled = core.take_settled()
        self.board = tuple(token for token in self.board if token not in settled)
        core.take_notes()

    def _start(self, assignment: Assignment) -> None:
        assert not self.core.standing.closed, "a call starts where none may"
        assert not self.core.standing.is_paused, "a call starts in a paused actor"
        if assignment.loads and not assignment.is_named:
            self.news.append(("load", assignment.client, assignment.task))
            self.loading[assignment.token] = (assignment, False)
            return
        self._run(assignment, is_stopped=False)
        environment = assignment.recipe.call.environment
        if environment is not None and assignment.loads:
            restored = self.core.mailbox.residents.named.restored(environment.id)
            self.counted = tuple(bytes(restored).split(b",")) if restored else ()
            self.core.entered(assignment.token, environment, 0.0, 0.0)

    def _run(self, assignment: Assignment, *, is_stopped: bool) -> None:
        self.news.append(("start", assignment.client, assignment.task, assignment.token))
        # What it has of limits, by the ask.
        has = dict.fromkeys([AT_SCHEDULING] if assignment.recipe.call.limits else [], LIMIT.name)
        self.runs[assignment.token] = [
            assignment.client,
            assignment.task,
            False,
            is_stopped,
            0,
            has,
        ]
        self.board = (*self.board, assignment.token)

    def check(self) -> None:
        super().check()
        held = self.core.mailbox.held
        holding = [token for token, run in self.runs.items() if not run[2]]
        slots = self.core.settings.slots["slot"]
        assert len(holding) + len(self.loading) <= slots, "two tasks hold one slot"
        inside = [token for token in self.runs if held[token].is_named]
        assert len(inside) <= 1, "two calls are inside a named actor"
        for token, run in self.runs.items():
            assert held[token].held is (Held.RELEASED if run[2] else Held.RUNNING)

    def shift(self, seconds: float) -> None:
        super().shift(seconds)
        self.core.now -= seconds
        self.core._beat_at -= seconds
        self._age(seconds)
        fence, stopping = self.core.fence, self.core.stopping
        stopping.force_at -= seconds
        if fence.names:
            fence.renewed_at = long_ago(fence.renewed_at, seconds)
            fence.vouched_at = long_ago(fence.vouched_at, seconds)
            if fence._probe[0]:
                fence._probe = (fence._probe[0], long_ago(fence._probe[1], seconds))
            stopping.fence_at -= seconds
            if self.renewed_at is not None:
                self.renewed_at = long_ago(self.renewed_at, seconds)
        stopping._reckon()

    def _age(self, seconds: float) -> None:
        prefetch = self.core.prefetch
        for name in ("_head_at", "_moved_at", "_asked_at"):
            # Longer than this nobody waits.
            setattr(prefetch, name, max(-2 * SLICE_S, getattr(prefetch, name) - seconds))

    def settle(self) -> None:
        super().settle()
        # When it looks next says the world.
        self.core.prefetch.look_at = HELLO_LATER_S
