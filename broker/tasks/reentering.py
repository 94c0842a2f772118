"""Which named actors are entered again before anybody calls them (protocol.md section 9.10).

The broker calls them itself, as a client of its own that nobody speaks for. The rule that must not
be broken: its calls enter and do nothing more, and their outcomes are told to nobody.
"""

from typing import TYPE_CHECKING, Final

from msgspec import structs

from broker.facts.peers import Client
from broker.facts.task import State, Task
from broker.tasks import naming

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.tasks.naming import NamedActor

# How the broker's own client is called for people.
NAME: Final = "broker"


def look(broker: "Broker", record: "NamedActor") -> None:
    """Have an actor entered again that was lost, unless a call that waits will do that."""
    if record.home is not None or record.is_shut:
        return
    if record.generation == naming.NEVER or any(shape.count for shape in record.shapes):
        return  # The first call of whoever made it enters it, or it is about to be.
    client = own_client(broker)
    client.number += 1
    task = Task(client, client.number, State.QUEUED, broker.ticked_at)
    client.tasks[task.number] = task
    call = structs.replace(
        record.call, function=b"", method="", timeout_s=None, limits={}, durable=False
    )
    task.template = naming.join(broker, call, record.blob)
    naming.know(broker, record, task.template)
    record.entry = task
    broker.backlog.push(task)


def own_client(broker: "Broker") -> "OwnClient":
    """Return the client that the broker is itself; another one with each start."""
    client = broker.named.own
    if client is None:
        client = broker.named.own = OwnClient(broker.epoch, broker.ticked_at)
    broker.clients[client.incarnation] = client
    return client


class OwnClient(Client):
    """Nobody who is connected; so it is never gone, and is told nothing."""

    __slots__ = ("number",)

    def __init__(self, incarnation: int, now: float) -> None:
        """Begin without calls."""
        super().__init__(incarnation, now)
        self.name = NAME
        self.is_left = True
        self.number = 0
