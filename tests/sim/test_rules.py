"""Each numbered rule of protocol.md has a bug that shows when it is taken away, or a test."""

import re
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from tests.model import mutants as model
from tests.sim.rules import BESIDE, RULES
from tests.sim.test_mutants import PLANTED

TESTS = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"#{2,3} (\d+(?:\.\d+)?) ")
RULE = re.compile(r"(\d+)\. ")
# Those of the core of the protocol: sessions, credit, leases, labels.
SECTIONS = range(8, 12)
# A rule may be written down a little before somebody finds a bug for it.
WITHOUT_MAX = 8


def rules_of_the_protocol():
    """Return (section, number) of each numbered rule."""
    found, section = [], ""
    for line in (TESTS.parent / "protocol.md").read_text().splitlines():
        if heading := SECTION.match(line):
            section = heading[1]
        elif (rule := RULE.match(line)) and int(section.partition(".")[0] or 0) in SECTIONS:
            found.append((section, int(rule[1])))
    return found


@cache
def defined():
    """Return the names of all tests."""
    texts = (path.read_text() for path in TESTS.rglob("test_*.py"))
    return {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}


def names():
    return [*chain.from_iterable(chain(*(rules.values() for rules in RULES.values())))]


def test_each_rule_has_a_planted_bug_or_a_test():
    told = {(section, number) for section, rules in RULES.items() for number in rules}
    there = set(rules_of_the_protocol())

    assert told <= there, "a rule that is not there any more"
    assert len(there - told) <= WITHOUT_MAX, sorted(there - told)


@pytest.mark.parametrize("name", names())
def test_what_is_named_is_there(name):
    planted = {mutant.name for mutant in (*PLANTED, *model.MUTANTS)}

    assert name in (defined() if name.startswith("test_") else planted)


def test_each_planted_bug_belongs_to_a_rule():
    named = {*names(), *chain.from_iterable(BESIDE.values())}

    assert len({mutant.name for mutant in PLANTED} - named) <= WITHOUT_MAX
    assert len(PLANTED) >= 20
