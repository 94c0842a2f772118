"""Every core that was seen, as octets, and every step of one, each taken once."""

import io
import pickle
import traceback
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

from actor.settings import HostSettings
from actor.settings import Settings as ActorSettings
from actor.supervision import Phase
from broker.facts.task import State as TaskState
from broker.settings import Settings as BrokerSettings
from sdk.calls.call import Plan
from sdk.calls.call import Settings as ClientSettings
from tests.model.hosts import HostProcess
from tests.model.peers import ActorProcess, ClientProcess, PeerProcess
from tests.model.processes import BrokerProcess, Event, Message, Process
from wire.codec import encode
from wire.parts import Held, Role, Status
from wire.session import State as SessionState


class Step(NamedTuple):
    """What an event made of a core."""

    to: int
    # (routing id or None, number of the message), in order.
    sends: tuple[tuple[Any, int], ...]
    # What the world must know: starts, outcomes, milestones.
    news: tuple[Event, ...]
    failure: str


PROCESSES: dict[str, Any] = {
    "broker": BrokerProcess,
    "actor": ActorProcess,
    "client": ClientProcess,
    "host": HostProcess,
}


# What never changes stands in a frozen core as a number: settings, and the members of enumerations.
CONSTANTS: list[Any] = [
    member for kind in (SessionState, TaskState, Phase, Held, Role, Status) for member in kind
]
CONSTANT_NUMBERS = {id(constant): number for number, constant in enumerate(CONSTANTS)}


def constant(number: int) -> Any:
    return CONSTANTS[number]


def reduce_constant(value: Any) -> Any:
    number = CONSTANT_NUMBERS.get(id(value))
    if number is None:
        number = CONSTANT_NUMBERS[id(value)] = len(CONSTANTS)
        CONSTANTS.append(value)
    return constant, (number,)


def rebuild_shapes(items: list[Any]) -> WeakValueDictionary[Any, Any]:
    return WeakValueDictionary(items)


def rebuild_keys(keys: list[Any]) -> WeakKeyDictionary[Any, None]:
    return WeakKeyDictionary(dict.fromkeys(keys))


REDUCERS: dict[type, Callable[[Any], Any]] = {
    **dict.fromkeys((BrokerSettings, ActorSettings, HostSettings, ClientSettings), reduce_constant),
    **{type(member): reduce_constant for member in CONSTANTS},
    Plan: reduce_constant,
    WeakKeyDictionary: lambda shapes: (rebuild_keys, (list(shapes),)),
    WeakValueDictionary: lambda shapes: (rebuild_shapes, (list(shapes.items()),)),
    # Its own way to be pickled is going away.
    count: lambda counter: (count, (int(repr(counter)[6:-1]),)),
}


def describe(error: Exception) -> str:
    """Say what went wrong, and in which line."""
    line = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return f"{type(error).__name__} in {line!r} {error}".strip()


class Store:
    """Every core, message and step that was seen, each once."""

    def __init__(self) -> None:
        self.blobs: list[bytes] = []
        self.facts: list[Any] = []
        self.messages: list[Message] = []
        self.taken = 0
        self._numbers: dict[bytes, int] = {}
        self._message_numbers: dict[Message, int] = {}
        self._steps: dict[tuple[int, Event], Step] = {}
        self._births: dict[Event, Step] = {}

    def birth(self, kind: str, *arguments: Any, **options: Any) -> int:
        """Return the number of a process that begins."""
        key = (kind, *arguments, *options)
        step = self._births.get(key)
        if step is None:
            process = PROCESSES[kind].start(*arguments, **options)
            step = self._births[key] = self._keep(kind, process)
        return step.to

    def step(self, number: int, event: Event) -> Step:
        """Let *event* happen to a core."""
        key = (number, event)
        step = self._steps.get(key)
        if step is None:
            self.taken += 1
            kind, state = pickle.loads(self.blobs[number])
            process = PROCESSES[kind].unpack(state)
            try:
                process.act(event, self.messages)
                process.check()
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is the finding.
                step = Step(number, (), (), f"{kind}: {describe(error)}")
            else:
                step = self._keep(kind, process)
            self._steps[key] = step
        return step

    def _keep(self, kind: str, process: Process) -> Step:
        if isinstance(process, PeerProcess):
            process.settle()
        octets = io.BytesIO()
        pickler = pickle.Pickler(octets, 5)
        pickler.dispatch_table = REDUCERS
        pickler.dump((kind, process.pack()))
        blob = octets.getvalue()
        number = self._numbers.get(blob)
        if number is None:
            number = self._numbers[blob] = len(self.blobs)
            self.blobs.append(blob)
            self.facts.append(process.facts())
        sends = tuple(
            (rid, self._message((encode(frame), tuple(map(bytes, payloads)))))
            for rid, frame, payloads in process.sends
        )
        return Step(number, sends, tuple(process.news), "")

    def _message(self, message: Message) -> int:
        number = self._message_numbers.get(message)
        if number is None:
            number = self._message_numbers[message] = len(self.messages)
            self.messages.append(message)
        return number
