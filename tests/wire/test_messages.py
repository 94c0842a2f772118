"""The messages as a family: tags, unions, defaults, and who may say what."""

import msgspec
import pytest

from wire import messages
from wire.messages import (
    HELLOS,
    IS_TOLD,
    MAY_SAY,
    ActorCommand,
    BrokerCommand,
    ClientCommand,
    Error,
    HostCommand,
    PeerCommand,
    Welcome,
    Who,
)
from wire.parts import Role

PEER = set(PeerCommand.__args__)
BROKER = set(BrokerCommand.__args__)
COMMANDS = sorted(PEER | BROKER, key=lambda kind: kind.__name__)
OF_ROLE = {Role.CLIENT: ClientCommand, Role.ACTOR: ActorCommand, Role.HOST: HostCommand}


def tag_of(kind):
    return kind.__struct_config__.tag


def tagged_in_module():
    return {
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and tag_of(kind)
    }


def test_every_message_belongs_to_a_direction():
    assert tagged_in_module() == PEER | BROKER


def test_tags_are_unique():
    assert len({tag_of(kind) for kind in COMMANDS}) == len(COMMANDS)


@pytest.mark.parametrize("kind", COMMANDS, ids=tag_of)
def test_a_message_is_an_array_that_nobody_changes(kind):
    config = kind.__struct_config__

    assert config.array_like
    assert config.frozen


@pytest.mark.parametrize("kind", COMMANDS, ids=tag_of)
def test_a_newer_peer_may_append_fields(kind):
    values = [example(field) for field in msgspec.structs.fields(kind)]

    read = msgspec.convert([tag_of(kind), *values, "from the future", 7], kind)

    assert type(read) is kind


@pytest.mark.parametrize("kind", COMMANDS, ids=tag_of)
def test_an_older_peer_may_leave_out_what_has_a_default(kind):
    values = [example(field) for field in msgspec.structs.fields(kind) if field.required]

    read = msgspec.convert([tag_of(kind), *values], kind)

    assert type(read) is kind


@pytest.mark.parametrize("role", Role)
def test_a_role_may_say_its_own_messages_and_its_hello_only_first(role):
    (hello,) = [kind for kind, opened in HELLOS.items() if opened is role]

    assert set(OF_ROLE[role].__args__) == MAY_SAY[role] | {hello}


def test_what_a_peer_says_is_what_the_three_roles_say():
    assert set().union(*MAY_SAY.values(), HELLOS) == PEER


def test_every_word_of_the_broker_has_a_listener():
    assert set().union(*IS_TOLD.values()) | {Welcome, Who} == BROKER
    assert all(Error in told for told in IS_TOLD.values())


@pytest.mark.parametrize("name", ["Submit", "Assign", "Outcome", "Result", "Credit"])
def test_what_is_said_for_each_task_is_not_tracked_by_the_collector(name):
    assert getattr(messages, name).__struct_config__.gc is False


def example(field):
    """Return a value of the field's type, the smallest one."""
    small = {int: 1, str: "x", float: 1.5, bool: True, bytes: b"x"}
    if field.type in small:
        return small[field.type]
    for value in ({}, [], None, "result", [1, 1], ["x"], ["credit", 1], ["x", "x", b"x"]):
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError:
            continue
        return value
    raise AssertionError(f"no example for {field}")
