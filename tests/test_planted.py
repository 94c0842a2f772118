"""Each planted bug of one line makes its test fail, which passes without it elsewhere."""

import pytest

from tests.planted import BUGS
from tests.support.planting import look, mutated

# What shows a patch that does not fit rather than a rule that is not kept.
MISFITS = ("NameError", "SyntaxError", "TypeError", "UnboundLocalError")


@pytest.mark.slow
def test_each_planted_bug_is_noticed():
    found = look(BUGS)

    assert not found.wrong
    unnoticed = [f"{bug.name}: {bug.test}" for bug in BUGS if bug.name not in found.noticed]
    assert not unnoticed
    misfits = [(bug, how) for bug, how in found.noticed.items() if any(m in how for m in MISFITS)]
    assert not misfits


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_what_is_planted_fits_where_it_is_planted(bug):
    function = bug.function.fget if isinstance(bug.function, property) else bug.function

    assert mutated(function, bug.old, bug.new).co_code != function.__code__.co_code or (
        mutated(function, bug.old, bug.new).co_consts != function.__code__.co_consts
    )
