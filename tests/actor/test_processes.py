import pickle

import pytest

from tests.actor.fake_broker import FakeBroker
from wire.messages import Status

pytestmark = pytest.mark.process


@pytest.fixture
def broker():
    fake = FakeBroker()
    yield fake
    fake.close()


def double(value):
    return value * 2


def test_a_host_starts_an_actor_that_runs_a_function(broker):
    broker.start_host("--slots", "2", "--label", "memory=512")
    actor = broker.actor()
    assert actor.credit.free == 2
    assert actor.hello.labels["memory"] == 512

    token = broker.run(actor, double, 21)

    outcome = broker.outcome(actor, token)
    assert outcome.status is Status.RESULT
    assert pickle.loads(outcome.body) == 42
    broker.until(lambda: actor.credit.free == 2)
