"""What protocol.md says of labels is what `wire` does: the table, its rules, the examples."""

import re

import msgspec
import pytest

from tests.support.specification import sections
from wire import labels
from wire.labels import Comparator, Desire, satisfies

ONE_OF_EACH = [("a", "b"), (1, 2), (True, False)]
OTHER_TYPE = [
    (offered, desired)
    for offered, _ in ONE_OF_EACH
    for desired, _ in ONE_OF_EACH
    if type(offered) is not type(desired)
]
SAME_TYPE = [
    *((one, one) for pair in ONE_OF_EACH for one in pair),
    *((one, other) for one, other in ONE_OF_EACH),
    *((other, one) for one, other in ONE_OF_EACH),
    *[(1, 1.0), (1.5, 1), (1, 1.5), (2.0, 2.0)],
]
# What a cell of the table says, as a rule for one offered and one desired value.
CELLS = {
    "yes": lambda comparator, offered, desired: True,
    "no": lambda comparator, offered, desired: False,
    "equal": lambda comparator, offered, desired: offered == desired,
    "not equal": lambda comparator, offered, desired: offered != desired,
    "equal to one of the list": lambda comparator, offered, desired: offered == desired,
    "equal to none of the list": lambda comparator, offered, desired: offered != desired,
    "numbers only": lambda comparator, offered, desired: (
        type(offered) in (int, float)
        and {
            "gt": offered > desired,
            "ge": offered >= desired,
            "lt": offered < desired,
            "le": offered <= desired,
        }[comparator]
    ),
}
ROWS = [
    (comparator, *row[1:])
    for row in sections()["11"].tables[0][1:]
    for comparator in row[0].split(", ")
]


def wanted(comparator, value):
    comparator = Comparator(comparator)
    if comparator in labels.PRESENCE:
        return Desire("k", comparator, None)
    return Desire("k", comparator, [value] if comparator in labels.SETS else value)


def test_the_table_has_every_comparator_once():
    assert [row[0] for row in ROWS] == list(Comparator)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_of_the_table_is_what_satisfies_does(row):
    comparator, missing, other, same = row
    rule_of_same = CELLS[same.partition(";")[0]]

    for _, desired in SAME_TYPE:
        is_met = satisfies({"other": desired}, wanted(comparator, desired))
        assert is_met is CELLS[missing](comparator, None, desired)
    for offered, desired in OTHER_TYPE:
        is_met = satisfies({"k": offered}, wanted(comparator, desired))
        assert is_met is CELLS[other](comparator, offered, desired), (offered, desired)
    for offered, desired in SAME_TYPE:
        is_met = satisfies({"k": offered}, wanted(comparator, desired))
        assert is_met is rule_of_same(comparator, offered, desired), (offered, desired)


@pytest.mark.parametrize("desired", ["512", True])
@pytest.mark.parametrize("comparator", ["gt", "ge", "lt", "le"])
def test_an_order_of_what_is_no_number_is_refused(comparator, desired):
    with pytest.raises(ValueError, match="numbers only"):
        labels.validate_desire(wanted(comparator, desired))


NAN, INF = float("nan"), float("inf")
FINE = Desire("k", Comparator.EQUAL, 1)


def refuses(desire):
    with pytest.raises(ValueError, match="label 'k'"):
        labels.validate_desire(desire)


def refuses_to_offer(value):
    with pytest.raises(ValueError, match="label 'k'"):
        labels.validate_labels({"k": value})


def weighs(weight, offered):
    wish = Desire("k", Comparator.EQUAL, 1, False, weight)
    labels.validate_desire(wish)
    assert labels.satisfies_all({"k": offered}, [wish]), "a wish never forbids"
    return labels.affinity({"k": offered}, [wish])


def check_nan():
    for value in (NAN, [1.0, NAN]):
        refuses_to_offer(value)
    for comparator in ("eq", "ne", "gt", "ge", "lt", "le", "in", "not_in"):
        refuses(wanted(comparator, NAN))


def check_half_a_pair():
    for value in ("a\ud800", ["a", "\udcff"]):
        refuses_to_offer(value)
    refuses(wanted("eq", "\udcff"))
    refuses(wanted("in", ["a", "\udcff"]))


def check_built_in():
    for key in ("name", "host", "os", "python", "cpus", "memory_mb"):
        with pytest.raises(ValueError, match=f"label '{key}' is built in"):
            labels.check_own({key: "mine"})


def check_gpus():
    for key in ("gpu_count", "gpu_name"):
        with pytest.raises(ValueError, match=f"label '{key}' is built in"):
            labels.check_own({key: "mine"})
        assert labels.check_own({key: "mine"}, of_machine=True) == {key: "mine"}


def check_infinity():
    assert labels.validate_labels({"k": INF}) == {"k": INF}
    assert satisfies({"k": INF}, wanted("gt", 1e300))
    assert satisfies({"k": 5}, wanted("lt", INF))
    assert satisfies({"k": -INF}, wanted("eq", -INF))


def check_no_labels():
    for comparator, missing, *_ in ROWS:
        assert satisfies({}, wanted(comparator, 1)) is CELLS[missing](comparator, None, 1)


def check_a_key_twice():
    both = [FINE, Desire("k", Comparator.EQUAL, 2)]
    assert not labels.satisfies_all({"k": 1}, both)
    assert labels.satisfies_all({"k": [1, 2]}, both)
    wishes = [Desire("k", Comparator.EQUAL, 1, False, weight) for weight in (3.0, 4.0)]
    assert labels.affinity({"k": 1}, wishes) == 7.0


def check_a_required_weight():
    for weight in (-5.0, 0.0, 5.0):
        required = Desire("k", Comparator.EQUAL, 1, True, weight)
        assert labels.affinity({"k": 1}, [required]) == 0
        assert labels.satisfies_all({"k": 1}, [required])
        assert not labels.satisfies_all({"k": 2}, [required])


def check_presence():
    for comparator in ("exists", "not_exists"):
        refuses(Desire("k", Comparator(comparator), 1))


def check_no_desires():
    assert labels.satisfies_all({}, [])
    assert labels.satisfies_all({"k": 1}, [])
    assert labels.affinity({"k": 1}, []) == 0


def check_a_weight_that_is_none():
    for weight in (NAN, INF, -INF):
        refuses(Desire("k", Comparator.EQUAL, 1, False, weight))


def check_empty_lists():
    for comparator in ("in", "not_in"):
        refuses(Desire("k", Comparator(comparator), []))


def check_no_weight():
    assert weighs(0.0, 1) == weighs(0.0, 2) == 0


def check_less_than_no_weight():
    assert weighs(-3.0, 1) == -3.0
    assert weighs(-3.0, 2) == 0


RULES = {
    "no desires": check_no_desires,
    "no labels": check_no_labels,
    "NaN, offered or desired": check_nan,
    "infinity": check_infinity,
    "an offered key without a value, `[]`": lambda: refuses_to_offer([]),
    "an empty list for in or not_in": check_empty_lists,
    "a value for exists or not_exists": check_presence,
    "a string with half of a surrogate pair": check_half_a_pair,
    "a key that is built in (name, host, os, python, cpus, memory_mb), offered by anybody else": (
        check_built_in
    ),
    "gpu_count and gpu_name, built in where the host can tell": check_gpus,
    "weight of a required desire": check_a_required_weight,
    "weight of 0": check_no_weight,
    "weight below 0": check_less_than_no_weight,
    "weight that is infinite or NaN": check_a_weight_that_is_none,
    "the same key in two desires": check_a_key_twice,
}


@pytest.mark.parametrize("rule", [row[0] for row in sections()["11"].tables[1][1:]])
def test_what_is_not_in_the_table_is_as_it_is_written(rule):
    RULES[rule]()


def test_each_rule_that_is_checked_is_written():
    assert [row[0] for row in sections()["11"].tables[1][1:]] == list(RULES)


LABEL_EXAMPLE = re.compile(r"offered (\{.*?\})\s+(\[.*?\])\s+(not satisfied|satisfied)")


@pytest.mark.parametrize("line", sections()["11"].code_lines)
def test_an_example_of_labels_is_right(line):
    offered, desired, verdict = LABEL_EXAMPLE.match(line).groups()
    desire = msgspec.json.decode(desired, type=Desire)

    assert satisfies(msgspec.json.decode(offered), desire) is (verdict == "satisfied")


def test_the_bounds_of_labels_are_those_that_are_checked():
    text = " ".join(sections()["11"].text.split())

    assert f"1 to {labels.KEY_LENGTH_MAX} printable characters" in text
    assert f"a string of up to {labels.VALUE_LENGTH_MAX:,} characters" in text
