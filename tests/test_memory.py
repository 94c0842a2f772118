"""Memory that is out, in real processes: it is said, and what has leaked ends with its process."""

import mmap
import resource
import subprocess
import sys

import pytest

from sdk import Environment, EnvironmentFailed, LocalCluster
from tests.support.deployment import DEADLINE_S

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space so"),
]

MIB = 2**20
kept = []


def take_all():
    """Take whatever this process may have, in pieces that become smaller, and keep it."""
    pages = int(open("/proc/self/statm").read().split()[0])  # noqa: PTH123, SIM115
    used = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 200 * MIB, resource.RLIM_INFINITY))
    octets = 64 * MIB
    while octets >= 4096:
        try:
            kept.append(mmap.mmap(-1, octets))
        except OSError:
            octets //= 2
    while True:
        kept.append(bytearray(512))


class Greedy(Environment):
    def enter(self):
        take_all()

    def exit(self):
        """Needs a thread, and so memory."""

    def work(self):
        """Never reached."""


def test_who_takes_all_memory_and_keeps_it_fails_at_once_and_the_next_process_has_it_again():
    with LocalCluster(actors=1) as cluster, cluster.client() as client:
        with pytest.raises(EnvironmentFailed, match="MemoryError"):
            client.submit(Greedy.work).result(DEADLINE_S)

        with pytest.raises(MemoryError):
            client.submit(take_all).result(DEADLINE_S)

        assert client.submit(len, "next").result(DEADLINE_S) == 4


CLIENT = f"""
import resource, sys
from sdk import Client, PayloadTooLarge

def make(octets):
    return bytes(octets)

client = Client(sys.argv[1])
assert client.submit(make, 5).result({DEADLINE_S}) == bytes(5)
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + {24 * MIB}
resource.setrlimit(resource.RLIMIT_AS, (most, most))
large = client.submit(make, {64 * MIB})
small = client.submit(make, 7)
try:
    large.result({DEADLINE_S})
except PayloadTooLarge as error:
    print(error)
print(len(small.result({DEADLINE_S})))
"""


def test_a_result_for_which_its_client_has_no_memory_fails_and_what_follows_comes():
    with LocalCluster(actors=1) as cluster:
        ended = subprocess.run(
            [sys.executable, "-c", CLIENT, cluster.endpoint],
            capture_output=True,
            text=True,
            timeout=3 * DEADLINE_S,
            check=False,
        )

    assert ended.returncode == 0, ended.stderr
    told, seven = ended.stdout.splitlines()
    assert "its client can have memory for" in told
    assert seven == "7"
