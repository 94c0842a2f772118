"""The client as a state machine: calls, frames and the time in; frames, outcomes and notes out.

What must not be broken: the client owns a call from `submit` until its outcome; a broker that does
not have it gets it again, and the first outcome is the only one. Nothing here reads a clock.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from msgspec.structs import replace

from sdk.calls.asking import Cancels, Questions, Trials, split_questions
from sdk.calls.bound import Bound
from sdk.calls.call import Introduced, Owned, Payloads, Plan, Settings, check_calls, spans_of
from sdk.calls.durable import ATTACHING, Durable, name_of
from sdk.calls.news import News
from sdk.calls.refusals import failed, lost, overdue, refused, too_large
from sdk.calls.room import Room
from sdk.calls.waiting import Waiting
from wire.errors import Code
from wire.messages import (
    Accepted,
    Answer,
    Attach,
    Beat,
    Bye,
    ByeAck,
    Cancel,
    ClientHello,
    Error,
    Frame,
    Requeued,
    Result,
    Submit,
)
from wire.parts import Failure, Key, Token
from wire.payload import Buffer, size_of
from wire.session import COMMANDS, OPEN, Due, PeerSession, State, Verdict

# A frame is cut here, so that one message neither fills the broker's hands nor delays the next.
COMMANDS_A_FRAME_MAX: Final = 1_024
BYTES_A_FRAME_MAX: Final = 2**20
PAYLOADS_A_FRAME_MAX: Final = 1_024
# Results beyond this are acknowledged at once: their actors and the broker keep them until then.
UNACKNOWLEDGED_BYTES_MAX: Final = 2**20
UNACKNOWLEDGED_TASKS_MAX: Final = 256
# ZeroMQ reconnects after 50 to 500 ms; `connected` makes the HELLO earlier.
RETRY_S: Final = 0.1
# Looked up once, for the path of each task.
ENDED: Final = State.ENDED
NO_COMMANDS: Final[list[Any]] = []
NO_PAYLOADS: Final[list[Buffer]] = []

Outgoing = tuple[Frame[Any], Payloads]


class ClientCore(News):
    """Owns the calls of one client, and speaks for them."""

    def __init__(self, settings: Settings, *, incarnation: int, now: float) -> None:
        """Begin without a session; HELLO is due at once."""
        super().__init__()
        self.settings = settings
        self.incarnation = incarnation
        self.session = PeerSession(now, seed=incarnation)
        self.calls: dict[int, Owned] = {}
        # Octets of calls that wait for the window, or for a session.
        self.queued_bytes = 0
        self.is_leaving = False
        self.number_last = 0
        self._listed = 0
        self.queue: deque[Owned] = deque()
        self._there = 0
        self._there_bytes = 0
        self._introduced = Introduced()
        self._cancels = Cancels()
        self._trials = Trials()
        self._questions = Questions()
        self._waiting = Waiting()
        self.durable = Durable()
        self.bound = Bound()
        self.room = Room()
        self._commands: list[Any] = []
        self._outgoing: list[Outgoing] = []
        self._is_beat_due = False
        self.confirmed = 0
        self._unacknowledged = 0
        self._unacknowledged_bytes = 0
        self._unacknowledged_max = UNACKNOWLEDGED_TASKS_MAX
        self._unacknowledged_bytes_max = UNACKNOWLEDGED_BYTES_MAX

    # --- what the user wants

    def submit(  # noqa: PLR0917
        self,
        plan: Plan,
        body: bytes,
        frames: Payloads,
        now: float,
        parent: Token | None = None,
        key: Key | None = None,
    ) -> int:
        """Own a call and return its number; its outcome comes once, through `take_outcomes`."""
        self.number_last = number = self.number_last + 1
        size = len(body) + (sum(map(size_of, frames)) if frames else 0)
        self.calls[number] = owned = Owned(number, plan, body, frames, parent, size)
        if plan.schedule_timeout_s is not None:
            self._waiting.begin(number, plan.schedule_timeout_s, now)
        if plan.is_durable:
            self.durable.begin(owned, key)
        if self.session.state is ENDED:
            self._fail(owned, refused(self.session.error))
        else:
            self.queue.append(owned)
            self.queued_bytes += size
        return number

    def attach(self, incarnation: int, number: int, now: float, *, redrive: bool = False) -> int:
        """Own the outcome of a task that may be another client's, or of a dead one's next life."""
        target = Attach(self.number_last + 1, incarnation, number, redrive)
        return self.submit(self.durable.stand_for(target), b"", (), now)

    def cancel(self, task: int, force: bool, now: float) -> None:  # noqa: FBT001
        """Give up a call: no outcome comes any more. *force* may end the process that runs it."""
        target, owned = self.durable.attached.get(task), self._drop(task)
        if owned is None:
            return
        # What was not sent is nobody's yet, unless it stands for a task that is there.
        if (owned.epoch and owned.plan.is_durable) or (target and not target.redrive):
            what = "cancel-force" if force else "cancel"
            self._questions.last(self.query(what, name_of(target, task), now))
        if owned.epoch and not owned.plan.is_durable:
            self._cancels.open[task] = force
            if self.session.is_open:
                self._commands.append(Cancel([task], force))

    def query(self, what: str, argument: str, now: float) -> int:
        """Ask the broker, again in each session until the answer is there."""
        query = self._questions.ask(what, argument)
        if self.session.is_open:
            self._commands.append(query)
        return query.request

    def forget_query(self, request: int) -> None:
        self._questions.answered(request)

    def leave(self, now: float) -> None:
        """Give up every call and say BYE; `has_left` tells when the broker knows."""
        self.is_leaving = True
        self.durable.leave(self.calls, self.session.received)
        self._clear()
        if self.session.is_open:
            self._commands = [Bye("closed")]
        else:
            self.session.end()

    @property
    def has_left(self) -> bool:
        """Tell whether nothing more will be said or heard."""
        return self.session.state is State.ENDED

    @property
    def queued(self) -> int:
        """Return how many calls are not sent."""
        return len(self.queue)

    def is_sent(self, task: int) -> bool:
        """Tell whether the call is at the broker, or has its outcome already."""
        owned = self.calls.get(task)
        return owned is None or owned.is_there

    def is_accepted(self, task: int) -> bool:
        """Tell whether the broker has confirmed a call. Of one with an outcome that says more."""
        if (owned := self.calls.get(task)) is None:
            return False
        if owned.plan.is_durable:  # A refusal takes it out of both, in the other order.
            return task not in self.durable.open and task in self.calls
        return owned.is_heard(self.session.number, self.confirmed)

    # --- what the loop brings

    def receive(self, frame: Frame[Any], payloads: Payloads, now: float) -> None:
        """Take a frame of the broker."""
        verdict = self.session.accept(frame, now)
        if verdict is COMMANDS:
            if frame.number:
                self.confirmed = frame.received
                if self._cancels.open:
                    self._cancels.confirm(frame.received)
            at = 0
            for command in frame.commands:
                if type(command) is Result:
                    at = self._ended(command, payloads, at)
                else:
                    self._act(command, now)
            # So much may be kept for us by the broker and by actors that it cannot wait.
            if (
                self._unacknowledged > self._unacknowledged_max
                or self._unacknowledged_bytes > self._unacknowledged_bytes_max
            ):
                self._is_beat_due = True
            return
        match verdict:
            case Verdict.WELCOME:
                self._open(now)
            case Verdict.FATAL:
                assert self.session.error is not None
                self.refuse(self.session.error.code, self.session.error.message)
            case Verdict.CLOSED:
                self._note("session_closed", epoch=self.session.epoch)
            case Verdict.DROP:
                pass

    def refuse(self, code: str, message: str) -> None:
        """End for good: this broker and this client cannot talk to each other."""
        self.session.refuse(code, message)
        self._note("refused", code=code, reason=message)
        for owned in list(self.calls.values()):
            self._fail(owned, refused(self.session.error))
        self.queue.clear()

    def broken(self, now: float, unsent: Iterable[Frame[Any]] = ()) -> None:
        """Take notice of a lost connection; *unsent* frames of the last `flush` did not leave."""
        for frame in unsent:
            for command in frame.commands:
                if type(command) is Submit:
                    owned = self.calls.get(command.task)
                    if owned is not None and owned.first_sent == (frame.session, frame.number):
                        owned.epoch, owned.first_sent = 0, (0, 0)
        if self.session.is_open:
            self._note("connection_lost", epoch=self.session.epoch)
        self.session.close(now, wait_s=RETRY_S)

    def connected(self, now: float) -> None:
        """There is a connection again: HELLO need not wait."""
        self.session.connected(now)

    def deadline(self) -> float:
        """Return when `tick` is next wanted."""
        due, waiting_at = self.session.deadline(), self._waiting.due_at
        return due if due < waiting_at else waiting_at  # noqa: FURB136 - a call of min costs more.

    def tick(self, now: float) -> None:
        """Let time pass: HELLO, heartbeats, calls that waited here for too long."""
        if now >= self._waiting.due_at:
            for owned in map(self.calls.__getitem__, self._waiting.take(now)):
                # A broker that was ever sent it may have found an actor.
                if owned.epoch == 0:
                    self._fail(owned, overdue(owned, is_open=self.session.is_open))
        match self.session.due(now):
            case Due.HELLO:
                self._outgoing = [(self._hello(now), ())]
            case Due.BEAT:
                self._is_beat_due = True
            case Due.NOTHING:
                pass

    def flush(self, now: float) -> list[Outgoing]:
        """Return what is to be sent now, in order."""
        if not (self.queue or self._is_beat_due or self._commands or self._outgoing):
            return []
        outgoing, self._outgoing = self._outgoing, []
        if self.session.state is not OPEN:
            return outgoing
        commands, payloads, asked = self._commands, NO_PAYLOADS, NO_COMMANDS
        self._commands = []
        if self._cancels.open:
            commands = self._cancels.sending(commands, self.session.sent + 1)
        if commands and self.queue:
            commands, asked = split_questions(commands)
        if self.queue:
            commands, payloads = self._add_calls(commands, outgoing, now)
            if asked:
                commands += asked
        if not commands and self._is_beat_due and not outgoing:
            commands = [Beat()]
        if commands:
            self._emit(commands, payloads, outgoing, now)
        return outgoing

    def check(self) -> None:
        """Assert every invariant."""
        queued = check_calls(self.calls, self.queue, self.queued_bytes)
        there = [owned for owned in self.calls.values() if owned.is_there]
        assert (len(there), sum(owned.size for owned in there)) == (self._there, self._there_bytes)
        if self.session.state is not State.ENDED:
            assert queued + len(there) == len(self.calls)
        assert not self._cancels.open.keys() & self.calls.keys()
        welcome = self.session.welcome
        if welcome is not None and self.session.is_open and self._there > 1:
            assert self._there <= max(welcome.window_tasks, self._listed)

    # --- sessions

    def _hello(self, now: float) -> Frame[Any]:
        """Open a session with every number whose outcome is wanted."""
        # A forced cancel is more than not being listed, so it is listed and said after WELCOME.
        wanted = sorted({*self.calls, *self._cancels.begin_session(), *self.durable.left})
        self._commands = []
        self._is_beat_due = False
        self._listed = self.number_last
        name, python = self.settings.name, self.settings.python
        bound, room = self.bound.actors, self.room.said(wanted)
        hello = ClientHello(self.incarnation, name, python, spans_of(wanted), bound, room)
        return self.session.hello(hello, now)

    def _open(self, now: float) -> None:
        """Send again exactly what the broker misses, and what is new."""
        welcome = self.session.welcome
        assert welcome is not None
        self._introduced = Introduced(welcome)
        self._there = self._there_bytes = self.queued_bytes = 0
        self._unacknowledged = self._unacknowledged_bytes = self.confirmed = 0
        self._unacknowledged_max = min(UNACKNOWLEDGED_TASKS_MAX, welcome.window_tasks // 4)
        self._unacknowledged_bytes_max = min(UNACKNOWLEDGED_BYTES_MAX, welcome.window_bytes // 16)
        self.queue.clear()
        lost_ones = []
        missing = iter(welcome.missing)
        span = next(missing, None)
        for number, owned in self.calls.items():
            while span is not None and span[1] < number:
                span = next(missing, None)
            is_missing = span is not None and span[0] <= number
            owned.is_there = number <= self._listed and not is_missing
            if owned.is_there:
                self._there += 1
                self._there_bytes += owned.size
            else:
                self.queue.append(owned)
                self.queued_bytes += owned.size
                if self.durable.is_lost(owned):
                    lost_ones.append(owned)
        for owned in lost_ones:
            self._fail(owned, lost(owned))
        # What changed since HELLO is said again.
        self._commands = [*self._cancels.again(), *self._questions.open.values()]
        calls, missed = len(self.calls), len(self.queue)
        self._note("session_opened", epoch=self.session.epoch, calls=calls, missing=missed)
        self.durable.reopened()
        if self.is_leaving:
            self._commands.append(Bye("closed"))

    # --- what the broker says

    def _ended(self, result: Result, payloads: Payloads, at: int) -> int:
        """Take an outcome and return where the payload frames of the next begin."""
        end = at + result.frames
        own: Payloads = payloads[at:end] if result.frames else NO_PAYLOADS
        self._unacknowledged += 1
        self._unacknowledged_bytes += len(result.body) + (sum(map(size_of, own)) if own else 0)
        # A second outcome of the same call finds nobody.
        task = result.task
        owned = self.calls.get(task)
        if owned is not None:  # Given out before it is forgotten: Ctrl-C may come in between.
            self.outcomes.append((task, result, own))
            del self.calls[task]
            self._let_go(task, owned)
            if owned.plan.sticky and result.actor:
                self.bound.note(owned.plan.sticky, result.actor)
        return end

    def _act(self, command: Any, now: float) -> None:
        """Act on what is no outcome."""
        match command:
            case Requeued():
                owned = self.calls.get(command.task)
                if owned is not None:
                    self._trials.note(owned, command, self._waiting, now)
                    self._note("requeued", task=command.task, reason=command.reason)
            case Accepted():
                self.durable.accepted(command.tasks)
            case Answer():
                if self._questions.answered(command.request, command.body):
                    self.answers.append((command.request, command.body))
            case ByeAck():
                if self.is_leaving:
                    self.session.end()
            case Error():
                self._note("told_of_error", code=command.code, reason=command.message)
                if command.code == Code.UNKNOWN_TEMPLATE:
                    self.session.close(now)
            case _:
                pass

    def _drop(self, task: int) -> Owned | None:
        """Own the call no more."""
        owned = self.calls.pop(task, None)
        if owned is not None:
            self._let_go(task, owned)
        return owned

    def _let_go(self, task: int, owned: Owned) -> None:
        if self._waiting.since:
            self._waiting.end(task)
        plan = owned.plan
        if plan.is_durable or plan is ATTACHING:
            self.durable.forget(task)
        if self._trials.told:
            self._trials.forget(task)
        if owned.is_there:
            owned.is_there = False
            self._there -= 1
            self._there_bytes -= owned.size
        else:
            # It stays in the queue, where nobody finds it in `calls`.
            self.queued_bytes -= owned.size

    def _fail(self, owned: Owned, failure: Failure) -> None:
        """Make the outcome of a call that ends here."""
        if self._drop(owned.number) is not None:
            self.outcomes.append((owned.number, failed(owned.number, failure), ()))

    def _clear(self) -> None:
        """Own nothing more."""
        self.calls.clear()
        self.queue.clear()
        self._cancels.clear()
        for one in (self.durable, self._trials, self._questions):
            one.clear()
        self._waiting = Waiting()
        self._there = self._there_bytes = self.queued_bytes = 0

    # --- what is sent

    def _add_calls(
        self, commands: list[Any], outgoing: list[Outgoing], now: float
    ) -> tuple[list[Any], list[Buffer]]:
        """Append what the window allows; what does not fit into one frame goes before it."""
        session, welcome = self.session, self.session.welcome
        assert welcome is not None
        payloads: list[Buffer] = []
        queue, calls, epoch = self.queue, self.calls, session.epoch
        size, size_max, sent = 0, welcome.payload_bytes_max, (session.number, session.sent + 1)
        keys, attached, waiting = self.durable.keys, self.durable.attached, self._waiting
        window_tasks, window_bytes = welcome.window_tasks, welcome.window_bytes
        while queue:
            owned = queue[0]
            number, own_size, plan = owned.number, owned.size, owned.plan
            if own_size > size_max or plan.size > size_max:
                self._fail(owned, too_large(owned, size_max))
            if number not in calls:
                queue.popleft()
                continue
            there, there_bytes = self._there, self._there_bytes + own_size
            if there >= window_tasks or (there and there_bytes > window_bytes):
                break
            frames = owned.frames
            if size and (
                size + own_size > BYTES_A_FRAME_MAX
                or len(commands) >= COMMANDS_A_FRAME_MAX
                or (frames and len(payloads) + len(frames) > PAYLOADS_A_FRAME_MAX)
            ):
                self._emit(commands, payloads, outgoing, now)
                commands, payloads, size = [], [], 0
                sent = (session.number, session.sent + 1)
            queue.popleft()
            template = self._introduced.find(plan)
            if template is None and number not in attached:
                template = self._introduced.add(plan, commands, payloads)
                size += plan.size
            owned.sent, is_again = sent, False
            if owned.epoch == 0:
                owned.epoch, owned.first_sent = epoch, sent
            else:
                if is_told := number in self._trials.told:
                    commands.append(self._trials.say(number, now))
                is_again = is_told or plan.call.at_most_once or owned.epoch != epoch
            body, tries, parent = owned.body, owned.tries, owned.parent
            waited = waiting.waited(number, now) if waiting.since else None
            key = keys.get(number) if keys else None
            commands.append(
                Submit(number, template, body, len(frames), is_again, tries, parent, waited, key)
                if template is not None
                else attached[number]
            )
            if frames:
                payloads += frames
            size += own_size + 1
            owned.is_there = True
            self._there, self._there_bytes = there + 1, there_bytes
            self.queued_bytes -= own_size
        return commands, payloads

    def _emit(
        self,
        commands: list[Any],
        payloads: list[Buffer],
        outgoing: list[Outgoing],
        now: float,
    ) -> None:
        """Close one frame; it acknowledges whatever was received."""
        frame = self.session.frame(commands, now)
        if self.durable.held is not None:
            frame = replace(frame, received=self.durable.held)
        outgoing.append((frame, payloads))
        self._is_beat_due = False
        self._unacknowledged = self._unacknowledged_bytes = 0
