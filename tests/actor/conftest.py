"""What tests of real hosts and actors share."""

import pytest

from tests.actor.fake_broker import FakeBroker


@pytest.fixture
def broker():
    """Give a broker of the test's own, to which hosts and actors connect."""
    fake = FakeBroker()
    yield fake
    fake.close()
