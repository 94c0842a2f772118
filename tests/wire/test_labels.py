"""Labels: the algebra of satisfying, what is refused, and how the command line is read."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.labels import (
    KEY_LENGTH_MAX,
    VALUE_LENGTH_MAX,
    Comparator,
    Desire,
    affinity,
    check_own,
    parse_label,
    satisfies,
    satisfies_all,
    validate_desire,
    validate_key,
    validate_labels,
    validate_value,
)

VALUES = st.one_of(
    st.sampled_from(["a", "b", "", "1", "true", 0, 1, 2, -1, 1.0, 1.5, True, False]),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=4),
)
SINGLE = [Comparator.EQUAL, Comparator.NOT_EQUAL]
ORDER = ["gt", "ge", "lt", "le"]
NEGATIONS = [("eq", "ne"), ("in", "not_in"), ("exists", "not_exists")]


def desire(comparator, value=None, key="k", **more):
    return Desire(key, Comparator(comparator), value, **more)


def is_met(offered, comparator, value=None):
    return satisfies({"k": offered}, desire(comparator, value))


# --- satisfying


@given(offered=VALUES, desired=VALUES, pair=st.sampled_from(NEGATIONS))
def test_with_one_offered_value_a_negation_is_the_opposite(offered, desired, pair):
    value = [desired] if pair[0] == "in" else None if pair[0] == "exists" else desired

    assert is_met(offered, pair[0], value) is not is_met(offered, pair[1], value)


@given(offered=VALUES, desired=st.lists(VALUES, min_size=1, max_size=4))
def test_in_is_equal_to_one_of_them(offered, desired):
    assert is_met(offered, "in", desired) is any(is_met(offered, "eq", one) for one in desired)


@given(offered=st.lists(VALUES, min_size=1, max_size=4), desired=VALUES)
def test_of_several_offered_values_any_may_meet_and_none_may_be_excluded(offered, desired):
    ones = [is_met(one, "eq", desired) for one in offered]

    assert is_met(offered, "eq", desired) is any(ones)
    assert is_met(offered, "ne", desired) is not any(ones)
    assert is_met(offered, "not_in", [desired]) is not any(ones)


@given(offered=st.integers(-3, 3) | st.floats(-3, 3), desired=st.integers(-3, 3) | st.floats(-3, 3))
def test_numbers_are_one_type_and_in_order(offered, desired):
    assert is_met(offered, "gt", desired) is (offered > desired)
    assert is_met(offered, "ge", desired) is (offered >= desired)
    assert is_met(offered, "lt", desired) is (offered < desired)
    assert is_met(offered, "le", desired) is (offered <= desired)
    assert is_met(offered, "eq", desired) is (offered == desired)


@pytest.mark.parametrize("comparator", ORDER)
@pytest.mark.parametrize("offered", ["512", True, False, ""])
def test_only_numbers_have_an_order(comparator, offered):
    assert not is_met(offered, comparator, 0)


@pytest.mark.parametrize(
    ("offered", "desired"), [(True, 1), (1, True), (False, 0), ("1", 1), (1, "1")]
)
def test_another_type_is_another_value(offered, desired):
    assert not is_met(offered, "eq", desired)
    assert is_met(offered, "ne", desired)


def test_a_large_integer_is_not_rounded():
    assert not is_met(2**53 + 1, "eq", float(2**53))
    assert is_met(2**53 + 1, "gt", 2**53)


@pytest.mark.parametrize("offered", [0, "", False, 0.0, [0]])
def test_a_value_that_is_false_is_there(offered):
    assert is_met(offered, "exists")
    assert not is_met(offered, "not_exists")


def test_only_required_desires_must_be_met():
    desires = [desire("eq", 1), desire("eq", 2, required=False)]

    assert satisfies_all({"k": 1}, desires)
    assert not satisfies_all({"k": 2}, desires)
    assert satisfies_all({}, [])


def test_affinity_is_the_sum_of_the_weights_that_are_met_and_not_required():
    desires = [
        desire("eq", 1, weight=1_000.0),
        desire("eq", 1, required=False, weight=10.0),
        desire("gt", 0, required=False),
        desire("eq", 2, required=False, weight=7.0),
        desire("ne", 2, required=False, weight=-4.0),
    ]

    assert affinity({"k": 1}, desires) == 10.0 + 100 - 4.0
    assert affinity({}, desires) == -4.0


# --- what is refused


@pytest.mark.parametrize("key", ["", "a b", "a=b", "tab\t", "x" * (KEY_LENGTH_MAX + 1), "\x00"])
def test_a_bad_key_is_refused_and_named(key):
    with pytest.raises(ValueError, match="label key") as raised:
        validate_key(key)

    assert repr(key) in str(raised.value)


@pytest.mark.parametrize("key", ["a", "zone", "gpu.memory", "über", "x" * KEY_LENGTH_MAX, "a/b:c"])
def test_a_good_key_passes(key):
    validate_key(key)


@pytest.mark.parametrize(
    "value",
    [None, b"x", [], {}, math.nan, 2**63, -(2**63) - 1, "x" * (VALUE_LENGTH_MAX + 1), "a\udcff"],
)
def test_a_bad_value_is_refused(value):
    with pytest.raises(ValueError, match="label 'k'"):
        validate_value("k", value)


@pytest.mark.parametrize("value", ["", "x" * VALUE_LENGTH_MAX, 2**63 - 1, -(2**63), math.inf, True])
def test_a_good_value_passes(value):
    validate_value("k", value)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"k": []}, "has no value"),
        ({"k": [1, math.nan]}, "NaN"),
        ({"k": {"a": 1}}, "is not a str"),
        ({"k": None}, "is not a str"),
        ({"a b": 1}, "label key"),
        ({"k": [[1]]}, "is not a str"),
    ],
)
def test_what_nobody_can_offer_is_refused(labels, said):
    with pytest.raises(ValueError, match=said):
        validate_labels(labels)


def test_a_key_that_is_no_string_is_refused_by_its_value():
    with pytest.raises(TypeError, match="label 1 is not a string"):
        validate_labels({1: "x"})


def test_what_can_be_offered_is_copied():
    labels = {"a": 1, "b": ["x", 2.5], "c": (True, "y"), "d": math.inf}

    checked = validate_labels(labels)
    labels["b"].append("z")

    assert checked == {"a": 1, "b": ["x", 2.5], "c": [True, "y"], "d": math.inf}
    assert validate_labels({}) == {}


REFUSED = [
    (desire("exists", 1), "takes no value"),
    (desire("not_exists", "x"), "takes no value"),
    (desire("in", 1), "takes a list"),
    (desire("not_in", []), "takes a list"),
    (desire("in", [1, math.nan]), "NaN"),
    (desire("eq", None), "takes one value"),
    (desire("eq", [1]), "takes one value"),
    (desire("gt", "512"), "numbers only"),
    (desire("le", True), "numbers only"),
    (desire("eq", math.nan), "NaN"),
    (desire("eq", 1, weight=math.inf), "weight"),
    (desire("eq", 1, weight=math.nan), "weight"),
    (desire("eq", 1, key="a b"), "label key"),
]


@pytest.mark.parametrize(("wrong", "reason"), REFUSED)
def test_a_desire_that_cannot_mean_what_it_says_is_refused(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        validate_desire(wrong)


@pytest.mark.parametrize(
    "right",
    [
        desire("eq", "x"),
        desire("gt", 1.5),
        desire("in", ["a", 1, True]),
        desire("exists"),
        desire("ne", False, required=False, weight=-3.0),
    ],
)
def test_a_desire_that_means_something_passes(right):
    validate_desire(right)


@given(
    key=st.text(min_size=1, max_size=8),
    comparator=st.sampled_from(list(Comparator)),
    data=st.data(),
)
def test_what_is_valid_can_be_compared_with_anything(key, comparator, data):
    value = data.draw(st.none() | VALUES | st.lists(VALUES, max_size=3))
    wanted = Desire(key, comparator, value)
    try:
        validate_desire(wanted)
    except ValueError:
        return

    offered = data.draw(st.dictionaries(st.just(key), VALUES | st.lists(VALUES, min_size=1)))

    assert satisfies(offered, wanted) in (True, False)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"host": "mine"}, "label 'host' is built in"),
        ({"a": 1, "python": ["2.7"]}, "label 'python' is built in"),
        ({f"k{n}": "x" * VALUE_LENGTH_MAX for n in range(300)}, "300 labels take .* octets, over"),
    ],
)
def test_what_nobody_may_offer_in_the_place_of_an_actor_is_refused(labels, said):
    with pytest.raises(ValueError, match=said):
        check_own(labels)

    assert check_own({"hosts": 1}) == {"hosts": 1}


# --- the command line


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("memory=512", "memory", 512),
        ("memory=-1", "memory", -1),
        ("load=0.5", "load", 0.5),
        ("load=1e3", "load", 1000.0),
        ("gpu=true", "gpu", True),
        ("gpu=False", "gpu", False),
        ("model=v2", "model", "v2"),
        ("model=", "model", ""),
        ("model=a=b", "model", "a=b"),
        ("memory=str:512", "memory", "512"),
        ("flag=str:true", "flag", "true"),
        ("x=str:", "x", ""),
        ("build=2024_01", "build", "2024_01"),
        ("x= 5", "x", " 5"),
        ("x=٣", "x", "٣"),
        ("x=+5", "x", 5),
        ("x=.5e-1", "x", 0.05),
        ("x=5.", "x", 5.0),
        ("x=-Infinity", "x", -math.inf),
        ("x=0x10", "x", "0x10"),
    ],
)
def test_a_label_is_read_as_bool_int_float_then_string(text, key, value):
    parsed = parse_label(text)

    assert parsed == (key, value)
    assert type(parsed[1]) is type(value)


@pytest.mark.parametrize("text", ["memory", "", "=1", "a b=1", "x=nan", f"x={2**63}"])
def test_a_label_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="label"):
        parse_label(text)
