"""What is said to a QUERY: a question is answered, an order is passed on.

The rule that must not be broken: whoever asks and does not read costs the broker a bounded amount,
and is told so with its next question.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from broker.events import defining, explain, residing
from broker.facts import orders
from broker.facts.outbox import answer, say_when_written
from broker.facts.peers import Client, Session
from broker.placing import environments
from broker.tasks import dead, durable
from wire import codec
from wire.messages import Answer, Query

if TYPE_CHECKING:
    from broker.core import Broker

# Octets of answers on their way to one client. To ask is short, and a list may be long.
UNREAD_BYTES_MAX: Final = 64 * 2**20


def query(
    broker: "Broker",
    session: Session,
    command: Query,
    own: Sequence[Any],  # noqa: ARG001
    now: float,
) -> None:
    """Answer a question or an order; what makes no sense gets `{"error": text}`."""
    client, what = session.peer, command.what
    assert isinstance(client, Client)
    body: dict[str, Any]
    if what in orders.COMMANDS:
        orders.query(broker, session, command)
    elif what in defining.ORDERS:
        defining.order(broker, session, command, now)
    elif what in durable.ORDERS:
        durable.order(broker, session, command)
    elif what in dead.ORDERS:
        body = dead.order(broker, command)
        say_when_written(broker, session, Answer(command.request, codec.encode(body)))
    elif what == residing.KILL:
        residing.query(broker, session, command)
    elif what == "environment-retry":
        body = environments.retry(broker, command.argument)
        broker.say(session, Answer(command.request, codec.encode(body)))
    elif unread_bytes(session) >= UNREAD_BYTES_MAX:
        body = {"error": f"{session.answers_bytes:,} octets of answers were not read here yet"}
        broker.say(session, Answer(command.request, codec.encode(body)))
    elif what in residing.QUERIES:
        residing.query(broker, session, command)
    else:
        body = explain.answer(broker, client, what, command.argument, now)
        answer(broker, session, Answer(command.request, codec.encode(body)))


def unread_bytes(session: Session) -> int:
    """Return how many octets of answers are on their way to a client."""
    answers = session.answers
    while answers and answers[0][0] <= session.acked:
        session.answers_bytes -= answers.popleft()[1]
    return session.answers_bytes
