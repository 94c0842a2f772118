"""Every event in every state of a session, at both ends and for each kind of peer.

Either the tables say what follows, which is tried with the real cores and looked for in the fixed
seeds, or they say why it cannot be.
"""

from itertools import product

import pytest

from actor.core import ActorCore
from actor.settings import HostSettings
from actor.settings import Settings as ActorSettings
from actor.supervision import HostCore
from sdk.calls.call import Settings as ClientSettings
from sdk.core import ClientCore
from tests.broker.conversation import Conversation, Talker, actor_hello
from tests.sim.sessions import BROKER_EVENTS, BROKER_STATES, PEER_EVENTS, PEER_STATES, PEERS
from wire.errors import Code, RemoteProtocolError
from wire.messages import PROTOCOL, Beat, ClientHello, Error, Frame, HostHello, Welcome, Who
from wire.session import State

pytestmark = pytest.mark.timeout(900)

CLOSED, OPENING, OPEN, ENDED = State.CLOSED, State.OPENING, State.OPEN, State.ENDED
EPOCH = 1_000
WELCOME = Welcome(1.0, 2.0, 5.0, 0.0, [], 100, 2**20, 2**20, 8, 8)
ERROR = Error(Code.BAD_FRAME, "x")
FATAL = Error(Code.NAME_TAKEN, "x", fatal=True)

# What a peer's session is after it; a text says why it cannot be.
NOTHING_SAID = "a closed session says nothing but HELLO, which opens it"
NOT_OPEN = "only an open session waits for something"
ONE_EPOCH = "all frames of a session are of the epoch of its WELCOME"
OVER = "whoever has ended says nothing"
AFTER = {
    CLOSED: {
        "WELCOME": CLOSED,
        "WHO": CLOSED,
        "ERROR": CLOSED,
        "fatal ERROR": ENDED,
        "the next frame": CLOSED,
        "a frame again": CLOSED,
        "that a large one comes": CLOSED,
        "a gap": CLOSED,
        "a frame of another epoch": ONE_EPOCH,
        "an answer to an earlier HELLO": CLOSED,
        "a frame of an earlier session": CLOSED,
        "no connection": NOTHING_SAID,
        "silence": NOT_OPEN,
    },
    OPENING: {
        "WELCOME": OPEN,
        "WHO": "WHO answers a frame of a session, and this one has said none",
        "ERROR": OPENING,
        "fatal ERROR": ENDED,
        # Its WELCOME was lost.
        "the next frame": OPENING,
        "a frame again": "a session that is opening has received nothing",
        "that a large one comes": OPENING,
        "a gap": OPENING,
        # Likewise, and of a new broker.
        "a frame of another epoch": OPENING,
        "an answer to an earlier HELLO": OPENING,
        "a frame of an earlier session": OPENING,
        "no connection": CLOSED,
        "silence": NOT_OPEN,
    },
    OPEN: {
        "WELCOME": OPEN,
        "WHO": CLOSED,
        "ERROR": OPEN,
        "fatal ERROR": ENDED,
        "the next frame": OPEN,
        "a frame again": OPEN,
        "that a large one comes": OPEN,
        "a gap": CLOSED,
        "a frame of another epoch": ONE_EPOCH,
        "an answer to an earlier HELLO": OPEN,
        "a frame of an earlier session": OPEN,
        "no connection": CLOSED,
        "silence": OPENING,
    },
    ENDED: {
        **dict.fromkeys(PEER_EVENTS, ENDED),
        "a frame of another epoch": ONE_EPOCH,
        "no connection": OVER,
        "silence": OVER,
    },
}
# What seeds show too seldom.
RARE_AT_PEERS = {
    "ended": set(PEER_EVENTS),
    "closed": {*PEER_EVENTS} - {"the next frame"},
    "opening": {
        "that a large one comes",
        "ERROR",
        "fatal ERROR",
        "the next frame",
        "a gap",
        "a frame of another epoch",
        "a frame of an earlier session",
    },
    "open": {
        # No host is told of one.
        "that a large one comes",
        "WELCOME",
        "fatal ERROR",
        "a gap",
        "an answer to an earlier HELLO",
        "a frame of an earlier session",
    },
}


def made(kind):
    """Return a core without a session."""
    if kind == "client":
        return ClientCore(ClientSettings(), incarnation=1, now=0.0)
    if kind == "actor":
        return ActorCore(ActorSettings(name="host/0", host=90), incarnation=11, now=0.0)
    settings = HostSettings(name="host", replicas=1, replicas_max=1)
    return HostCore(settings, incarnation=90, pid=1, now=0.0)


def turn(core, now):
    """Let time pass for a core, and let it speak."""
    core.tick(now)
    core.flush(now)
    core.check()


def hear(core, command, *, session, number=0, epoch=EPOCH, now=0.5):
    frame = Frame(PROTOCOL, epoch, session, number, 0, [command])
    arguments = (frame, now) if isinstance(core, HostCore) else (frame, (), now)
    core.receive(*arguments)
    core.check()


def standing(kind, state):
    """Return a core whose session stands so, and is not its first one."""
    core = made(kind)
    turn(core, 0.0)
    hear(core, WELCOME, session=1, now=0.0)
    core.broken(0.0)
    turn(core, 0.4)
    if state is OPENING:
        return core
    hear(core, WELCOME, session=2, now=0.4)
    hear(core, Beat(), session=2, number=1, now=0.4)
    if state is CLOSED:
        core.broken(0.4)
    elif state is ENDED:
        hear(core, FATAL, session=2, now=0.4)
    return core


def happen(core, event):
    """Let it happen to a core."""
    number = core.session.number
    match event:
        case "WELCOME" | "WHO" | "ERROR" | "fatal ERROR":
            told = {"WELCOME": WELCOME, "WHO": Who(), "ERROR": ERROR, "fatal ERROR": FATAL}
            hear(core, told[event], session=number)
        case "the next frame":
            hear(core, Beat(), session=number, number=core.session.received + 1)
        case "a frame again":
            hear(core, Beat(), session=number, number=core.session.received)
        case "that a large one comes":
            hear(core, Beat(10**9), session=number)
        case "a gap":
            hear(core, Beat(), session=number, number=core.session.received + 2)
        case "a frame of another epoch":
            hear(core, Beat(), session=number, number=1, epoch=EPOCH + 1)
        case "an answer to an earlier HELLO":
            hear(core, WELCOME, session=number - 1)
        case "a frame of an earlier session":
            hear(core, Beat(), session=number - 1, number=1)
        case "no connection":
            core.broken(0.5)
        case "silence":
            for tenths in range(5, 100):
                turn(core, tenths / 10)
                if not core.session.is_open:
                    return


POSSIBLE_AT_PEERS = [
    (kind, state, event)
    for kind, state, event in product(PEERS, PEER_STATES, PEER_EVENTS)
    if isinstance(AFTER[state][event], State)
]


@pytest.mark.parametrize(("kind", "state", "event"), POSSIBLE_AT_PEERS, ids=str)
def test_a_peer_does_what_the_table_says(kind, state, event):
    core = standing(kind, state)
    assert core.session.state is state

    happen(core, event)

    assert core.session.state is AFTER[state][event]
    core.check()


# --- at the broker

SAYS_WHO = "WHO"
NOTHING = "nothing"
NONE_KNOWN = "of whom nothing is known no number is older, next or a gap: each is a later one"
ANSWERS = {
    "unknown": {
        "HELLO": "WELCOME",
        "an older HELLO": NONE_KNOWN,
        "the next frame": NONE_KNOWN,
        "a frame again": NONE_KNOWN,
        "that a large one comes": NONE_KNOWN,
        "a gap": NONE_KNOWN,
        "a frame of an earlier session": NONE_KNOWN,
        "a frame of a later session": SAYS_WHO,
        "a frame of another epoch": SAYS_WHO,
        "garbage": "ERROR",
        "no connection": NOTHING,
    },
    "away": {
        "HELLO": "WELCOME",
        "an older HELLO": NOTHING,
        "the next frame": SAYS_WHO,
        "a frame again": SAYS_WHO,
        "that a large one comes": SAYS_WHO,
        "a gap": SAYS_WHO,
        "a frame of an earlier session": SAYS_WHO,
        "a frame of a later session": SAYS_WHO,
        "a frame of another epoch": SAYS_WHO,
        "garbage": "ERROR",
        "no connection": NOTHING,
    },
    "open": {
        "HELLO": "WELCOME",
        "an older HELLO": NOTHING,
        "the next frame": NOTHING,
        "a frame again": NOTHING,
        "that a large one comes": NOTHING,
        "a gap": SAYS_WHO,
        "a frame of an earlier session": NOTHING,
        "a frame of a later session": SAYS_WHO,
        "a frame of another epoch": SAYS_WHO,
        "garbage": "ERROR",
        "no connection": NOTHING,
    },
}
ANSWERS["elsewhere"] = ANSWERS["away"]
ANSWERS["dead"] = {**ANSWERS["unknown"], "HELLO": "fatal ERROR"}
# What comes of the state of a peer; where nothing is said it stays.
THEN = {
    ("unknown", "HELLO"): "open",
    ("away", "HELLO"): "open",
    ("elsewhere", "HELLO"): "open",
    ("open", "a gap"): "away",
    ("open", "no connection"): "away",
}
RARE_AT_BROKER = {
    "unknown": {"a frame of a later session", "garbage", "no connection"},
    "dead": {"a frame of another epoch", "garbage", "no connection"},
    "away": {*BROKER_EVENTS} - {"HELLO", "a gap"},
    "open": {
        "that a large one comes",
        "an older HELLO",
        "a frame of an earlier session",
        "a frame of a later session",
        "a frame of another epoch",
    },
    "elsewhere": {*BROKER_EVENTS} - {"HELLO", "the next frame"},
}


def is_possible(role, state, event):
    # Nobody proves that a client is dead.
    return not (role == "client" and state == "dead") and ANSWERS[state][event] in (
        "WELCOME",
        "ERROR",
        "fatal ERROR",
        SAYS_WHO,
        NOTHING,
    )


POSSIBLE_AT_BROKER = [
    (role, state, event)
    for role, state, event in product(PEERS, BROKER_STATES, BROKER_EVENTS)
    if is_possible(role, state, event)
]


HELLOS = {
    "client": lambda number, name: ClientHello(number, name, "3.11", []),
    "actor": lambda number, name: actor_hello(number, name=name),
    "host": lambda number, name: HostHello(number, name, 4700, {}, []),
}
ELSEWHERE = b"elsewhere"


def peer_in(talk, role, state):
    """Return a peer that stands so with the broker, in a session that is not its first."""
    hello = HELLOS[role](11, "somebody")
    peer = Talker(talk, hello)
    peer.greets()
    for _ in range(2):
        peer.beats()
    match state:
        case "unknown":
            peer.vanishes()
            talk.wait(talk.settings.gil_grace_s)
        case "dead":
            Talker(talk, HELLOS[role](12, "somebody"))
        case "away":
            peer.vanishes()
        case "elsewhere":
            # Its HELLO on a new connection; the old one is still read.
            peer.session += 1
            talk.peers[ELSEWHERE] = peer
            frame = Frame(PROTOCOL, peer.epoch, peer.session, 0, 0, [hello])
            talk.broker.receive(ELSEWHERE, frame, [], talk.now)
            talk.flush()
            peer.sent = 0
    peer.heard = []
    return peer


def comes(talk, peer, event):
    """Let it come to the broker, on the connection that the peer had."""
    frames = {
        "HELLO": (peer.epoch, peer.session + 1, 0),
        "an older HELLO": (peer.epoch, peer.session, 0),
        "the next frame": (peer.epoch, peer.session, peer.sent + 1),
        "a frame again": (peer.epoch, peer.session, peer.sent),
        "that a large one comes": (peer.epoch, peer.session, 0),
        "a gap": (peer.epoch, peer.session, peer.sent + 2),
        "a frame of an earlier session": (peer.epoch, peer.session - 1, 1),
        "a frame of a later session": (peer.epoch, peer.session + 1, 1),
        "a frame of another epoch": (peer.epoch - 1, peer.session, peer.sent + 1),
    }
    if event == "garbage":
        talk.broker.bad(peer.rid, RemoteProtocolError(Code.BAD_FRAME, "x"), talk.now)
        talk.flush()
    elif event == "no connection":
        peer.vanishes()
    else:
        epoch, session, number = frames[event]
        command = peer.hello if "HELLO" in event else Beat(10**9 * ("large" in event))
        peer.sends(Frame(PROTOCOL, epoch, session, number, 0, [command]))


def answer(peer):
    """Name what the peer was answered."""
    outside = [command for frame, command, _ in peer.heard if frame.number == 0]
    if not outside:
        return NOTHING
    (told,) = outside
    if isinstance(told, Error):
        return "fatal ERROR" if told.fatal else "ERROR"
    return "WHO" if isinstance(told, Who) else "WELCOME"


def stands(talk, peer):
    """Name how a peer stands with the broker."""
    broker = talk.broker
    for table in (broker.clients, broker.actors, broker.hosts):
        if peer.incarnation in table:
            session = table[peer.incarnation].session
            if session is None:
                return "away"
            return "open" if session.rid == peer.rid else "elsewhere"
    return "dead" if peer.incarnation in broker.dead else "unknown"


@pytest.mark.parametrize(("role", "state", "event"), POSSIBLE_AT_BROKER, ids=str)
def test_the_broker_answers_what_the_table_says(role, state, event):
    talk = Conversation()
    peer = peer_in(talk, role, state)
    assert stands(talk, peer) == state

    comes(talk, peer, event)

    assert answer(peer) == ANSWERS[state][event]
    assert stands(talk, peer) == THEN.get((state, event), state)


# --- in the seeds


def test_what_is_declared_impossible_does_not_happen_in_the_fixed_seeds(fixed):
    counts = fixed.run_all().counts
    at_peers = set(product(PEERS, PEER_STATES, PEER_EVENTS)) - set(POSSIBLE_AT_PEERS)
    at_broker = set(product(PEERS, BROKER_STATES, BROKER_EVENTS)) - set(POSSIBLE_AT_BROKER)

    assert not [pair for pair in at_peers if counts["{} {}: {}".format(*pair)]]
    assert not [pair for pair in at_broker if counts["broker, {} {}: {}".format(*pair)]]


def test_what_is_possible_and_not_rare_happens_in_the_fixed_seeds(fixed):
    counts = fixed.run_all().counts
    at_peers = [pair for pair in POSSIBLE_AT_PEERS if pair[2] not in RARE_AT_PEERS[pair[1]]]
    at_broker = [pair for pair in POSSIBLE_AT_BROKER if pair[2] not in RARE_AT_BROKER[pair[1]]]

    assert not [pair for pair in at_peers if not counts["{} {}: {}".format(*pair)]]
    assert not [pair for pair in at_broker if not counts["broker, {} {}: {}".format(*pair)]]
