"""The whole system as one value, and all that can happen next.

A state names the core of each process, what stands in each direction of each connection, the late
frames of a dead connection, what the properties remember, and which moves are left. Nothing takes
time but a wait, which is possible only when whatever can be delivered has been.
"""

from math import inf
from typing import Any, NamedTuple

from tests.model.boards import FROZEN, NOBODY, seen_by_host, told_by_host
from tests.model.peers import PeerFacts
from tests.model.processes import BrokerFacts, Event
from tests.model.properties import (
    Call,
    Load,
    Start,
    Violation,
    copies_hold,
    limits_hold,
    loaded,
    must_hold,
    resolved,
    started,
    strict_limits_hold,
)
from tests.model.scenarios import BUDGETS, Scenario
from tests.model.store import Store
from wire.errors import Code

WAIT_SLICES_MAX = 12
AT_ONCE_MAX = 500
BOTH, UP = "both ways", "up"
HUNG = "hung"
# The incarnation of the first peer; the broker's own client has the number of its epoch.
PEERS_FROM = 100


class Peer(NamedTuple):
    """A client or actor, and its connection."""

    core: int
    # The process of this place, counted from 1, and its connection.
    process: int = 1
    connection: int = 1
    # Which way its connection delivers nothing: BOTH, or UP to the broker; and whether its process
    # does nothing, or its runs alone do something.
    blocked: str = ""
    halted: str = ""
    # Whether the broker has given it up, hearing nothing: others may run what it had.
    is_given_up: bool = False
    up: tuple[int, ...] = ()
    down: tuple[int, ...] = ()
    # What a dead connection had not delivered: (its number, up, down), or nothing.
    late: tuple[Any, ...] = ()

    @property
    def is_heard(self) -> bool:
        return not self.blocked

    @property
    def hears(self) -> bool:
        return self.core != NOBODY and self.blocked != BOTH and not self.halted


class State(NamedTuple):
    """All there is."""

    broker: int
    epoch: int
    peers: tuple[Peer, ...]
    calls: tuple[Call, ...]
    # How often each move of BUDGETS is left.
    left: tuple[int, ...]


Move = tuple[Any, ...]


class World:
    """Works on one state: what comes of a move."""

    def __init__(self, scenario: Scenario, store: Store) -> None:
        self.scenario = scenario
        self.store = store
        self.names = [f"C{n + 1}" for n in range(scenario.clients)]
        self.names += [f"A{n + 1}" for n in range(scenario.actors)]
        self.names += ["H1"] if scenario.has_host else []
        self.kinds = [name[0] for name in self.names]
        self.is_actor = [kind == "A" for kind in self.kinds]
        self.victims = [not scenario.victims or name in scenario.victims for name in self.names]
        self.can = {name: place for place, name in enumerate(BUDGETS)}
        # What brokers and hosts are told at their birth; nothing where no limit is strict.
        self.strictly = {"is_strict": True} if scenario.is_strict else {}
        # What was sent, for a history: (from, to, message).
        self.log: list[tuple[str, str, int]] = []
        self.milestones = 0
        # Whether all is left to come to rest, so that time passes that is in no state.
        self.is_resting = False
        self.broker, self.epoch = NOBODY, 0
        self.peers: list[Peer] = []
        self.calls: list[Call] = []
        self.left: list[int] = []

    # --- states

    def load(self, state: State) -> None:
        self.is_resting = False
        self.broker, self.epoch = state.broker, state.epoch
        self.peers, self.calls, self.left = list(state.peers), list(state.calls), list(state.left)

    def freeze_state(self) -> State:
        return State(
            self.broker, self.epoch, tuple(self.peers), tuple(self.calls), tuple(self.left)
        )

    def first(self) -> State:
        """Return the state in which everybody has a session and nothing was submitted."""
        scenario = self.scenario
        self.left = [scenario.moves.get(name, 0) for name in BUDGETS]
        self.calls = [Call() for _ in scenario.calls]
        self.peers = [Peer(self._birth(place, 1)) for place in range(len(self.names))]
        self.broker_start()
        for place in range(len(self.names)):
            self._tell(place, ("hello",))
            self.drain()
        while self.broker_facts.is_recovering or (
            scenario.is_strict and self.broker_facts.is_closed
        ):
            self.slice()
        if scenario.is_under_way:
            for number in range(len(scenario.calls)):
                self.submit(number)
                self.drain()
        return self.freeze_state()

    def incarnation(self, place: int, process: int) -> int:
        return (place + 1) * 100 + process

    def rid(self, place: int, connection: int) -> bytes:
        return b"%s/%d" % (self.names[place].encode(), connection)

    def facts(self, place: int) -> PeerFacts:
        facts: PeerFacts = self.store.facts[self.peers[place].core]
        return facts

    @property
    def broker_facts(self) -> BrokerFacts:
        facts: BrokerFacts = self.store.facts[self.broker]
        return facts

    def _birth(self, place: int, process: int) -> int:
        name, incarnation = self.names[place], self.incarnation(place, process)
        if self.is_actor[place]:
            scenario = self.scenario
            host = self.incarnation(len(self.names) - 1, 1) if scenario.has_host else 0
            numbers = scenario.slots, scenario.prefetch, host
            return self.store.birth("actor", name, incarnation, *numbers)
        if name[0] == "H":
            places = [place for place, is_actor in enumerate(self.is_actor) if is_actor]
            actors = tuple(self.incarnation(place, 1) for place in places)
            return self.store.birth("host", name, incarnation, actors, **self.strictly)
        return self.store.birth("client", name, incarnation)

    # --- what comes of it

    def do(self, move: Move) -> None:
        """Let *move* happen; raise Violation where a property does not hold."""
        name = move[0]
        if name in self.can:
            self.left[self.can[name]] -= 1
        getattr(self, "leave" if name == "drain" else name)(*move[1:])

    def hear(self, place: int) -> None:
        peer = self.peers[place]
        self.peers[place] = peer._replace(down=peer.down[1:])
        self._tell(place, ("hear", peer.down[0]))

    def hear_late(self, place: int) -> None:
        peer = self.peers[place]
        connection, up, down = peer.late
        late = (connection, up, down[1:]) if up or down[1:] else ()
        self.peers[place] = peer._replace(late=late)
        self._tell(place, ("hear", down[0]))

    def broker_hears(self, place: int) -> None:
        peer = self.peers[place]
        self.peers[place] = peer._replace(up=peer.up[1:])
        self._tell_broker(("hear", self.rid(place, peer.connection), peer.up[0]))

    def broker_hears_late(self, place: int) -> None:
        peer = self.peers[place]
        connection, up, down = peer.late
        late = (connection, up[1:], down) if up[1:] or down else ()
        self.peers[place] = peer._replace(late=late)
        self._tell_broker(("hear", self.rid(place, connection), up[0]))

    def hello(self, place: int) -> None:
        self._tell(place, ("hello",))

    hello_again = hello

    def beat(self, place: int) -> None:
        self._tell(place, ("beat",))

    def submit(self, number: int) -> None:
        client, kind = self.scenario.calls[number]
        waits = self.left[self.can["wait"]] if kind == "warm" else 0
        self.calls[number] = self.calls[number]._replace(is_submitted=True, waits=waits)
        self._tell(client, ("submit", kind))

    def cancel(self, number: int) -> None:
        client = self.scenario.calls[number][0]
        self.calls[number] = self.calls[number]._replace(is_canceled=True)
        self._tell(client, ("cancel", self._own_number(number)))

    def enter(self, place: int, token: Any) -> None:
        self._tell(place, ("enter", token))

    def finish(self, place: int, token: Any, follows: bool) -> None:
        self._tell(place, ("finish", token, follows))

    def fail(self, place: int, token: Any, is_final: bool) -> None:
        self.calls = [call.failed(token, is_final) for call in self.calls]
        self._tell(place, ("fail", token, is_final))

    def look(self, place: int) -> None:
        self._tell(place, ("look",))

    def broker_looks(self) -> None:
        self._tell_broker(("look",))

    def ask(self, place: int, token: Any) -> None:
        self._tell(place, ("ask", token))

    def release(self, place: int, token: Any) -> None:
        self._tell(place, ("release", token))

    def reacquire(self, place: int, token: Any) -> None:
        self._tell(place, ("reacquire", token))

    def relabel(self, place: int, memory: int) -> None:
        self._tell(place, ("relabel", memory))

    def pause(self, place: int) -> None:
        self._tell(place, ("pause", True))

    def resume(self, place: int) -> None:
        self._tell(place, ("pause", False))

    def leave(self, place: int) -> None:
        self._tell(place, ("drain",))

    def force(self, number: int) -> None:
        client = self.scenario.calls[number][0]
        self.calls[number] = self.calls[number]._replace(is_canceled=True)
        self._tell(client, ("cancel", self._own_number(number), True))

    def take_back(self, token: Any) -> None:
        self._tell_broker(("take_back", token))

    def heal(self, place: int) -> None:
        self.peers[place] = self.peers[place]._replace(blocked="")

    def stall(self, place: int) -> None:
        self.peers[place] = self.peers[place]._replace(blocked=BOTH)

    def mute(self, place: int) -> None:
        self.peers[place] = self.peers[place]._replace(blocked=UP)

    def freeze(self, place: int) -> None:
        self.peers[place] = self.peers[place]._replace(halted=FROZEN)

    def hang(self, place: int) -> None:
        self.peers[place] = self.peers[place]._replace(halted=HUNG)

    def go_on(self, place: int) -> None:
        self.peers[place] = self.peers[place]._replace(halted="")
        self._tell(place, ("go_on", *(told_by_host(self, place) or (-inf,))))

    def cut(self, place: int, fate: bool) -> None:
        peer = self.peers[place]
        self.peers[place] = self._reconnected(peer, fate)

    def repeat(self, place: int, way: str) -> None:
        """Let the next frame arrive, and once more."""
        peer = self.peers[place]
        frames = getattr(peer, way)
        self.peers[place] = peer._replace(**{way: (frames[0], *frames)})

    def lose(self, place: int, way: str) -> None:
        peer = self.peers[place]
        self.peers[place] = peer._replace(**{way: getattr(peer, way)[1:]})

    def broker_kill(self, fate: bool) -> None:
        self.broker = NOBODY
        self.peers = [self._reconnected(peer, fate) for peer in self.peers]

    def broker_start(self) -> None:
        self.epoch += self.scenario.epoch_step if self.epoch else 1
        self.broker = self.store.birth("broker", self.epoch, **self.strictly)

    def actor_kill(self, place: int, fate: bool) -> None:
        peer, facts = self.peers[place], self.facts(place)
        self._die(place, fate)
        if self.scenario.has_host:
            incarnation = self.incarnation(place, peer.process)
            by_itself = () if facts.doomed is None else (facts.doomed,)
            self._tell(len(self.names) - 1, ("died", incarnation, facts.board, *by_itself))

    def _die(self, place: int, fate: bool) -> None:
        """End a process; what it said comes late, or never."""
        peer = self.peers[place]
        late = (peer.connection, peer.up, ()) if fate and peer.up else ()
        self.peers[place] = peer._replace(
            core=NOBODY,
            connection=peer.connection + 1,
            blocked="",
            halted="",
            is_given_up=False,
            up=(),
            down=(),
            late=late,
        )

    def spawn(self, place: int) -> None:
        """Let another process take the place."""
        peer = self.peers[place]
        process = peer.process + 1
        self.peers[place] = peer._replace(core=self._birth(place, process), process=process)
        if self.scenario.has_host:
            self._tell(len(self.names) - 1, ("spawned", self.incarnation(place, process)))

    def client_kill(self, place: int, fate: bool) -> None:
        for number, (client, _) in enumerate(self.scenario.calls):
            if client == place:
                call = self.calls[number]
                self.calls[number] = call._replace(is_submitted=True, is_canceled=True)
        self._die(place, fate)

    def wait(self) -> None:
        """Let time pass until it makes a difference to the broker; at least a heartbeat."""
        before = self.milestones
        self.slice()
        rest = self.freeze_state()
        for _ in range(WAIT_SLICES_MAX - 1):
            if self.milestones != before:
                return
            self.slice()
        if self.milestones == before:
            self.load(rest)

    def slice(self) -> None:
        """Let a second pass for everybody, and all that is said then arrive."""
        for place, peer in enumerate(self.peers):
            if peer.core == NOBODY:
                continue
            if peer.halted:
                self._tell(place, ("halted",))
            else:
                self._tell(place, ("time", *told_by_host(self, place), *seen_by_host(self, place)))
        self._tell_broker(("time",))
        self.drain()

    def drain(self) -> None:
        """Deliver in a fixed order whatever can be delivered."""
        for _ in range(AT_ONCE_MAX):
            for place, peer in enumerate(self.peers):
                if peer.up and peer.is_heard:
                    self.broker_hears(place)
                    break
                if peer.down and peer.hears:
                    self.hear(place)
                    break
            else:
                return
        raise Violation("somebody spins: time stands still")

    # --- one core after another

    def _reconnected(self, peer: Peer, fate: bool) -> Peer:
        """Give *peer* a new connection; what stood in the old one comes late, or never."""
        is_late = fate and (peer.up or peer.down)
        return peer._replace(
            connection=peer.connection + 1,
            blocked="",
            up=(),
            down=(),
            late=(peer.connection, peer.up, peer.down) if is_late else (),
        )

    def _tell(self, place: int, event: Event) -> None:
        """Let *event* happen to a peer, and send what it says."""
        peer = self.peers[place]
        step = self.store.step(peer.core, event)
        must_hold(not step.failure, step.failure)
        said = tuple(number for _, number in step.sends)
        self.log += [(self.names[place], "B", number) for number in said]
        is_connected = self.broker != NOBODY
        self.peers[place] = peer._replace(
            core=step.to, up=peer.up + said if is_connected else peer.up
        )
        for news in step.news:
            self._hear_news(place, news)
        if self.is_actor[place] and self.facts(place).limited:
            limits_hold(self)
        if self.is_actor[place] and self.facts(place).has_copy:
            copies_hold(self)
        if said and not is_connected:
            self._tell(place, ("broken", said))
        elif self.is_actor[place] and self.facts(place).is_over:
            self.milestones += bool(self.strictly)
            self.actor_kill(place, True)
        if self.strictly and self.is_actor[place]:
            strict_limits_hold(self)

    def _hear_news(self, place: int, news: Event) -> None:
        if news[0] == "load":
            number = self._call_number(news[1] // 100 - 1, news[2])
            peer = self.peers[place]
            self.calls[number] = loaded(self, number, Load(place, peer.process, peer.is_given_up))
        elif news[0] == "start":
            _, client, task, token = news
            if client < PEERS_FROM:
                return  # The broker's own call, which enters a named actor again.
            number = self._call_number(client // 100 - 1, task)
            peer = self.peers[place]
            is_fenced = peer.is_given_up or self.calls[number].is_fenced_in(place, peer.process)
            start = Start(token, place, peer.process, is_fenced)
            self.calls[number] = started(self, number, start)
        elif news[0] == "outcome":
            _, task, result, body = news
            number = self._call_number(place, task)
            self.calls[number] = resolved(self, number, result, body)
        elif news[0] == "occupied":
            is_circle = news[1] != Code.DEADLOCK or any(
                self.facts(other).asking for other, is_actor in enumerate(self.is_actor) if is_actor
            )
            must_hold(is_circle, "somebody is told of a circle who waits for nobody that waits")
        elif news[0] == "kill":
            place, process = news[1] // 100 - 1, news[1] % 100
            if self.peers[place].process == process and self.peers[place].core != NOBODY:
                self.milestones += bool(self.strictly)
                self.actor_kill(place, True)

    def _tell_broker(self, event: Event) -> None:
        """Let *event* happen to the broker, and send what it says."""
        step = self.store.step(self.broker, event)
        must_hold(not step.failure, step.failure)
        self.broker = step.to
        self.milestones += len(step.news)
        nowhere: dict[bytes, None] = {}
        for rid, number in step.sends:
            name, _, connection = rid.partition(b"/")
            place = self.names.index(name.decode())
            peer = self.peers[place]
            self.log.append(("B", self.names[place], number))
            if peer.core != NOBODY and int(connection) == peer.connection:
                self.peers[place] = peer._replace(down=(*peer.down, number))
            elif not (peer.late and peer.late[1] and peer.late[0] == int(connection)):
                # As long as there is something to read the broker's end looks alive.
                nowhere[rid] = None
        self._fence()
        for rid in nowhere:
            self._tell_broker(("unreachable", rid))

    def _fence(self) -> None:
        """Note whom the broker gave up while it heard nothing, and take that back."""
        broker = self.broker_facts
        for place, peer in enumerate(self.peers):
            if not self.is_actor[place]:
                continue
            if self.incarnation(place, peer.process) in broker.actors:
                if peer.is_given_up:
                    self.peers[place] = peer._replace(is_given_up=False)
            elif (
                (peer.blocked or peer.halted) and not broker.is_recovering and not peer.is_given_up
            ):
                self.peers[place] = peer._replace(is_given_up=True)
                self.calls = [call.fenced(place, peer.process) for call in self.calls]

    def is_wanted(self, token: Any) -> bool:
        """Tell whether somebody waits for the outcome of a run: also the broker, for its own."""
        owners = [call for call in self.calls if any(one.token == token for one in call.starts)]
        return not owners or any(call.is_wanted for call in owners)

    def _own_number(self, number: int) -> int:
        """Return how the client itself counts a call."""
        client = self.scenario.calls[number][0]
        return sum(1 for other, _ in self.scenario.calls[: number + 1] if other == client)

    def _call_number(self, client: int, task: int) -> int:
        mine = [n for n, (owner, _) in enumerate(self.scenario.calls) if owner == client]
        return mine[task - 1]
