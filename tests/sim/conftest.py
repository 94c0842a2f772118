"""Runs the seeds that `--seeds` asks for once, as tests that each take a second or two."""

import os
from pathlib import Path

import pytest

from tests.sim.fixed import Fixed


def pytest_generate_tests(metafunc):
    if "batch" in metafunc.fixturenames:
        batches = Fixed(Path(), metafunc.config.getoption("--seeds")).batches
        metafunc.parametrize("batch", batches, ids=lambda b: f"{b.start}-{b.stop - 1}")


@pytest.fixture(scope="session")
def fixed(request, tmp_path_factory):
    """Give what was seen in the fixed seeds; where several processes run tests they share it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return Fixed(folder, request.config.getoption("--seeds"))
