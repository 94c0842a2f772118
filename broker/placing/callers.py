"""Whom an environment is kept for that is kept for the clients of one process alone.

Nobody else can ever call it, so its copies go with the last of these clients. The rule that must
not be broken: nothing is given up while somebody who called it may call it again.
"""

from typing import TYPE_CHECKING, Final

from wire.parts import Environment

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.facts.peers import Client
    from broker.placing.copies import Record

# So many environments of which nobody knows anything any more are remembered before one looks.
UNKNOWN_MAX: Final = 64


class Callers:
    """The clients that know how to call such environments, by incarnation."""

    __slots__ = ("abandoned", "by_client", "by_environment")

    def __init__(self) -> None:
        """Begin with none."""
        self.by_client: dict[int, set[str]] = {}
        self.by_environment: dict[str, set[int]] = {}
        # Those whose last client is gone for good.
        self.abandoned: set[str] = set()

    def check(self) -> None:
        """Assert that both sides say the same, and that who is called is not abandoned."""
        assert all(self.by_client.values())
        assert all(self.by_environment.values())
        pairs = {(one, name) for one, names in self.by_client.items() for name in names}
        assert pairs == {(one, name) for name, all_ in self.by_environment.items() for one in all_}
        assert self.abandoned.isdisjoint(self.by_environment)


def came(broker: "Broker", environment: Environment, client: "Client") -> None:
    """Note that *client* knows how to call *environment*."""
    if not environment.reuse.is_of_client:
        return
    callers = broker.callers
    callers.by_client.setdefault(client.incarnation, set()).add(environment.id)
    callers.by_environment.setdefault(environment.id, set()).add(client.incarnation)
    callers.abandoned.discard(environment.id)
    prune(broker)


def left(broker: "Broker", client: "Client") -> None:
    """Have what was kept for *client* given up, unless others of its process are here."""
    callers, known = broker.callers, broker.environments
    for identity in callers.by_client.pop(client.incarnation, ()):
        others = callers.by_environment[identity]
        others.discard(client.incarnation)
        if others:
            continue
        del callers.by_environment[identity]
        record = known.records.get(identity)
        if record is not None:
            callers.abandoned.add(identity)
            known.look_at(record, broker.ticked_at)
    prune(broker)


def is_abandoned(broker: "Broker", record: "Record") -> bool:
    """Tell whether nobody is left who could call it, and nothing that was submitted waits."""
    return record.environment.id in broker.callers.abandoned and not record.waiting


def prune(broker: "Broker") -> None:
    """Forget environments that the broker does not know any more; now and then."""
    callers, known = broker.callers, broker.environments.records
    callers.abandoned &= known.keys()
    if len(callers.by_environment) < 2 * len(known) + UNKNOWN_MAX:
        return
    for identity in callers.by_environment.keys() - known.keys():
        for incarnation in callers.by_environment.pop(identity):
            names = callers.by_client[incarnation]
            names.discard(identity)
            if not names:
                del callers.by_client[incarnation]
