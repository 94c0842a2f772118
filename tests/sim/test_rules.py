"""Each numbered rule of protocol.md has a planted bug that shows when it is taken away."""

import re
from itertools import chain
from pathlib import Path

from tests import planted
from tests.model import mutants as model
from tests.sim.rules import BESIDE, ELSEWHERE, RULES
from tests.sim.test_mutants import PLANTED

SECTION = re.compile(r"#{2,3} (\d+(?:\.\d+)?) ")
RULE = re.compile(r"(\d+)\. ")
# Those of the core of the protocol: sessions, credit, leases, labels.
SECTIONS = range(8, 12)


def rules_of_the_protocol():
    """Return (section, number) of each numbered rule."""
    found, section = [], ""
    protocol = Path(__file__).resolve().parents[2] / "protocol.md"
    for line in protocol.read_text().splitlines():
        if heading := SECTION.match(line):
            section = heading[1]
        elif (rule := RULE.match(line)) and int(section.partition(".")[0] or 0) in SECTIONS:
            found.append((section, int(rule[1])))
    return found


def names():
    """Return which planted bugs are said to break a numbered rule."""
    return {*chain.from_iterable(chain(*(rules.values() for rules in RULES.values())))}


def test_each_rule_has_a_planted_bug_and_no_other_has():
    told = [(section, number) for section, rules in RULES.items() for number in rules]

    assert sorted(told) == sorted(rules_of_the_protocol())
    assert all(chain(*(rules.values() for rules in RULES.values())))


def test_each_planted_bug_belongs_to_a_rule_and_each_name_is_of_one():
    named = names().union(*BESIDE.values())
    here = {bug.name for bug in (*PLANTED, *planted.BUGS)}

    assert here <= named
    assert named <= here | {mutant.name for mutant in model.MUTANTS}


def test_the_simulator_shows_each_rule_but_those_that_say_why_not():
    here = {bug.name for bug in PLANTED}
    shown = [
        (section, number)
        for section, rules in RULES.items()
        for number, bugs in rules.items()
        if here.intersection(bugs)
    ]

    assert sorted([*shown, *ELSEWHERE]) == sorted(rules_of_the_protocol())
    assert all(ELSEWHERE.values())
    assert len(ELSEWHERE) <= 10


def test_the_simulator_and_the_search_find_many_of_them():
    assert len(PLANTED) >= 20
