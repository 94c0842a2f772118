"""A client at a broker that answers as it is told."""

import pytest

from sdk import Client
from tests.sdk.client.acting import TIMEOUT_S, act
from tests.sdk.fakes import ScriptedBroker


@pytest.fixture
def broker():
    with ScriptedBroker(act) as broker:
        yield broker


@pytest.fixture
def client(broker):
    with Client(broker.endpoint, connect_timeout=TIMEOUT_S) as client:
        yield client
