"""A broker's end without sockets, and one on a socket; a process that has seen no class yet."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import zmq

from sdk.calls.call import Code, Plan, Settings
from sdk.core import ClientCore
from sdk.describing.code import capture
from tests.support.deployment import DEADLINE_S
from wire.codec import check_payloads, decode_broker, decode_peer, encode
from wire.messages import (
    Accepted,
    Answer,
    Attach,
    Beat,
    Bye,
    ByeAck,
    Cancel,
    ClientHello,
    Frame,
    Function,
    Query,
    Result,
    Submit,
    Template,
    Tried,
    Welcome,
    Who,
)
from wire.parts import Call, Status
from wire.payload import digest, dump, load, load_function
from wire.tables import ReceiverTable

EPOCH = 1_000


def plan_of(name="work", code=b"code", **options):
    hashed = Code(digest(code), code)
    return Plan(Call(name, hashed.hash, **options), [hashed])


def core_of(now=0.0):
    return ClientCore(Settings(name="test", python="3.11"), incarnation=7, now=now)


class BrokerEnd:
    """What a broker knows of one client. Every frame passes through the codec, and is checked."""

    def __init__(self, epoch=EPOCH, **welcome):
        self.epoch = epoch
        self.settings = {
            "heartbeat_s": 1.0,
            "suspect_s": 2.0,
            "lease_s": 5.0,
            "recovering_s": 0.0,
            "missing": [],
            "window_tasks": 100_000,
            "window_bytes": 2**28,
            "payload_bytes_max": 2**28,
            "functions_max": 512,
            "templates_max": 4_096,
        } | welcome
        self.tasks: dict[int, Submit | Attach] = {}
        self.calls: dict[int, Call] = {}
        self.payloads: dict[int, list[Any]] = {}
        self.submits: list[Submit] = []
        self.heard: list[Any] = []
        self.cancels: list[Cancel] = []
        self.attached: list[Attach] = []
        self.hellos: list[ClientHello] = []
        self.is_deaf = False
        self.answers: dict[str, Any] = {}
        self.session = self.sent = self.received = 0

    def hear(self, frame: Frame, payloads: Sequence[Any]) -> list[Frame]:
        """Take one frame of the client and return the replies."""
        check_payloads(frame, payloads)
        if self.is_deaf:
            return []
        first = frame.commands[0]
        if isinstance(first, ClientHello):
            return [self.welcome(frame, first)]
        if frame.session != self.session or frame.number > self.received + 1:
            # No session, or one with a gap.
            self.session = -1
            return [Frame(1, self.epoch, frame.session, 0, 0, [Who()])]
        assert frame.epoch == self.epoch
        assert frame.number == self.received + 1
        self.received = frame.number
        at = 0
        replies: list[Any] = []
        for command in frame.commands:
            self.heard.append(command)
            match command:
                case Function():
                    stream = payloads[at] if command.frames else command.body
                    at += command.frames
                    assert digest(stream) == command.hash
                    self.functions.put(command.slot, command.hash)
                case Template():
                    assert command.call.function in ("", b"", *self.functions.values())
                    self.templates.put(command.slot, command.call)
                case Submit():
                    call = self.templates.get(command.template)
                    assert call is not None
                    assert call.function in self.functions.values()
                    self.submits.append(command)
                    self.tasks[command.task] = command
                    self.calls[command.task] = call
                    self.payloads[command.task] = list(payloads[at : at + command.frames])
                    at += command.frames
                case Attach():
                    self.attached.append(command)
                    self.tasks[command.task] = command
                case Cancel():
                    self.cancels.append(command)
                    for task in command.tasks:
                        self.tasks.pop(task, None)
                case Query():
                    answer = self.answers.get(command.what, {"what": command.what})
                    replies.append(Answer(command.request, encode(answer)))
                case Bye():
                    replies.append(ByeAck())
                case Beat() | Tried():
                    pass
                case _:
                    raise AssertionError(command)
        assert len(self.tasks) <= self.settings["window_tasks"]
        return [self.frame(*replies)] if replies else []

    def welcome(self, frame: Frame, hello: ClientHello) -> Frame:
        self.hellos.append(hello)
        self.session, self.sent, self.received = frame.session, 0, 0
        self.functions = ReceiverTable(self.settings["functions_max"])
        self.templates = ReceiverTable(self.settings["templates_max"])
        listed = {n for a, b in hello.unresolved for n in range(a, b + 1)}
        self.tasks = {n: task for n, task in self.tasks.items() if n in listed}
        missing = [(n, n) for n in sorted(listed - self.tasks.keys())]
        welcome = Welcome(**(self.settings | {"missing": missing}))
        return Frame(1, self.epoch, frame.session, 0, 0, [welcome])

    def frame(self, *commands: Any) -> Frame:
        self.sent += 1
        return Frame(1, self.epoch, self.session, self.sent, self.received, list(commands))

    def restart(self, epoch: int) -> None:
        """Lose the memory, as a broker without a journal does."""
        self.epoch = epoch
        self.tasks.clear()
        self.session = -1


class Conversation:
    """A core and a broker's end that talk until nobody has anything to say."""

    def __init__(self, **welcome):
        self.now = 0.0
        self.core = core_of()
        self.broker = BrokerEnd(**welcome)
        self.frames: list[Frame] = []

    def turn(self, now=None):
        self.now = self.now if now is None else now
        core = self.core
        core.check()
        if self.now >= core.deadline():
            core.tick(self.now)
        while outgoing := core.flush(self.now):
            for frame, payloads in outgoing:
                self.frames.append(frame)
                passed = decode_peer(encode(frame))
                for reply in self.broker.hear(passed, payloads):
                    self.receive(reply)
            core.check()
        core.check()
        return self

    def receive(self, frame, payloads=()):
        self.core.receive(decode_broker(encode(frame)), payloads, self.now)
        self.core.check()

    def say(self, *commands, payloads=()):
        self.receive(self.broker.frame(*commands), payloads)

    def submit(self, plan=None, body=b"body", frames=(), parent=None, key=None):
        return self.core.submit(plan or plan_of(), body, frames, self.now, parent, key)

    def reopen(self, epoch=None):
        """The connection is lost, and opened again."""
        if epoch is not None:
            self.broker.restart(epoch)
        self.core.broken(self.now)
        return self.turn(self.now + 1.0)


def result_of(task, body=b"done", *, status=Status.RESULT, **fields):
    return Result(task, status, body, **fields)


class ScriptedBroker:
    """A ROUTER in a thread. *answer* gets each call: `(value,)`, a Result, an Accepted or None.

    What was answered with None waits in `left` for `give`; an Accepted is of that call alone.
    """

    def __init__(
        self,
        answer: Callable[..., Any] | None = None,
        endpoint="tcp://127.0.0.1:*",
        epoch=EPOCH,
        **welcome,
    ):
        self.answer = answer or echo
        self.ends: dict[bytes, BrokerEnd] = {}
        self.answers: dict[str, Any] = {}
        self.epoch = epoch
        self.welcome = welcome
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        # A ROUTER drops what is over its mark: of a thousand answers some came three seconds later.
        self._router.setsockopt(zmq.SNDHWM, 0)
        self._router.bind(endpoint)
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._control = self._context.socket(zmq.PAIR)
        self._control.bind("inproc://control")
        self._inner = self._context.socket(zmq.PAIR)
        self._inner.connect("inproc://control")
        self.left: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._inner, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._inner in ready:
                todo = self._inner.recv_pyobj()
                if todo is None:
                    return
                rid, task, value = todo
                self._give(rid or next(iter(self.ends)), task, value)
                continue
            rid, control, *payloads = self._router.recv_multipart()
            # A broker's memory can be written to, as that of a frame can.
            payloads = [bytearray(payload) for payload in payloads]
            frame = decode_peer(control)
            end = self.ends.setdefault(rid, BrokerEnd(self.epoch, **self.welcome))
            end.answers = self.answers
            before = len(end.submits)
            for reply in end.hear(frame, payloads):
                self._router.send_multipart([rid, encode(reply)])
            for submit in end.submits[before:]:
                args, kwargs = load(submit.body, end.payloads[submit.task])
                outcome = self.answer(end.calls[submit.task], args, kwargs)
                if outcome is not None:
                    self._give(rid, submit.task, outcome)
                else:
                    self.left.put(submit.task)

    def _give(self, rid, task, outcome):
        end = self.ends[rid]
        if isinstance(outcome, Accepted):
            accepted = end.frame(Accepted([(task, task)]))
            self._router.send_multipart([rid, encode(accepted)])
            return
        end.tasks.pop(task, None)
        if isinstance(outcome, Result):
            frames = ()
            result = Result(task, outcome.status, outcome.body, 0, "fake/0", 1)
        else:
            body, frames = dump(outcome[0])
            result = Result(task, Status.RESULT, body, len(frames), "fake/0", 1)
        self._router.send_multipart([rid, encode(end.frame(result)), *frames])

    def give(self, value, task=None, rid=None):
        """Give the outcome of a call that was left for later, by default of the oldest."""
        task = self.left.get(timeout=DEADLINE_S) if task is None else task
        self._control.send_pyobj((rid, task, (value,)))

    def close(self):
        self._control.send_pyobj(None)
        self._thread.join()
        for socket in (self._router, self._control, self._inner):
            socket.close(0)
        self._context.term()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def echo(call, args, kwargs):
    return (args[0] if args else None,)


def unpickled_elsewhere(monkeypatch, kind):
    """Return the class as a process has it that has never seen it."""
    stream = capture(kind).code.stream
    for known in ("_DYNAMIC_CLASS_TRACKER_BY_ID", "_DYNAMIC_CLASS_TRACKER_BY_CLASS"):
        monkeypatch.setattr(cloudpickle.cloudpickle, known, {})
    return load_function(stream)
