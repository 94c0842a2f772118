"""Two brokers that live behind one endpoint, each with what it knew when it was there last.

An address can lead to one machine and then to another. Nothing is forgotten then, and nothing is
shared. Peers that come back have heard a higher epoch elsewhere; the broker raises its own above.
"""

from unittest.mock import patch

import pytest

from tests.sim import faults
from tests.sim.mutants import BUSY
from tests.sim.run import run_world
from tests.sim.world import World

SEEDS = range(12)
STEPS = 400
SOON_S = 0.01
TWO = BUSY.but(
    faults={"other_broker": 1.0, "cut": 0.3, "actor_kill": 0.2},
    fault=0.03,
    machines=2,
    slots=2,
    retry=0.3,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class TwoBrokers(World):
    """A world in which the endpoint leads now here, now there."""

    other = None

    def swap(self):
        """Let every connection end, and the next ones lead to the other broker."""
        broker = self.broker
        # Without a journal two that start in the same millisecond have one epoch.
        if broker is None or not broker.is_alive or self.is_healing or self.now < SOON_S:
            return False
        unread = list(broker.inbox)
        broker.inbox.clear()
        self.network.broker_dies(unread)
        self.broker, self.other = self.other, broker
        self.start_broker()
        # Of one broker the epochs rise; of whom an earlier one keeps that it ended, it alone knows.
        self.oracle.epoch_highest = 0
        self.oracle.dead.check_end = lambda: None
        self.broker.wake_at(self.now)
        return True


@pytest.mark.parametrize("seed", SEEDS)
def test_two_brokers_with_memories_of_their_own_lose_and_repeat_no_outcome(seed):
    with patch.dict(faults.KINDS, other_broker=TwoBrokers.swap):
        world = TwoBrokers(seed, TWO)
        story = run_world(world, seed, STEPS)

    assert not story, story
    assert world.faults["other_broker"]
