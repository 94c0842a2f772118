"""Arguments are pickled once, whatever they are."""

import pickle
import sys

import pytest

from sdk.futures.arguments import dump_arguments
from wire.payload import dump_value, load

LARGE = 2**17


# The second looks like a pickle that refers to a module of the user.
@pytest.mark.parametrize("value", [bytes(LARGE), b"\x93__main__" * LARGE, "x" * LARGE])
def test_large_octets_were_pickled_up_to_three_times(value):
    calls = []
    sys.setprofile(lambda _, event, called: calls.append((event, called)))
    try:
        dumped = dump_arguments("work", (value, 1), {})
    finally:
        sys.setprofile(None)

    assert calls.count(("c_call", pickle.dumps)) == 1
    assert load(dumped.body, dumped.frames) == ((value, 1), {})
    assert dumped == dump_value(((value, 1), {}))
