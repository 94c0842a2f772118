"""Faults of the disk below the journal."""

from typing import TYPE_CHECKING

from tests.sim.faults import down_s, fault

if TYPE_CHECKING:
    from tests.sim.world import World


# How old a copy of the journal is at most.
COPY_S = 5.0


@fault
def disk_full(world: "World") -> bool:
    """Let the disk have no room for a while."""
    ledger = world.ledger
    if ledger is None or ledger.is_full:
        return False
    ledger.is_full = ledger.was_full = True
    world.after(down_s(world), ledger.has_room)
    return True


@fault
def disk_slow(world: "World") -> bool:
    """Let each commit take much longer for a while."""
    ledger = world.ledger
    if ledger is None:
        return False
    ledger.slow_until = world.now + down_s(world)
    return True


@fault
def disk_error(world: "World") -> bool:
    """Let the next write fail in a way that nothing can be said of: the broker ends."""
    ledger = world.ledger
    if ledger is None or not ledger.disk.pending:
        return False
    ledger.fails = True
    return True


@fault
def old_journal(world: "World") -> bool:
    """Take a copy of the journal, and in a while end the broker and put the copy in its place."""
    ledger = world.ledger
    if ledger is None or ledger.backup is not None:
        return False
    ledger.back_up()
    world.after(world.rng.uniform(0.0, COPY_S), lambda: put_back(world))
    return True


def put_back(world: "World") -> None:
    """Put the copy of the journal back, unless all is to be well by now."""
    ledger = world.ledger
    assert ledger is not None
    if world.is_healing or ledger.is_full or not world.kill_broker():
        ledger.backup = None
        return
    ledger.put_back()
    world.count("older journal")


@fault
def power_loss(world: "World") -> bool:
    """Let the machine of the broker lose power while it writes: the end of the log is torn."""
    broker, ledger = world.broker, world.ledger
    if ledger is None or broker is None or not broker.is_alive or not ledger.disk.pending:
        return False
    ledger.tear()
    return world.kill_broker()
