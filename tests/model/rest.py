"""The end of every history: all heals, time passes, and nothing may be left open."""

from tests.model.processes import MEMORY
from tests.model.properties import Violation
from tests.model.world import NOBODY, World
from wire.session import State

SLICES_MAX = 40


def come_to_rest(world: World) -> None:
    """Heal everything and let time pass, and demand that all is over and idle.

    A run ends by itself, but one that nobody wants only when it is told.
    """
    world.is_resting = True
    if world.broker == NOBODY:
        world.broker_start()
    for place, peer in enumerate(world.peers):
        if peer.core == NOBODY and world.is_actor[place]:
            world.spawn(place)
        if peer.blocked:
            world.heal(place)
        if peer.halted:
            world.go_on(place)
    left = ""
    for _ in range(SLICES_MAX):
        for place in range(len(world.peers)):
            finish_here(world, place)
        world.drain()
        left = unrest(world)
        if not left:
            return
        world.slice()
    raise Violation(f"does not come to rest: {left}")


def finish_here(world: World, place: int) -> None:
    while world.peers[place].late and world.peers[place].late[1]:
        world.broker_hears_late(place)
    while world.peers[place].late and world.peers[place].core != NOBODY:
        world.hear_late(place)
    if world.is_actor[place] and world.peers[place].core == NOBODY:
        world.spawn(place)
    if world.is_actor[place]:
        for token in world.facts(place).loading:
            world.enter(place, token)
        if world.facts(place).is_paused:
            world.resume(place)
        if world.facts(place).memory != MEMORY[0]:
            world.relabel(place, MEMORY[0])
        for token, _, is_stopped in world.facts(place).runs:
            # What nobody wants runs until it is told.
            is_asking = token in world.facts(place).asking
            if not is_asking and (is_stopped or world.is_wanted(token)):
                world.finish(place, token, False)


def unrest(world: World) -> str:
    """Return what is not yet as it must be in the end."""
    for number, call in enumerate(world.calls):
        if call.is_wanted:
            return f"call {number + 1} has no outcome"
    broker = world.broker_facts
    if broker.unrest or broker.is_recovering:
        return f"the broker has {broker.unrest or 'a window'}"
    living = {}
    for place, peer in enumerate(world.peers):
        if peer.core == NOBODY:
            continue
        facts, name = world.facts(place), world.names[place]
        if facts.state is not State.OPEN or facts.unrest or facts.runs or facts.loading:
            return f"{name} has {facts.unrest or 'no session'}"
        if world.is_actor[place]:
            incarnation = world.incarnation(place, peer.process)
            living[incarnation] = world.scenario.slots + facts.ahead
    if broker.actors != living:
        return f"credit is {broker.actors} and must be {living}"
    return ""
