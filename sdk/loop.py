"""The client's socket and its clock: whoever waits reads, and a daemon thread when nobody waits.

Sends happen on the caller's thread. Every call into ZeroMQ or the core is made under `lock`;
nothing of the user's runs under it. ZeroMQ's descriptor tells of a change once: after each call
under the lock the socket is drained, or its sleeper is woken, before anybody sleeps on it again.
"""

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any, Final

import zmq

from sdk.core import ClientCore, Outgoing
from sdk.errors import ClientClosed
from sdk.reading import forks, memory
from sdk.reading.deadlines import deadline_of
from sdk.reading.dealer import EVENTS, NOBLOCK, POLLIN, POLLOUT, RCVMORE, Dealer, send_message
from sdk.reading.gathering import Gathering
from sdk.reading.handlers import Handlers, nothing
from sdk.reading.wakeup import NAP_MAX_S, open_sleeps
from wire.codec import check_payloads, decode_broker, encode
from wire.errors import RemoteProtocolError
from wire.messages import Result
from wire.payload import Buffer, told
from wire.session import OPEN

# How long the daemon leaves the socket alone after a caller has read it.
NAP_S: Final = 0.005
# How long a caller that may not read sleeps before it asks again whether it may.
SLEEP_S: Final = 0.25
READ: Final = "read"
LOOK_S: Final = 0.5
LEAVE_S: Final = 0.5
MESSAGES_A_TURN_MAX: Final = 256

Outcome = tuple[int, Result, Any]
IsDone = Callable[[], bool]
Sleeping = Callable[[float], object] | None


class Loop:
    """Owns the DEALER of one client."""

    def __init__(self, dealer: Dealer, core: ClientCore, handlers: Handlers) -> None:
        """Own *dealer* and start the daemon thread.

        Raises OSError or RuntimeError where there is no descriptor or no thread for it.
        """
        self.dealer, self.core, self._handlers = dealer, core, handlers
        self.lock = threading.Lock()
        self.gathering = Gathering()
        # Why nothing works any more; empty while it does.
        self.refusal = ""
        # How many calls were settled, and who waits for more.
        self.settled = 0
        self._changing = threading.Lock()
        self._changed = threading.Condition(self._changing)
        self._sleepers = 0
        self._send, self._recv, self._get = dealer.send, dealer.recv, dealer.get
        self._unsettled: deque[Outcome] = deque()
        self._rest: deque[Callable[[], None]] = deque()
        # The right to read, and who has it; the same thread may take it again in a callback. It is
        # taken by `setdefault`, so that Ctrl-C finds it either free or with the name of its owner.
        self._right: dict[str, int] = {}
        self._reader = self._borrows = 0
        self._waiting: dict[object, None] = {}
        self._is_held_up = False
        # Who may sleep on the descriptor: a call that eats its edge must wake him.
        self._reader_watches = self._daemon_watches = False
        self._is_napping_long = self._is_stopped = False
        self._look_at = monotonic() + LOOK_S
        try:
            self._daemon_sleep, self._reader_sleep = open_sleeps(dealer.descriptor)
        except BaseException:
            dealer.close()
            raise
        self._daemon = threading.Thread(target=self._run, name="warmslot-client", daemon=True)
        forks.watch(self)
        try:
            self._daemon.start()
        except (RuntimeError, MemoryError) as error:
            self._let_go()
            raise RuntimeError(f"a client needs a thread of its own: {told(error)}") from None

    def forked(self) -> None:
        """Refuse everything in a forked child, where whoever may have the locks is not."""
        self.lock, self._changing = threading.Lock(), threading.Lock()
        self.refusal = forks.REFUSAL

    # --- for callers

    def check_usable(self) -> None:
        """Raise ClientClosed after `close`, and in a forked child."""
        if self.refusal:
            raise ClientClosed(self.refusal)

    def offer(self, queued: int, now: float) -> None:
        """Send the *queued* calls, or let them wait for others, as `flush` otherwise."""
        gathering = self.gathering
        if not gathering.may_wait(queued, now):
            self.flush(now)
        elif not gathering.is_open and gathering.begin():
            self._daemon_sleep.wake()

    def flush(self, now: float) -> None:
        """Send what the core has to say. The lock must be held; call `settle` without it."""
        core = self.core
        self.gathering.is_open = False
        is_watched = self._reader_watches or self._daemon_watches
        try:
            outgoing = core.flush(now)
            if outgoing:
                self._send_all(outgoing, now)
                if is_watched and self._get(EVENTS) & POLLIN:
                    self._wake()
        except KeyboardInterrupt:
            core.broken(now)
            raise
        if core.outcomes or core.answers or core.notes:
            self._take()

    @property
    def has_unsettled(self) -> bool:
        """Tell whether somebody should call `settle`."""
        return bool(self._unsettled or self._rest)

    def settle(self) -> None:
        """Give out what was read. Any thread may, and none holds the lock."""
        was_held_up, is_reader = self._is_held_up, self._reader == get_ident()
        if is_reader:
            self._is_held_up = True
        unsettled, rest, count, is_told = self._unsettled, self._rest, 0, False
        try:
            while unsettled:
                # It stays until it is given out: Ctrl-C loses what a call has just returned.
                try:
                    outcome = unsettled[0]
                except IndexError:  # Another thread was faster.
                    break
                try:
                    self._handlers.settle(*outcome)
                except KeyboardInterrupt:
                    # Another thread may have found it in our hands, and taken it for done.
                    unsettled.appendleft(outcome)
                    raise
                count += 1
                try:  # noqa: SIM105 - a block of `suppress` costs more than the rest of it.
                    unsettled.remove(outcome)
                except ValueError:
                    pass
            while rest:
                try:
                    rest.popleft()()
                except IndexError:
                    break
                is_told = True
            if count or is_told:
                self.count(count)
        finally:
            # Only the reader says so: others that settle have no say in what holds him up.
            if is_reader:
                self._is_held_up = was_held_up

    def count(self, settled: int) -> None:
        """Say that so many more futures are done, or that something else was heard."""
        with self._changing:
            self.settled += settled
            if self._sleepers:
                self._changed.notify_all()
        if self._reader and self._reader != get_ident():
            # He sleeps on the socket, and what he waits for came another way.
            self._reader_sleep.wake()

    def wait(
        self, is_done: IsDone, timeout: float | None, *, task: int = -1, sleep: Sleeping = None
    ) -> bool:
        """Read until *is_done*, or sleep while somebody else reads; False when the time is over.

        *task* is the only one that *is_done* asks for, and *sleep* what its outcome interrupts.
        """
        if is_done():
            return True
        if self.refusal:
            self.check_usable()
        if self.gathering.is_open:
            self.send_gathered()
        else:
            # Whoever waits for each call alone need not let the next one wait for company.
            self.gathering.until = 0.0
        deadline = None if timeout is None else deadline_of(timeout)
        thread, mark = get_ident(), object()
        has_right = self._reader == thread
        try:
            self._waiting[mark] = None
            while True:
                if has_right:
                    self._read_again(is_done, deadline, task)
                elif self._right.setdefault(READ, thread) == thread:
                    self._borrow(is_done, deadline, task)
                else:
                    self._sleep(is_done, deadline, sleep)
                if is_done():
                    return True
                if deadline is not None and monotonic() >= deadline:
                    return False
                if self.refusal:
                    self.check_usable()
        finally:
            if not has_right and self._right.get(READ) == thread:
                # Ctrl-C came before it was used.
                del self._right[READ]
            self._waiting.pop(mark, None)

    def send_gathered(self, *, is_due_only: bool = False) -> None:
        """Send the calls that wait for others: somebody waits for them, or their time is over."""
        if self.gathering.is_open:
            with self.lock:
                now = monotonic()
                if not self._is_stopped and (now >= self.gathering.until or not is_due_only):
                    self.flush(now)

    def close(self) -> None:
        """Say BYE and wait shortly for the answer; nothing works afterwards."""
        with self.lock:
            if self.refusal:
                return
            self.core.leave(monotonic())
            self.flush(monotonic())
        if not self.core.has_left:
            self.wait(lambda: self.core.has_left, LEAVE_S)
        self.refusal = "the client is closed"
        self._is_stopped = True
        self._wake()
        self.count(0)
        if threading.current_thread() is not self._daemon:
            self._daemon.join(LEAVE_S)
        self._let_go()

    def _let_go(self) -> None:
        """Close what the system gave."""
        with self.lock:
            dealer = self.dealer
            dealer.close()
            self._send, self._recv, self._get = dealer.send, dealer.recv, dealer.get
        self._daemon_sleep.close()
        self._reader_sleep.close()
        forks.forget(self)

    # --- who reads

    def _borrow(self, is_done: IsDone, deadline: float | None, task: int) -> None:
        """Read in the place of the daemon."""
        try:
            self._reader = get_ident()
            self._borrows += 1
            self._read(is_done, deadline, task)
        finally:
            self._reader_watches = False
            self._reader = 0
            del self._right[READ]
            # Who sleeps meanwhile must not wait until the daemon wakes up by itself, and the
            # daemon must not sleep on a descriptor whose edge was eaten here.
            if self._is_napping_long or len(self._waiting) > 1 or self._daemon_watches:
                self._daemon_sleep.wake()

    def _read_again(self, is_done: IsDone, deadline: float | None, task: int) -> None:
        """Read in a callback of a reader, who is held up no more while that waits."""
        self._is_held_up = False
        try:
            self._read(is_done, deadline, task)
        finally:
            self._is_held_up = True
            if self._is_napping_long or len(self._waiting) > 1 or self._daemon_watches:
                self._daemon_sleep.wake()

    def _sleep(self, is_done: IsDone, deadline: float | None, sleep: Sleeping) -> None:
        """Sleep until the reader settles something, and help when it is busy with callbacks."""
        timeout = SLEEP_S if deadline is None else min(SLEEP_S, max(0.0, deadline - monotonic()))
        if sleep is not None:
            sleep(timeout)
        else:
            with self._changing:
                # In this order: what changes after we have asked finds somebody to wake.
                self._sleepers += 1
                try:
                    if not is_done():
                        self._changed.wait(timeout)
                finally:
                    self._sleepers -= 1
        if not is_done():
            self.settle()

    def _run(self) -> None:
        """Read whenever nobody else does."""
        try:
            while not self._is_stopped:
                self._read_alone()
                self._nap()
        except BaseException as error:
            # Our bug: whoever waits must hear of it instead of waiting for ever.
            if not self._is_stopped:
                self.refusal = f"the client's thread ended with {error!r}"
                raise

    def _is_borrowed(self) -> bool:
        """Tell whether a caller reads, and is not held up in a callback."""
        return bool(self._right) and not self._is_held_up

    def _read_alone(self) -> None:
        """Be the reader until somebody borrows the socket."""
        woken = False
        while not self._is_stopped and not self._is_borrowed():
            is_dry = self._turn(-1, woken=woken)
            self._daemon_watches = is_dry
            self.settle()
            woken = False
            if is_dry and not self._is_borrowed() and not self._is_stopped:
                gathered_at = self.gathering.next_look(monotonic())
                until = min(self.core.deadline(), self._look_at, gathered_at)
                woken = self._daemon_sleep.until(until)
            self._daemon_watches = False

    def _nap(self) -> None:
        """Leave the socket alone until no caller has borrowed it for a while."""
        nap_s, seen = NAP_S, self._borrows
        while not self._is_stopped:
            self._is_napping_long = nap_s > NAP_S
            is_woken = self._daemon_sleep.nap(nap_s)
            # Who reads may sleep for long, so calls that gather are looked after here.
            while self.gathering.is_watched and self._is_borrowed() and not self._is_stopped:
                self.send_gathered(is_due_only=True)
                self._daemon_sleep.nap(min(nap_s, self.gathering.next_look(0.0)))
            if self._is_borrowed():
                nap_s = min(nap_s * 2, NAP_MAX_S) if self._borrows == seen else NAP_S
            elif self._borrows == seen or is_woken:
                break
            else:
                nap_s = NAP_S
            seen = self._borrows
        self._is_napping_long = False

    # --- reading

    def _read(self, is_done: IsDone, deadline: float | None, task: int) -> None:
        """Receive and settle until *is_done* or *deadline*."""
        woken, until = False, 0.0
        is_dry = self._is_quiet()
        # Asked first: since the caller did, somebody else may have read it and seen nobody to wake.
        while not is_done():
            if is_dry:
                until = self.core.deadline()
                if self._look_at < until:  # noqa: PLR1730 - a call of min costs more.
                    until = self._look_at
                if deadline is not None and deadline < until:
                    until = deadline
                woken = self._reader_sleep.until(until)
            is_dry = self._turn(task, woken=woken, until=until)
            self.settle()
            # A callback that waited has read here too, and may have left something.
            is_dry = is_dry and self._reader_watches
            woken, until = False, 0.0
            if self._is_stopped or (deadline is not None and monotonic() >= deadline):
                break
        self._reader_watches = False

    def _is_quiet(self) -> bool:
        """Tell whether the reader may sleep at once, as after most submits; cheaper than a turn."""
        with self.lock:
            self._reader_watches = is_quiet = not (
                self._unsettled
                or self._rest
                or self._is_stopped
                or self.core.session.state is not OPEN
                or self._get(EVENTS) & POLLIN
            )
        return is_quiet

    def _turn(self, task: int, *, woken: bool, until: float = 0.0) -> bool:
        """Receive what is there, up to the outcome of *task*; tell whether nothing is left.

        The core has nothing to do before *until*.
        """
        with self.lock:
            if self._is_stopped:
                return True
            try:
                core, recv, now = self.core, self._recv, monotonic()
                is_dry = False
                for count in range(MESSAGES_A_TURN_MAX):
                    try:
                        control = recv(NOBLOCK)
                    except zmq.Again:
                        # A change of the connection wakes only once, and any call may eat it.
                        is_suspect = (woken and not count) or not core.session.is_open
                        if is_suspect and self._look_at_connection(now):
                            continue
                        is_dry = True
                        break
                    self._receive(control, now)
                    if task >= 0 and task not in core.calls:
                        break
                if now >= until and now >= core.deadline():
                    core.tick(now)
                gathering = self.gathering
                if not gathering.is_open or now >= gathering.until:
                    gathering.is_open = False
                    outgoing = core.flush(now)
                    if outgoing:
                        self._send_all(outgoing, now)
                        if is_dry and self._get(EVENTS) & POLLIN:
                            is_dry = False
                if core.outcomes or core.answers or core.notes:
                    self._take()
                if now >= self._look_at:
                    self._look_at = now + LOOK_S
                    self._rest.append(partial(self._handlers.look, now))
                is_reader = self._reader == get_ident()
                if is_reader:
                    self._reader_watches = is_dry
                else:
                    self._daemon_watches = is_dry
                if self._sleepers or (self._reader and not is_reader):
                    # They may wait for what the core has heard, which settles nothing.
                    self._rest.append(nothing)
            except KeyboardInterrupt:
                # What was half done is as good as lost, and the next HELLO finds that out.
                self.core.broken(monotonic())
                raise
        return is_dry

    def _receive(self, control: bytes, now: float) -> None:
        """Hand one message to the core."""
        payloads: list[Buffer] = []
        try:
            frame = decode_broker(control)
            for command in frame.commands:
                if type(command) is Result and command.frames:
                    while self._get(RCVMORE):
                        payloads.append(self._recv(NOBLOCK, copy=False).buffer)
                    check_payloads(frame, payloads)
                    break
        except RemoteProtocolError as error:
            while self._get(RCVMORE):
                self._recv(NOBLOCK)
            if error.fatal:
                self.core.refuse(error.code, error.message)
            else:
                told = partial(self._handlers.note, "bad_frame", {"reason": error.message})
                self._rest.append(told)
            return
        self.core.receive(frame, payloads, now)

    def _look_at_connection(self, now: float) -> bool:
        """Tell the core whether there is a connection, and the caller whether a message came."""
        events = self.dealer.look(now)
        if events & POLLOUT:
            self.core.connected(now)
        elif self.core.session.is_open:
            self.core.broken(now)
        memory.measure(self.core)
        return bool(events & POLLIN)

    def _take(self) -> None:
        """Take from the core what is to be given out."""
        core = self.core
        if core.outcomes:
            self._unsettled.extend(core.outcomes)
            core.outcomes.clear()
        if core.answers or core.notes:
            for request, body in core.take_answers():
                self._rest.append(partial(self._handlers.answer, request, body))
            for event, fields in core.take_notes():
                self._rest.append(partial(self._handlers.note, event, fields))

    # --- sending

    def _send_all(self, outgoing: list[Outgoing], now: float) -> None:
        """Send what the core has to say."""
        for index, (frame, payloads) in enumerate(outgoing):
            try:
                if payloads:
                    send_message(self._send, encode(frame), payloads)
                else:
                    self._send(encode(frame), NOBLOCK)
            except zmq.Again:
                self.core.broken(now, [unsent for unsent, _ in outgoing[index:]])
                # Its sleep is too long now.
                self._wake()
                break

    def _wake(self) -> None:
        """Wake whoever sleeps on the descriptor."""
        self._daemon_sleep.wake()
        if self._reader:
            self._reader_sleep.wake()
