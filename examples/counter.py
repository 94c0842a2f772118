"""A counter that survives `kill -9`, ten times: no increment is lost, and none is counted twice.

    python examples/counter.py [--kills 10] [--broker ENDPOINT]

Without --broker it starts a broker and two actors of its own, which the kills are for.
"""

import argparse
import os
import signal
import sys
import time
from contextlib import ExitStack

from sdk import Client, Environment, LocalCluster

CALLS_A_KILL = 20


class Counter(Environment):
    """Keeps its count in memory, and says it after each call."""

    def enter(self, start=0):
        self.count = start

    def incr(self, by=1):
        self.count += by
        return self.count

    def pid(self):
        return os.getpid()

    # What this returns travels with the outcome of the call: the broker has both or neither.
    def checkpoint(self):
        return self.count

    def restore(self, count):
        self.count = count


def main():
    parser = argparse.ArgumentParser(description="Count, while the process that counts is killed.")
    parser.add_argument("--kills", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--broker", metavar="ENDPOINT", help="default: one of its own")
    options = parser.parse_args()
    with ExitStack() as stack:
        if options.broker:
            client = stack.enter_context(Client(options.broker, connect_timeout=5.0))
        else:
            cluster = stack.enter_context(LocalCluster(actors=2, slots=1))
            client = stack.enter_context(cluster.client())
        return count(client, options.kills)


def count(client, kills):
    # A call that was running when the process died runs again, from the state before it.
    counter = client.actor(Counter, name="clicks", max_restarts=-1, max_task_retries=-1)
    futures = []
    for number in range(1, kills + 1):
        pid = counter.pid.submit().result(timeout=30)
        futures += counter.incr.map([1] * CALLS_A_KILL)
        futures[-CALLS_A_KILL // 2].result(timeout=30)
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        value = futures[-1].result(timeout=30)
        print(f"kill {number}: process {pid} gone, {value} after {time.monotonic() - began:.2f} s")
    seen = [future.result() for future in futures]
    lost = len(futures) - counter.incr.submit(0).result(timeout=30)
    repeated = len(seen) - len(set(seen))
    print(f"{len(futures)} increments, {kills} kills: {lost} lost, {repeated} repeated")
    return 0 if seen == list(range(1, len(futures) + 1)) and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
