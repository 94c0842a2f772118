"""All that can happen next in a world."""

from tests.model.processes import MEMORY
from tests.model.scenarios import BUDGETS, CONNECTION_FAULTS, HALTS
from tests.model.world import NOBODY, Move, World
from wire.session import State

CLOSED, OPEN, OPENING = State.CLOSED, State.OPEN, State.OPENING
KILLS = {"A": "actor_kill", "C": "client_kill"}
UNNOTICED = frozenset({"hear", "hello", "beat"})


def possible(world: World) -> list[Move]:
    """Return the moves of the loaded state, or one of them where the others can wait.

    One can be taken first where no other can hinder it or notice its order: a peer that can do
    nothing but hear, or say HELLO or BEAT, and that no fault can hit any more, changes itself
    and the tail of what it says alone; the broker that answers WHO changes the tail of what
    that peer hears.
    """
    own = [own_moves(world, place) for place in range(len(world.names))]
    has_broker = world.broker != NOBODY
    for place, peer in enumerate(world.peers):
        if may_be_hit(world, place) or peer.blocked or peer.halted or not has_broker:
            continue
        if len(own[place]) == 1 and own[place][0][0] in UNNOTICED:
            return own[place]
        if peer.up and not peer.late:
            event = ("hear", world.rid(place, peer.connection), peer.up[0])
            step = world.store.step(world.broker, event)
            if step.to == world.broker and not step.failure:
                return [("broker_hears", place)]
    for place, peer in enumerate(world.peers):
        if is_prompt(world, place):
            moves = [move for move in own[place] if move[0] in UNNOTICED]
            moves += [("broker_hears", place)] if peer.up else []
            if moves:
                return moves[:1]
    found = [move for moves in own for move in moves]
    if not has_broker:
        found.append(("broker_start",))
    elif world.broker_facts.is_about_to_look:
        found.append(("broker_looks",))
    for place, peer in enumerate(world.peers):
        if has_broker and peer.up and peer.is_heard:
            found.append(("broker_hears", place))
        if has_broker and peer.late and peer.late[1]:
            found.append(("broker_hears_late", place))
        if peer.blocked:
            found.append(("heal", place))
        if peer.halted:
            found.append(("go_on", place))
        if peer.core == NOBODY and world.is_actor[place]:
            found.append(("spawn", place))
    return found + faults(world) if any(world.left) else found


def is_progress(world: World, move: Move) -> bool:
    """Tell whether a history goes on with *move*; one that has no other left must come to rest.

    Faults need not happen, and a run that nobody wants need not end before it is told.
    """
    if move[0] != "finish":
        return move[0] not in BUDGETS
    _, place, token, _ = move
    told = any(run[0] == token and run[2] for run in world.facts(place).runs)
    return told or world.is_wanted(token)


def may_be_hit(world: World, place: int) -> bool:
    """Tell whether a fault that is left can hit a peer, its frames or the broker."""
    if may(world, "broker_kill"):
        return True
    kill = KILLS.get(world.kinds[place], "broker_kill")
    return world.victims[place] and any(
        may(world, name) for name in (kill, *CONNECTION_FAULTS, *HALTS)
    )


def own_moves(world: World, place: int) -> list[Move]:
    peer = world.peers[place]
    if peer.core == NOBODY or peer.halted:
        return []
    facts, moves = world.facts(place), []
    if peer.down and peer.hears:
        moves.append(("hear", place))
    if peer.late and peer.late[2]:
        moves.append(("hear_late", place))
    if world.broker != NOBODY and not peer.blocked:
        is_quiet = not (peer.up or peer.down)
        if facts.state is CLOSED or (facts.state is OPENING and is_quiet):
            moves.append(("hello", place))
        if facts.state is OPEN and is_quiet and not is_known(world, place):
            moves.append(("beat", place))
    if world.is_actor[place]:
        moves += [("enter", place, token) for token in facts.loading]
        moves += [("ask", place, token) for token in facts.may_ask if may(world, "ask")]
        for token, is_released, is_stopped in facts.runs:
            if token in facts.asking:
                continue
            moves.append(("finish", place, token, False))
            if facts.waiting:
                moves.append(("finish", place, token, True))
            if not is_stopped and may(world, "fail"):
                moves += [("fail", place, token, is_final) for is_final in (False, True)]
            if not is_released and not is_stopped and may(world, "release"):
                moves.append(("release", place, token))
            if is_released and may(world, "reacquire"):
                moves.append(("reacquire", place, token))
        if facts.waiting and facts.ahead and may(world, "look"):
            moves.append(("look", place))
        if facts.is_paused:
            moves.append(("resume", place))
        elif may(world, "pause"):
            moves.append(("pause", place))
        if may(world, "drain") and not facts.is_draining:
            moves.append(("drain", place))
        if may(world, "relabel"):
            moves.append(("relabel", place, MEMORY[facts.memory == MEMORY[0]]))
    elif world.kinds[place] == "C":
        mine = [n for n, (client, _) in enumerate(world.scenario.calls) if client == place]
        moves += [("submit", n) for n in mine if not world.calls[n].is_submitted][:1]
        for name in ("cancel", "force"):
            if may(world, name):
                moves += [(name, n) for n in mine if world.calls[n].is_wanted]
    return moves


def is_known(world: World, place: int) -> bool:
    """Tell whether the broker has heard all that a peer said in its session."""
    facts = world.facts(place)
    session = (world.rid(place, world.peers[place].connection), facts.number)
    return world.broker_facts.sessions.get(session) == facts.sent


def is_prompt(world: World, place: int) -> bool:
    """Tell whether what a peer and the broker say to one another is on its way for no time."""
    peer = world.peers[place]
    is_there = peer.hears and peer.is_heard and world.broker != NOBODY
    return is_there and world.names[place] in world.scenario.prompt


def may(world: World, name: str) -> bool:
    return world.left[world.can[name]] > 0


def faults(world: World) -> list[Move]:
    found: list[Move] = []
    fates = world.scenario.fates
    if may(world, "broker_kill") and world.broker != NOBODY:
        has_frames = any(peer.up or peer.down for peer in world.peers)
        found += [("broker_kill", fate) for fate in (fates if has_frames else fates[:1])]
    for place, peer in enumerate(world.peers):
        if not world.victims[place] or peer.core == NOBODY:
            continue
        kill = KILLS.get(world.kinds[place])
        if kill is not None and may(world, kill):
            found += [(kill, place, fate) for fate in (fates if peer.up else fates[:1])]
        if may(world, "cut") and world.broker != NOBODY:
            has_frames = peer.up or peer.down
            found += [("cut", place, fate) for fate in (fates if has_frames else fates[:1])]
        for name in ("stall", "mute"):
            if may(world, name) and not peer.blocked:
                found.append((name, place))
        for name in HALTS:
            if may(world, name) and world.is_actor[place] and not peer.halted:
                found.append((name, place))
        for name in ("repeat", "lose"):
            if may(world, name) and world.broker != NOBODY and not peer.blocked:
                found += [(name, place, "up")] if peer.up else []
                found += [(name, place, "down")] if peer.down else []
        if may(world, "hello_again") and world.facts(place).state is OPENING:
            found.append(("hello_again", place))
    if may(world, "take_back") and world.broker != NOBODY:
        for place, peer in enumerate(world.peers):
            if world.is_actor[place] and peer.core != NOBODY:
                found += [("take_back", token) for token in world.facts(place).scheduled]
    if may(world, "wait") and is_quiet(world):
        found.append(("wait",))
    return found


def is_quiet(world: World) -> bool:
    """Tell whether nothing but time can happen between those that are connected."""
    if world.broker == NOBODY:
        return False
    for place, peer in enumerate(world.peers):
        if peer.core == NOBODY:
            if world.is_actor[place]:
                return False
        elif peer.blocked or peer.halted:
            if (peer.up and peer.is_heard) or (peer.down and peer.hears):
                return False
        else:
            if peer.up or peer.down or world.facts(place).state is not OPEN:
                return False
            facts = world.facts(place)
            if (world.rid(place, peer.connection), facts.number) not in world.broker_facts.sessions:
                return False
    return True
