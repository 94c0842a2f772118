"""Which key is bound to which actor: sticky tasks (protocol.md section 11.1).

A key is bound to an actor's name, which a new process of that name keeps. The rule that must not be
broken: a burst with one new key binds once, so a binding counts from the assignment that makes it.
Required labels always hold as well: a binding only ever narrows who may have a task.
"""

from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Final

from broker.facts.peers import Actor
from broker.facts.task import State, Task
from broker.facts.unmet import unmet
from broker.tasks import forgetting, lifecycle
from broker.waiting.shapes import Shape
from wire.errors import Code
from wire.labels import satisfies_all

if TYPE_CHECKING:
    from broker.core import Broker

# Bindings that a client tells of in a HELLO, and how long a key or a name may be.
TOLD_MAX: Final = 4_096
KEY_LENGTH_MAX: Final = 256


class Binding:
    """A key and the name of its actor."""

    __slots__ = ("actor", "until")

    def __init__(self, actor: str, until: float) -> None:
        """Bind until then, unless it is used before."""
        self.actor = actor
        self.until = until


class Bindings:
    """All bindings, those used the longest ago first."""

    __slots__ = ("_actors", "_actors_by_name", "_by_actor", "by_key", "is_recovering")

    def __init__(self, actors: dict[int, Actor], actors_by_name: dict[str, Actor]) -> None:
        """Begin with none. *actors* are those that are not lost."""
        self.by_key: dict[str, Binding] = {}
        self._by_actor: dict[str, dict[str, None]] = {}
        self._actors = actors
        self._actors_by_name = actors_by_name
        # Whether an actor that is not here may be about to come back.
        self.is_recovering = True

    def actor_of(self, binding: Binding) -> Actor | None:
        """Return the actor that is meant, None when it is gone."""
        actor = self._actors_by_name.get(binding.actor)
        return actor if actor is not None and actor.incarnation in self._actors else None

    def keys_of(self, actor: Actor) -> dict[str, None]:
        """Return the keys that are bound to *actor*."""
        return self._by_actor.get(actor.name, {})

    def narrow(self, shape: Shape, satisfying: int) -> int:
        """Return who of those that satisfy *shape* may have its tasks, as its key is bound."""
        binding = self.by_key.get(shape.sticky)
        if binding is None:
            return satisfying
        actor = self.actor_of(binding)
        own = satisfying & (1 << actor.number) if actor is not None else 0
        if shape.cost.is_hard or (actor is None and self.is_recovering):
            return own
        if actor is None or actor.closed:
            return satisfying
        return own or satisfying

    def put(self, key: str, actor: str, until: float) -> bool:
        """Bind *key*, or use its binding; tell whether it was bound otherwise, or not at all."""
        binding = self.by_key.pop(key, None)
        if binding is not None and binding.actor == actor:
            binding.until = until
            self.by_key[key] = binding
            return False
        if binding is not None:
            self._forget(key, binding.actor)
        self.by_key[key] = Binding(actor, until)
        self._by_actor.setdefault(actor, {})[key] = None
        return True

    def drop(self, key: str) -> None:
        """Let *key* be bound no more."""
        self._forget(key, self.by_key.pop(key).actor)

    def _forget(self, key: str, actor: str) -> None:
        keys = self._by_actor[actor]
        del keys[key]
        if not keys:
            del self._by_actor[actor]

    @property
    def due_at(self) -> float:
        """When the first may end."""
        return next(iter(self.by_key.values())).until if self.by_key else inf

    def check(self) -> None:
        """Assert that both ways lead to the same bindings, in the order of their ends."""
        assert {key: b.actor for key, b in self.by_key.items()} == {
            key: actor for actor, keys in self._by_actor.items() for key in keys
        }
        ends = [binding.until for binding in self.by_key.values()]
        assert ends == sorted(ends)


def make(broker: "Broker") -> Bindings:
    """Return the bindings of *broker*, which its backlog follows; none yet."""
    bindings = Bindings(broker.actors, broker.actors_by_name)
    broker.backlog.matching.narrow = bindings.narrow
    return bindings


def bind(broker: "Broker", key: str, actor: str, now: float) -> None:
    """Bind *key* to *actor*, since one of its tasks was assigned there."""
    bindings, settings = broker.bindings, broker.settings
    if not bindings.put(key, actor, now + settings.sticky_ttl_s):
        return
    write(broker, "bind", key, actor)
    if len(bindings.by_key) > settings.sticky_keys_max:
        unbind(broker, next(iter(bindings.by_key)))
    broker.backlog.matching.review(key)


def unbind(broker: "Broker", key: str) -> None:
    """Let *key* be bound anew by its next task."""
    broker.bindings.drop(key)
    write(broker, "unbind", key)
    broker.backlog.matching.review(key)


def write(broker: "Broker", *operation: str) -> None:
    # Nothing waits for it: what is lost with the broker is bound anew.
    broker.sequence += 1
    broker.operations.append(operation)


def restore(broker: "Broker", stored: dict[str, str], now: float) -> None:
    """Take over what an earlier broker has stored, each as if it was used just now."""
    for key, actor in stored.items():
        broker.bindings.put(key, actor, now + broker.settings.sticky_ttl_s)


def told(broker: "Broker", known: dict[str, str], now: float) -> None:
    """Take over what a client knows and a broker that was started again does not."""
    for key, actor in islice(known.items(), TOLD_MAX):
        if key not in broker.bindings.by_key and 0 < len(key) <= KEY_LENGTH_MAX:
            bind(broker, key, actor[:KEY_LENGTH_MAX], now)


def review(broker: "Broker", actor: Actor) -> None:
    """Look anew at who may have what is bound to *actor*, which closed, or opened, or came."""
    for key in broker.bindings.keys_of(actor):
        broker.backlog.matching.review(key)


def lost(broker: "Broker", actor: Actor, now: float) -> None:
    """Let the time of what is bound to *actor* begin anew: it may come back."""
    for key in list(broker.bindings.keys_of(actor)):
        broker.bindings.put(key, actor.name, now + broker.settings.sticky_ttl_s)


def end_window(broker: "Broker") -> None:
    """Look anew at what waits for an actor that did not come back."""
    bindings = broker.bindings
    bindings.is_recovering = False
    for key, binding in bindings.by_key.items():
        if bindings.actor_of(binding) is None:
            broker.backlog.matching.review(key)


def tick(broker: "Broker", now: float) -> None:
    """End the bindings whose time is over, and with them what waits for an actor that is gone."""
    bindings = broker.bindings
    while bindings.due_at <= now:
        key, binding = next(iter(bindings.by_key.items()))
        actor = bindings.actor_of(binding)
        if actor is not None and is_needed(broker, key, actor):
            bindings.put(key, binding.actor, now + broker.settings.sticky_ttl_s)
            continue
        waiting = [] if actor is not None else waiting_for(broker, key)
        for task in waiting:
            message = (
                f"its key {key!r} is bound to actor {binding.actor}, which has been gone "
                f"for {broker.settings.sticky_ttl_s:g} s"
            )
            forgetting.take_out(broker, task)
            lifecycle.end(broker, task, Code.ACTOR_LOST, message)
        unbind(broker, key)


def is_needed(broker: "Broker", key: str, actor: Actor) -> bool:
    """Tell whether a task with *key* waits, or runs on *actor*."""
    shapes = broker.backlog.matching.by_key.get(key, ())
    return any(shape.count for shape in shapes) or any(
        task.template and task.template.shape.sticky == key for task in actor.assigned.values()
    )


def waiting_for(broker: "Broker", key: str) -> list[Task]:
    """Return the queued tasks that only the actor of *key* may have."""
    return [
        task
        for shape in broker.backlog.matching.by_key.get(key, ())
        if shape.cost.is_hard
        for task in shape.tasks()
        if task.state is State.QUEUED
    ]


def reason(broker: "Broker", task: Task) -> tuple[str, bool]:
    """Say why *task* waits for the actor of its key, and whether that one could ever take it.

    The text is empty when it waits for any.
    """
    assert task.template
    shape = task.template.shape
    binding = broker.bindings.by_key.get(shape.sticky) if shape.sticky else None
    if binding is None:
        return "", True
    actor = broker.bindings.actor_of(binding)
    bound = f"bound to {binding.actor}, which"
    if actor is None:
        is_waiting = shape.cost.is_hard or broker.bindings.is_recovering
        return (f"{bound} is gone", False) if is_waiting else ("", True)
    assert shape.queue
    if actor not in shape.queue.crew.members:
        text = f"{bound} does not satisfy it ({unmet(task, actor)})"
        return (text, False) if shape.cost.is_hard else ("", True)
    if actor.closed:
        is_hard = shape.cost.is_hard
        return (f"{bound} takes no work ({actor.closed})", True) if is_hard else ("", True)
    if not actor.is_open:
        return f"{bound} is silent", True
    return f"{bound} is busy", True


def forbids(broker: "Broker", shape: "Shape", actor: "Actor") -> bool:
    """Tell whether a task of *shape* must not go to *actor*, as its key is bound elsewhere."""
    bindings = broker.bindings
    binding = bindings.by_key.get(shape.sticky)
    if binding is None or binding.actor == actor.name:
        return False
    if shape.cost.is_hard or bindings.is_recovering:
        return True
    bound = bindings.actor_of(binding)
    return bound is not None and not bound.closed and satisfies_all(bound.labels, shape.desires)


def actor_named(broker: "Broker", task: Task) -> str:
    """Return the name of the only actor that may have *task*, since its key is bound to it."""
    assert task.template
    shape = task.template.shape
    binding = broker.bindings.by_key.get(shape.sticky) if shape.sticky else None
    if binding is None or not reason(broker, task)[0]:
        return ""
    return binding.actor
