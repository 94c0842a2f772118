"""Credit against an actor that the frames reach late: never more than there is room for."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from broker.facts.credit import CreditAccount
from broker.waiting.costs import Cost
from wire.messages import Credit
from wire.parts import Call, Environment

PLAIN = Cost(Call("plain", b"f"))
ONCE = Cost(Call("once", b"f", at_most_once=True))
ENVIRONMENTS = [
    Cost(Call("m", b"", "m", Environment(name, name, b"b", {}, turns)))
    for name, turns in (("a", 1), ("b", 2))
]


def account(*stated, received=0):
    found = CreditAccount()
    found.state(Credit(*stated), received)
    return found


STEPS = st.lists(st.sampled_from(["assign", "hear", "state", "arrive", "end", "revoke"]))


@given(STEPS, st.integers(1, 3), st.integers(0, 2))
def test_an_actor_never_holds_more_than_it_granted(steps, slots, prefetch):
    """Frames both ways are late; the actor states what it has whenever it likes."""
    credit = CreditAccount()
    sent = received = 0
    assigns, statements = deque(), deque()
    held = 0
    for step in steps:
        match step:
            case "assign" if credit.covers(PLAIN):
                sent += 1
                credit.spend(sent, PLAIN)
                assigns.append(sent)
            case "hear" if assigns:
                received = assigns.popleft()
                held += 1
            case "state":
                free = max(0, slots - held)
                ahead = max(0, min(prefetch, prefetch + slots - held))
                statements.append((Credit(free, ahead), received))
            case "arrive" if statements:
                credit.state(*statements.popleft())
            case "end" if held:
                held -= 1
            case "revoke":
                statements.append((Credit(0), received))
        credit.check()
        assert held <= slots + prefetch
        assert credit.available >= 0


SHARED = Cost(Call("m", b"", "m", Environment("s", "s", b"b", {}, 3)))


@given(
    st.lists(st.sampled_from(["plain", "share", "hear", "state", "arrive", "end", "leave"])),
    st.integers(1, 2),
)
def test_those_that_share_never_need_more_than_their_slot(steps, slots):
    """Frames both ways are late; whoever has entered a replica leaves it again."""
    credit = CreditAccount()
    sent = received = plain = inside = 0
    assigns, statements = deque(), deque()
    for step in steps:
        match step:
            case "plain" | "share" if credit.covers(PLAIN if step == "plain" else SHARED):
                sent += 1
                credit.spend(sent, PLAIN if step == "plain" else SHARED)
                assigns.append((sent, step))
            case "hear" if assigns:
                received, kind = assigns.popleft()
                plain += kind == "plain"
                inside += kind == "share"
            case "state":
                free = slots - plain - bool(inside)
                shared = ("s",) if inside else ()
                statements.append((Credit(free, 0, 0, {"s": 3 - inside}, {}, shared), received))
            case "arrive" if statements:
                credit.state(*statements.popleft())
            case "end" if plain:
                plain -= 1
            case "leave" if inside:
                inside -= 1
        credit.check()
        assert plain + bool(inside) <= slots
        assert inside <= 3


def test_what_flies_is_taken_off():
    credit = account(2)
    credit.spend(5, PLAIN)

    credit.state(Credit(2), 4)

    assert credit.available == 1


def test_what_has_arrived_is_not_taken_off_again():
    credit = account(2)
    credit.spend(5, PLAIN)

    credit.state(Credit(2), 5)

    assert credit.available == 2


def test_a_smaller_number_revokes():
    credit = account(2)

    credit.state(Credit(0), 0)

    assert credit.available == 0
    assert not credit.covers(PLAIN)


def test_a_revoke_that_crosses_an_assignment_leaves_nothing():
    credit = account(1)
    credit.spend(5, PLAIN)

    credit.state(Credit(0), 4)

    assert credit.available == 0


def test_a_statement_repeated_changes_nothing():
    credit = account(2)
    credit.spend(5, PLAIN)
    for _ in range(3):
        credit.state(Credit(2), 4)

        assert credit.available == 1


def test_credit_dies_with_its_session():
    credit = account(2, 3)
    credit.spend(1, PLAIN)

    credit.void()

    assert credit.available == credit.in_flight == 0
    credit.check()


def test_what_may_not_wait_takes_a_slot_only():
    credit = account(0, 2)

    assert credit.covers(PLAIN)
    assert not credit.covers(ONCE)


def test_a_cold_environment_needs_room():
    assert not account(1, 0, 0).covers(ENVIRONMENTS[0])
    assert account(1, 0, 1).covers(ENVIRONMENTS[0])


def test_room_is_for_one_environment_each():
    credit = account(2, 0, 1)
    credit.spend(1, ENVIRONMENTS[0])

    assert not credit.covers(ENVIRONMENTS[1])
    assert not credit.covers(ENVIRONMENTS[0])


def test_a_warm_environment_takes_as_many_as_it_has_turns():
    credit = account(3, 0, 0, {"b": 2})
    for frame in (1, 2):
        assert credit.covers(ENVIRONMENTS[1])
        credit.spend(frame, ENVIRONMENTS[1])

    assert not credit.covers(ENVIRONMENTS[1])
    assert credit.covers(PLAIN)
    assert not credit.is_warm("b")
