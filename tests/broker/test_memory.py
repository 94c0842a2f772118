"""What a queued task takes of memory, and what the broker does with what is free again."""

import subprocess
import sys

from bench.scheduler import of_its_own
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


def test_a_queued_task_that_desires_what_no_other_does_takes_less_than_1_kb_with_all_that_came():
    # So many that the tables have just grown: there are never more places for each task.
    assert of_its_own(5_500) < 1_000
