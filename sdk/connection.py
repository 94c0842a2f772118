"""A client's connection: which future belongs to which call, and what its user is told unasked.

Clients that are made inside tasks share one connection of their process. The rule: a future is
settled by whoever takes it out of `futures`, which is done once.
"""

import atexit
import os
import secrets
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import msgspec

from sdk.calls.asking import PROBE, asked
from sdk.calls.call import Plan, Settings
from sdk.calls.reasons import Reasons
from sdk.calls.refusals import why_silent
from sdk.core import ClientCore
from sdk.errors import (
    BrokerUnreachable,
    ClientClosed,
    NotAuthorized,
    NotDurable,
    ProtocolMismatch,
    SerializationError,
    WarmslotError,
    error_of,
)
from sdk.futures.deferring import Deferrals
from sdk.futures.future import TaskFuture
from sdk.futures.ids import ToldIds
from sdk.log import logger
from sdk.loop import Loop
from sdk.reading.deadlines import deadline_of
from sdk.reading.dealer import Dealer
from sdk.reading.handlers import Handlers
from wire.codec import decode_failure
from wire.endpoint import check_endpoint
from wire.errors import Code
from wire.keys import KEYS_VARIABLE, Folder, own_keys
from wire.logs import Seldom
from wire.messages import Result
from wire.parts import Key, Status, Token
from wire.payload import Dumped, load, told
from wire.reaching import why_not
from wire.release import PYTHON
from wire.texts import brief, check_text, sendable

ENDPOINT_DEFAULT: Final = "tcp://127.0.0.1:5555"
ENDPOINT_VARIABLE: Final = "WARMSLOT_BROKER"
# After so long without an actor, or without a broker, the user hears why.
PATIENCE_S: Final = 3.0
# What `submit` lets wait in this process before it blocks.
PENDING_BYTES_MAX: Final = 256 * 2**20
EXPLAINED_MAX: Final = 1_000
ASKED_A_LOOK_MAX: Final = 100
# How long a client that leaves waits until the journal has its durable calls, with a broker and
# without one.
HAND_OVER_S: Final = 5.0
HAND_OVER_ALONE_S: Final = 1.0
NAME_LENGTH_MAX: Final = 256
# Looked up once, for the path of each task.
RESULT: Final = Status.RESULT


class Connection(Handlers):
    """Futures on one side, the loop on the other."""

    def __init__(self, endpoint: str | None, name: str, keys: Folder | None = None) -> None:
        """Connect; returns at once, whether there is a broker or not.

        What is None is in the environment, if anywhere; with empty *keys* there are none.
        """
        if type(name) is not str:
            raise TypeError(f"name {brief(name)} is not a text")
        if len(name) > NAME_LENGTH_MAX:
            raise ValueError(f"name: {len(name)} characters are more than {NAME_LENGTH_MAX}")
        self.endpoint = check_endpoint(
            endpoint or os.environ.get(ENDPOINT_VARIABLE) or ENDPOINT_DEFAULT
        )
        own = own_keys(os.environ.get(KEYS_VARIABLE) if keys is None else keys, self.endpoint)
        self.futures: dict[int, TaskFuture] = {}
        self.told = ToldIds()
        self.failures = 0
        # Whether it is for calls made inside tasks, whose slots are given back while they wait.
        self.is_nested = False
        # Of all futures: each has it only for the shortest time.
        self.condition_lock = threading.RLock()
        self.condition = threading.Condition(self.condition_lock)
        now = monotonic()
        self.deferrals = Deferrals(self._failed_early)
        self._lock = threading.Lock()
        self._queries: dict[int, Callable[[bytes], None]] = {}
        self._reasons = Reasons()
        self._asked: dict[bytes, float] = {}
        self._open_at = now
        self._has_said_unreachable, self._obstacle_said = False, ""
        self._seldom = Seldom()
        self.core = ClientCore(
            Settings(name=sendable(name), python=PYTHON), incarnation=secrets.randbits(63), now=now
        )
        self._prefix = f"{self.core.incarnation:016x}"
        self.loop = Loop(Dealer(self.endpoint, own), self.core, self)
        CONNECTIONS.add(self)

    def id_of(self, number: int) -> str:
        """Return the id of a task."""
        return f"{self._prefix}-{number}"

    def wait_open(self, timeout: float) -> None:
        """Wait for the first session; raise BrokerUnreachable or NotAuthorized without one."""
        told = f"connect_timeout {brief(timeout)} is not a number of seconds"
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise TypeError(told)
        if not timeout >= 0.0:
            raise ValueError(f"{told} from 0 on")
        core, session, dealer = self.core, self.core.session, self.loop.dealer
        self.loop.wait(lambda: session.is_open or core.has_left or dealer.is_refused, timeout)
        if not session.is_open:
            if why := why_silent(session.error, dealer, self.endpoint):
                raise BrokerUnreachable(f"{self.endpoint}: {why}")
            raise BrokerUnreachable(
                f"no broker answered at {self.endpoint} within {timeout} s; start one with "
                f"`python -m broker --bind {self.endpoint}`, or set {ENDPOINT_VARIABLE}"
            )

    # --- calls

    def submit(
        self,
        plan: Plan,
        dumped: Dumped,
        parent: Token | None,
        future: TaskFuture,
        key: Key | None = None,
    ) -> TaskFuture:
        """Own a call; blocks while too much waits here for the broker."""
        core, loop = self.core, self.loop
        if core.queued_bytes > PENDING_BYTES_MAX:
            loop.wait(lambda: core.queued_bytes <= PENDING_BYTES_MAX, None)
        now = monotonic()
        with loop.lock:
            if loop.refusal:
                loop.check_usable()
            number = core.submit(plan, dumped.body, dumped.frames, now, parent, key)
            future.number, future.since = number, now
            self.futures[number] = future
            loop.offer(len(core.queue), now)
        if loop.has_unsettled:
            loop.settle()
        return future

    def submit_many(
        self,
        calls: Sequence[tuple[Plan, Dumped, TaskFuture]],
        parent: Token | None,
    ) -> None:
        """Own many calls and send them in as few messages as there can be."""
        core, loop = self.core, self.loop
        if core.queued_bytes > PENDING_BYTES_MAX:
            loop.wait(lambda: core.queued_bytes <= PENDING_BYTES_MAX, None)
        now = monotonic()
        with loop.lock:
            loop.check_usable()
            for plan, dumped, future in calls:
                number = core.submit(plan, dumped.body, dumped.frames, now, parent)
                future.number, future.since = number, now
                self.futures[number] = future
            loop.flush(now)
        if loop.has_unsettled:
            loop.settle()

    def _failed_early(self) -> None:
        """Note that a future failed whose call was never submitted."""
        self.failures += 1
        self.loop.count(1)

    def give_up(self, future: TaskFuture, *, force: bool) -> bool:
        """Cancel a call; False when its outcome is there already."""
        if future.abandon is not None and future.abandon():
            return True
        loop = self.loop
        with loop.lock:
            number = future.number
            if self.futures.pop(number, None) is None:
                return False
            now = monotonic()
            self.core.cancel(number, force, now)
            if not loop.refusal:
                loop.flush(now)
        if loop.has_unsettled:
            loop.settle()
        return True

    def accepted(self, future: TaskFuture, timeout: float | None) -> bool:
        """Wait until the broker has confirmed a call."""
        deadline = deadline_of(timeout)

        def is_accepted() -> bool:
            if future.done():
                return True
            return bool(future.number) and self.core.is_accepted(future.number)

        def is_sent() -> bool:
            return future.done() or (bool(future.number) and self.core.is_sent(future.number))

        if not self.loop.wait(is_sent, timeout):
            return False
        owned = self.core.calls.get(future.number)
        # Of a durable call the broker says it by itself, after the commit.
        if owned is not None and not owned.plan.is_durable and not is_accepted():
            # Its answer brings the confirmation at once.
            self.ask(*PROBE, lambda _: None)
        rest = None if deadline is None else max(0.0, deadline - monotonic())
        refusals = NotDurable | ProtocolMismatch | NotAuthorized
        return self.loop.wait(is_accepted, rest) and not isinstance(future.failure, refusals)

    def flush(self, timeout: float | None) -> bool:
        """Wait until the broker has every call, and its journal every durable one."""
        upto = self.core.number_last
        deadline = deadline_of(timeout)
        if not self.loop.wait(lambda: not self.core.queued and not self.deferrals.waiting, timeout):
            return False
        rest = None if deadline is None else max(0.0, deadline - monotonic())
        try:
            self.query(*PROBE, rest)
        except TimeoutError:
            return False
        rest = None if deadline is None else max(0.0, deadline - monotonic())
        return self.loop.wait(lambda: self.core.durable.has_all(upto), rest)

    # --- questions

    def ask(self, what: str, argument: str, answered: Callable[[bytes], None]) -> int:
        """Send a query; *answered* gets the body, on the thread that reads."""
        check_text(what, argument)
        with self.loop.lock:
            self.loop.check_usable()
            now = monotonic()
            request = self.core.query(what, argument, now)
            self._queries[request] = answered
            self.loop.flush(now)
        return request

    def query(self, what: str, argument: str, timeout: float | None) -> dict[str, Any]:
        """Ask the broker. Raises TimeoutError, and WarmslotError for what it cannot answer."""
        answers: list[bytes] = []
        request, session = self.ask(what, argument, answers.append), self.core.session
        dealer = self.loop.dealer
        self.loop.wait(lambda: bool(answers or session.error) or dealer.is_refused, timeout)
        if not answers:
            self._queries.pop(request, None)
            with self.loop.lock:
                self.core.forget_query(request)
            why = why_silent(session.error, dealer, self.endpoint)
            said = f"the broker at {self.endpoint} did not answer within {timeout} s"
            raise TimeoutError(f"{said}: {why}" if why else said)
        answer: dict[str, Any] = msgspec.msgpack.decode(answers[0])
        if "error" in answer:
            raise WarmslotError(f"{asked(what, argument)}{answer['error']}")
        return answer

    def explain(self, number: int, timeout: float | None) -> dict[str, Any]:
        """Ask why a task is where it is."""
        answer = self.query("explain", str(number), timeout)
        future = self.futures.get(number)
        if future is not None:
            future.actor = answer.get("actor", "")
        if answer["state"] == "unknown" and not self.core.is_sent(number):
            answer["state"] = "waiting"
            answer["reason"] = "it waits in this process until the broker takes more of its tasks"
        return answer

    # --- what the loop tells

    def settle(self, task: int, result: Result, payloads: Any) -> None:
        """Give a future its outcome."""
        futures, future = self.futures, self.futures.get(task)
        if future is None:
            return
        try:
            try:
                # No `pop`: Ctrl-C may come when a call returns, and what it returned is lost.
                del futures[task]
            except KeyError:  # It was just canceled.
                return
            future.actor, future.attempt = result.actor, result.attempt
            if result.status is RESULT:
                try:
                    value = load(result.body, payloads)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # noqa: BLE001 - the user's classes run in here.
                    self._fail(future, unreadable(future, error))
                    return
                future.set_result(value)
                return
            failure = decode_failure(result.body or payloads[0])
            future.history = failure.history
            if result.status is Status.CANCELED or failure.code == Code.CANCELED:
                future.settle_canceled(failure.message)
                self.failures += 1
            else:
                self._fail(future, error_of(failure))
        except KeyboardInterrupt:
            # Ctrl-C while it was read: the loop will come with it again.
            if not future.done():
                futures[task] = future
            raise

    def _fail(self, future: TaskFuture, error: BaseException) -> None:
        future.set_exception(error)
        # Counted when it is settled: who sees the number finds the future.
        self.failures += 1

    def answer(self, request: int, body: bytes) -> None:
        """Give a query its answer."""
        answered = self._queries.pop(request, None)
        if answered is not None:
            answered(body)

    def note(self, event: str, fields: dict[str, Any]) -> None:
        """Log what a user should know of; the rest is for tests."""
        if event == "session_opened":
            if self._has_said_unreachable:
                logger().info("broker_reached", endpoint=self.endpoint)
            self._has_said_unreachable, self._obstacle_said = False, ""
        elif event == "refused":
            logger().error("refused_by_broker", endpoint=self.endpoint, **fields)
        elif event == "bad_frame":
            for _, told in self._seldom.pick([(event, fields)]):
                logger().warning(event, endpoint=self.endpoint, **told)
        elif event == "told_of_error":
            logger().warning(event, endpoint=self.endpoint, **fields)

    def look(self, now: float) -> None:
        """Say why nothing happens, once per reason; of many only how many."""
        if self.core.session.is_open:
            self._open_at = now
            self._count_reasons(now)
            self._ask_why(now)
        elif now - self._open_at >= PATIENCE_S and not self.core.has_left:
            obstacle = self.loop.dealer.obstacle
            if self._has_said_unreachable and obstacle in ("", self._obstacle_said):
                return
            self._has_said_unreachable, self._obstacle_said = True, obstacle
            logger().warning(
                "broker_unreachable",
                endpoint=self.endpoint,
                waiting_tasks=len(self.futures),
                hint=obstacle or why_not(self.endpoint) or "the client goes on trying",
            )

    def _ask_why(self, now: float) -> None:
        """Ask for the oldest task of each kind that has waited for too long."""
        left = ASKED_A_LOOK_MAX
        # Others submit meanwhile: only a list of the numbers is made in one step.
        for number in list(self.futures)[:EXPLAINED_MAX]:
            future = self.futures.get(number)
            if future is None:
                continue
            if now - future.since < PATIENCE_S or not left:
                break
            owned = self.core.calls.get(number)
            if owned is None or now - self._asked.get(owned.plan.key, 0.0) < 2 * PATIENCE_S:
                continue
            if len(self._asked) >= EXPLAINED_MAX:
                self._asked.clear()
            self._asked[owned.plan.key] = now
            left -= 1
            try:
                self.ask("explain", str(number), partial(self._told_why, future))
            except ClientClosed:
                return

    def _count_reasons(self, now: float) -> None:
        """Log how many reasons there were that were not said, if it is time for it."""
        if more := self._reasons.count(now):
            logger().warning(
                "task_waits_more",
                reasons=more,
                waiting_tasks=len(self.futures),
                hint="client.explain(future) says why one waits",
            )

    def _told_why(self, future: TaskFuture, body: bytes) -> None:
        """Log a reason that is new, unless there are many."""
        answer = msgspec.msgpack.decode(body)
        reason = str(answer.get("reason", ""))
        is_waiting = answer.get("state") in ("queued", "held") and reason
        if is_waiting and self._reasons.is_said(reason, monotonic()):
            logger().warning("task_waits", task=future.name, task_id=future.task_id, reason=reason)

    # --- the end

    def close(self, *, wait: bool = False) -> None:
        """Leave the broker. What has no outcome is canceled, unless *wait*."""
        if self.loop.refusal:
            return
        if wait:
            self.loop.wait(lambda: not self.futures and not self.deferrals.waiting, None)
        self._hand_over()
        with self.loop.lock:
            self.core.durable.hold(self.core.session.received)
        self.loop.settle()
        self.drop("the client was closed")
        self.loop.close()
        CONNECTIONS.discard(self)

    def _hand_over(self) -> None:
        """Wait shortly until the journal has what is durable, and say what it lacks then."""
        upto = self.core.number_last
        if self.core.durable.has_all(upto):
            return
        seconds = HAND_OVER_S if self.core.session.is_open else HAND_OVER_ALONE_S
        if not self.loop.wait(
            lambda: self.core.durable.has_all(upto) or self.core.has_left, seconds
        ):
            logger().warning(
                "durable_tasks_not_accepted",
                count=len(self.core.durable.open),
                hint="wait for client.flush() before the client is closed",
            )

    def drop(self, reason: str) -> None:
        """Cancel every future, with one line in the log; what is durable goes on without it."""
        kept = 0
        for number, future in list(self.futures.items()):
            if (
                self.core.durable.goes_on(self.core.calls.get(number))
                and self.futures.pop(number, None) is not None
            ):
                kept += 1
                future.settle_canceled(
                    f"task {future.name!r} {future.task_id}: {reason}; it is durable and goes on,"
                    f" client.get_future({future.task_id!r}) finds it"
                )
        if kept:
            self.loop.count(kept)
            logger().info("durable_tasks_go_on", count=kept)
        dropped = self.deferrals.take_all()
        while self.futures:
            try:
                _, future = self.futures.popitem()
            except KeyError:
                break
            dropped.append(future)
        for future in dropped:
            future.settle_canceled(f"task {future.name!r} {future.task_id}: {reason}")
        if dropped:
            self.failures += 1
            self.loop.count(len(dropped))
            logger().warning("tasks_canceled", count=len(dropped), reason=reason)


def unreadable(future: TaskFuture, error: BaseException) -> SerializationError:
    """Say that a result is there and cannot be read."""
    failed = SerializationError(
        f"the result of task {future.name!r} {future.task_id} cannot be read here: {told(error)}"
    )
    failed.__cause__ = error
    return failed


CONNECTIONS: weakref.WeakSet[Connection] = weakref.WeakSet()
_shared: dict[str | None, Connection] = {}
_shared_lock = threading.Lock()


def shared_connection(endpoint: str | None, name: str, keys: Folder | None) -> Connection:
    """Return the one connection for nested calls of this process; it stays to its end.

    The first who asks for it says its *name*, which is for people.
    """
    with _shared_lock:
        connection = _shared.get(endpoint)
        if connection is None or connection.loop.refusal:
            connection = _shared[endpoint] = Connection(endpoint, name[:NAME_LENGTH_MAX], keys)
            connection.is_nested = True
        return connection


def process_name() -> str:
    """Name this process for people."""
    script = Path(sys.argv[0]).name if sys.argv else ""
    return (script or "python")[:NAME_LENGTH_MAX]


@atexit.register
def _leave_all() -> None:
    """Say BYE where nobody has; a forked child has nothing to say."""
    for connection in list(CONNECTIONS):
        connection.close()
