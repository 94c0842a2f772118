"""That descriptors run low is said in time, once, and again after there were more."""

import os
import resource

import pytest

from broker.descriptors import Descriptors


@pytest.fixture
def limits():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield limits
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_nobody_was_told_that_descriptors_run_out(limits):
    reading, writing = os.pipe()
    descriptors = Descriptors(reading)
    assert descriptors.look(0.0) == []

    # Above the pipe nothing is open that was not before, and one more may be.
    resource.setrlimit(resource.RLIMIT_NOFILE, (writing + 1, limits[1]))
    assert descriptors.look(0.5) == [], "it looks once a second"
    ((event, said),) = descriptors.look(1.0)

    assert (event, said["limit"]) == ("descriptors_low", writing + 1)
    assert descriptors.look(2.0) == []
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert descriptors.look(3.0) == []
    resource.setrlimit(resource.RLIMIT_NOFILE, (writing + 1, limits[1]))
    assert len(descriptors.look(4.0)) == 1
    os.close(reading)
    os.close(writing)
