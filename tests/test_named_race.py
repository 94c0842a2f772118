"""Two programs that ask for one name at the same moment: one actor is made, and both have it."""

import multiprocessing

import pytest

from sdk import Client, LocalCluster
from tests.support.deployment import DEADLINE_S

pytestmark = pytest.mark.process

TIMEOUT_S = DEADLINE_S
NAMES = 20


class Guests:
    """Remembers who was here."""

    def __init__(self):
        self.came = []

    def come(self, who):
        self.came.append(who)
        return list(self.came)


def ask_for_each(endpoint, me, start, told):
    """Ask for one name after the other, each time together with the other program."""
    with Client(endpoint) as client:
        client.actors(TIMEOUT_S)
        for number in range(NAMES):
            start.wait(TIMEOUT_S)
            guests = client.actor(
                Guests, name=f"guests{number}", get_if_exists=True, lifetime="detached"
            )
            told.put((number, me, guests.come.submit(me).result(TIMEOUT_S)))


def test_of_two_programs_that_make_one_name_at_once_both_get_the_same_actor():
    spawn = multiprocessing.get_context("spawn")
    start, told = spawn.Barrier(2), spawn.Queue()
    with LocalCluster(actors=2, slots=2) as cluster:
        programs = [
            spawn.Process(target=ask_for_each, args=(cluster.endpoint, me, start, told))
            for me in ("a", "b")
        ]
        for program in programs:
            program.start()
        answers = [told.get(timeout=TIMEOUT_S) for _ in range(2 * NAMES)]
        for program in programs:
            program.join(TIMEOUT_S)
        with cluster.client() as client:
            names = [row["name"] for row in client.named()]

    assert [program.exitcode for program in programs] == [0, 0]
    assert sorted(names) == sorted(f"default/guests{number}" for number in range(NAMES))
    for number in range(NAMES):
        lists = sorted((seen for n, _, seen in answers if n == number), key=len)
        assert len(lists[0]) == 1
        assert sorted(lists[1]) == ["a", "b"]
