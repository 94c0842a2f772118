"""What DEATH and BYE do: a process is dead, or leaves (protocol.md sections 7.17 and 7.19)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from broker.events import doubts, liveness
from broker.facts import orders
from broker.facts.peers import Actor, Client, Session
from broker.holding import fences
from broker.placing import environments
from broker.tasks import forgetting
from wire.errors import Code
from wire.messages import Bye, ByeAck, Death
from wire.parts import Failure

if TYPE_CHECKING:
    from broker.core import Broker

# So much is told of what a host adds to a death.
REASON_MAX: Final = 200


def death(
    broker: "Broker", session: Session, command: Death, own: Sequence[Any], now: float
) -> None:
    """Queue again what a dead actor had; each run as its host says that it stood."""
    actor = broker.actors.get(command.incarnation)
    forgetting.bury(broker, command.incarnation)
    if command.signal is not None:
        how = f"died of signal {command.signal}"
    elif command.exit_code is not None:
        how = f"ended with exit status {command.exit_code}"
    else:
        how = "died"
    if command.reason:
        how += f" ({command.reason[:REASON_MAX]})"
    # Beside others nobody can tell whose fault it was.
    blame = "shared" if len(command.started) > 1 else "crash"
    started = dict.fromkeys(command.started, blame) | dict.fromkeys(
        (*command.finished, *command.beside), "innocent"
    )
    if actor is None:
        fences.dead(broker, command.incarnation)
        doubts.died(broker, command.incarnation, started, f"its actor {how}", now)
        return
    entering = {
        task.call.environment.id: task.call.environment
        for token in command.entering
        if (task := broker.tokens.get(token)) and task.actor is actor and task.template
        if task.call.environment is not None
    }
    liveness.lose(broker, actor, f"actor {actor.name} {how}", now, started=started)
    for environment in entering.values():
        reason = f"actor {actor.name} {how} while it entered environment {environment.name}"
        failed = Failure(Code.ENVIRONMENT_FAILED, "ActorLost", reason)
        environments.failed(broker, environment, actor, failed, now)


def bye(broker: "Broker", session: Session, command: Bye, own: Sequence[Any], now: float) -> None:
    """Let a peer leave: nothing of it stays here."""
    peer = session.peer
    if isinstance(peer, Client):
        broker.note("client_left", client=peer.name, tasks=len(peer.tasks))
        liveness.forget_client(broker, peer, may_return=False)
    elif isinstance(peer, Actor):
        tasks = len(peer.assigned)
        broker.note("actor_left", actor=peer.name, reason=command.reason, tasks=tasks)
        forgetting.bury(broker, peer.incarnation)
        if broker.orders:
            orders.left(broker, peer)
        liveness.lose(broker, peer, f"actor {peer.name} left", now, started={}, leaves=True)
    else:
        broker.hosts.pop(peer.incarnation, None)
        fences.host_gone(broker, peer)
        broker.note("host_left", host=peer.name, reason=command.reason)
    broker.say(session, ByeAck())
    session.is_closing = True
