"""Both ends of a table against the dumbest model of it, and against each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import Code, RemoteProtocolError
from wire.tables import ReceiverTable, SenderTable

KEYS = st.lists(st.integers(0, 9), max_size=60)


class Model:
    """Keys in the order of their last use, each with its slot."""

    def __init__(self, size):
        self.size = size
        self.uses = []

    def use(self, key):
        known = [entry for entry in self.uses if entry[0] == key]
        if known:
            self.uses.remove(known[0])
            slot = known[0][1]
        elif len(self.uses) < self.size:
            slot = len(self.uses)
        else:
            slot = self.uses.pop(0)[1]
        self.uses.append((key, slot))
        return bool(known), slot


@given(size=st.integers(1, 5), keys=KEYS)
def test_a_sender_overwrites_what_was_used_longest_ago(size, keys):
    table, model = SenderTable(size), Model(size)

    for key in keys:
        is_known, slot = model.use(key)
        assert (key in table) is is_known
        assert (table.find(key) if is_known else table.add(key)) == slot
        assert len(table) == len(model.uses)


@given(size=st.integers(1, 5), keys=KEYS)
def test_the_receiver_always_has_what_the_sender_believes(size, keys):
    sender, receiver = SenderTable(size), ReceiverTable(size)

    for key in keys:
        slot = sender.find(key)
        if slot is None:
            slot = sender.add(key)
            receiver.put(slot, key)
        assert receiver.get(slot) == key
        assert len(receiver) == len(sender)


def test_a_key_that_is_not_there_is_not_found():
    table = SenderTable(2)

    assert table.find("a") is None
    assert "a" not in table


def test_asking_whether_a_key_is_there_does_not_count_as_use():
    table = SenderTable(2)
    table.add("old")
    table.add("new")

    assert "old" in table
    table.add("newest")

    assert "old" not in table


@pytest.mark.parametrize("slot", [-1, 2, 2**63])
def test_a_slot_outside_the_table_is_the_senders_fault(slot):
    table = ReceiverTable(2)

    with pytest.raises(RemoteProtocolError) as raised:
        table.put(slot, "x")

    assert (raised.value.code, raised.value.fatal) == (Code.TABLE_OVERFLOW, True)
    assert table.get(slot) is None


def test_a_slot_holds_what_was_put_last():
    table = ReceiverTable(2)

    table.put(1, "first")
    table.put(1, "second")

    assert table.get(1) == "second"
    assert table.get(0) is None
    assert table.values() == ["second"]
