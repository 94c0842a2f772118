"""What holds for every test: it leaves no process and no thread behind."""

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import settings

from sdk import Client, LocalCluster
from tests.support import leftovers
from tests.support.deployment import DEADLINE_S

# Hundreds of processes are started, and each would compile all that it imports: as much work again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Whoever is started in the background of a shell ignores Ctrl-C, and so would all programs that the
# tests start and then interrupt.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# As long as all else is waited for: four processes one after the other that have to be loaded are
# not always there after the 30 s that a user's program waits.
LocalCluster.__init__.__kwdefaults__["timeout"] = DEADLINE_S

# How long an example takes is the machine's to say.
settings.register_profile("warmslot", deadline=None)
settings.load_profile("warmslot")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=200, help="seeds for the simulator")
    parser.addoption("--rewrite", action="store_true", help="write the transcripts' answers anew")


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """Give a client of the cluster that the test's own file starts."""
    with cluster.client() as client:
        yield client


@pytest.fixture(autouse=True, scope="session")
def _no_process_outlives_the_session() -> Iterator[None]:
    leftovers.adopt_orphans()
    before = leftovers.child_processes()
    yield
    left = leftovers.left_processes(before)
    assert not left, f"processes outlived the tests: {left}"


@pytest.fixture(autouse=True)
def _nothing_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, or a process when it is marked to start some.

    Fixtures of a wider scope are set up before this one, so what they keep does not count.
    """
    starts_processes = request.node.get_closest_marker("process") is not None
    threads = leftovers.lasting_threads()
    processes = leftovers.child_processes() if starts_processes else {}
    yield
    left = leftovers.left_processes(processes) if starts_processes else {}
    assert not left, f"processes left behind: {left}"
    stuck = leftovers.left_threads(threads)
    assert not stuck, f"threads left behind: {sorted(thread.name for thread in stuck)}"
