"""What the broker does with memory that is free again."""

import subprocess
import sys

from tests.support.deployment import DEADLINE_S, ROOT

FREED = """
import resource
from pathlib import Path
from broker.memory import give_back_large

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

give_back_large()
before, small = resident(), []
for _ in range(20):
    large = [bytearray(3 * 2**20) for _ in range(4)]
    # Small ones come between the large ones, and outlive them.
    small += [bytearray(600) for _ in range(50)]
    del large
print((resident() - before) // 2**20)
"""


def test_what_is_large_goes_back_to_the_system_also_where_small_blocks_lie_around_it():
    done = subprocess.run(
        [sys.executable, "-c", FREED],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
        timeout=DEADLINE_S,
    )

    # Without it twelve are kept.
    assert int(done.stdout) <= 1
