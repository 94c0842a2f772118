"""protocol.md and `wire` say the same, line by line."""

import json
import pickle
import re
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

import wire.messages
from broker.settings import Settings
from tests.broker.conversation import Conversation
from tests.support import specification
from tests.support.specification import examples, grammar, messages, sections, shape
from wire import codec, labels, parts, session
from wire.codec import decode_broker, decode_peer
from wire.errors import Code
from wire.labels import Desire
from wire.messages import (
    COMMANDS_MAX,
    HELLOS,
    IS_TOLD,
    MAY_SAY,
    PROTOCOL,
    Assign,
    BrokerCommand,
    Error,
    Frame,
    PeerCommand,
    Welcome,
    Who,
)
from wire.parts import (
    Attested,
    Call,
    Environment,
    Failure,
    Held,
    HeldLimits,
    Holding,
    Kept,
    Role,
    Status,
)
from wire.payload import dump

PEER = {kind.__struct_config__.tag: kind for kind in PeerCommand.__args__}
BROKER = {kind.__struct_config__.tag: kind for kind in BrokerCommand.__args__}
KINDS = PEER | BROKER
SPEAKERS = {"C": Role.CLIENT, "A": Role.ACTOR, "H": Role.HOST}
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def tags(kinds):
    return {kind.__struct_config__.tag for kind in kinds}


def numbers(text):
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


# --- section 7: messages and Structs


def test_each_message_has_one_section_and_each_section_a_message():
    told = [message.tag for message in messages()]

    assert len(told) == len(set(told))
    assert set(told) == set(KINDS)


def test_the_sections_are_numbered_without_a_gap():
    told = [number for number in sections() if number.startswith("7.")]

    assert told == [f"7.{n}" for n in range(1, len(told) + 1)]


@pytest.mark.parametrize("message", messages(), ids=lambda message: message.tag)
def test_a_section_has_the_fields_of_its_struct_in_order(message):
    assert message.fields == KINDS[message.tag].__struct_fields__


@pytest.mark.parametrize("message", messages(), ids=lambda message: message.tag)
def test_a_section_says_who_says_it_to_whom(message):
    kind = KINDS[message.tag]
    says = {role for role, said in MAY_SAY.items() if kind in said}
    says |= {HELLOS[kind]} if kind in HELLOS else set()
    is_told = {role for role, told in IS_TOLD.items() if kind in told}
    is_told |= set(Role) if kind in (Welcome, Who) else set()

    assert message.says == says
    assert message.is_told == is_told


@pytest.mark.parametrize("message", messages(), ids=lambda message: message.tag)
def test_every_field_that_is_explained_is_one(message):
    explained = []
    for line in re.findall(r"(?m)^- ([^:]+):", message.section.text):
        explained += [name for name in line.split(", ") if re.fullmatch(r"[a-z_]+", name)]
    known = (
        {*message.fields, *Call.__struct_fields__} if message.tag == "template" else message.fields
    )

    assert set(explained) <= set(known)


@pytest.mark.parametrize(
    ("section", "beginning", "kind"),
    [
        ("5", "protocol", Frame),
        ("7.2", "client, task, token, held", Holding),
        ("7.2", "ask", HeldLimits),
        ("7.2", "client, task, token, retriable", Kept),
        ("7.3", "incarnation", Attested),
        ("7.16", "incarnation", Attested),
        ("7.5", "id", Environment),
        ("7.5", "key", Desire),
        ("7.10", "code", Failure),
    ],
)
def test_what_stands_inside_a_message_has_its_fields_in_order(section, beginning, kind):
    assert shape(section, beginning) == kind.__struct_fields__


def test_a_call_has_its_fields_in_order():
    match = re.search(r"call = (\[[^\]]*\])", sections()["7.5"].text)

    fields = specification.bracketed(" ".join(match[1].split()))

    assert tuple(fields) == Call.__struct_fields__


@pytest.mark.parametrize(("section", "kind"), [("7.2", Held), ("7.10", Status)])
def test_closed_sets_of_words_are_listed(section, kind):
    for word in kind:
        assert f'"{word}"' in sections()[section].text


# --- examples


def test_there_are_examples_of_nearly_everything():
    shown = {example.command[0] for example in examples()}

    assert set(KINDS) - shown <= {"beat", "bye-ack", "who"}


@pytest.mark.parametrize(
    "example", examples(), ids=lambda example: f"{example.section}-{example.command[0]}"
)
def test_an_example_decodes_and_its_speaker_may_say_it(example):
    control = msgspec.msgpack.encode(
        [PROTOCOL, specification.EPOCH, 1, 1, 0, [specification.whole(example)]]
    )

    if example.speaker == "B":
        frame = decode_broker(control)
    else:
        frame = decode_peer(control)
        role = SPEAKERS[example.speaker]
        kind = type(frame.commands[0])
        assert kind in MAY_SAY[role] or HELLOS.get(kind) is role

    (command,) = frame.commands
    assert command.__struct_config__.tag == example.command[0]
    assert example.is_cut or len(example.command) - 1 == len(command.__struct_fields__)


def test_the_example_of_welcome_shows_the_defaults():
    (shown,) = [example for example in examples() if example.command[0] == "welcome"]
    welcome = msgspec.convert(shown.command, Welcome)

    for name in set(Welcome.__struct_fields__) & set(Settings.__struct_fields__):
        assert getattr(welcome, name) == getattr(Settings(), name), name


# --- sections 5 and 6: framing and grammar


def test_the_limits_are_those_that_are_checked():
    (table,) = sections()["5"].tables
    told = {name: numbers(value) for name, value in table[1:]}
    settings = Settings()

    assert told["control frame"] == [codec.CONTROL_BYTES_MAX / 2**20]
    assert told["payload frames of a message"] == [codec.PAYLOAD_FRAMES_MAX]
    assert told["body and frames of one command"] == [settings.payload_bytes_max / 2**20]
    assert told["functions / templates known to one end"] == [
        settings.functions_max,
        settings.templates_max,
    ]
    text = " ".join(sections()["5"].text.split())
    assert f"at most {COMMANDS_MAX:,} commands" in text
    assert f"at most {codec.INLINE_BYTES_MAX:,} octets" in text
    assert f"protocol: integer, {PROTOCOL}." in text


# What 5.1 calls the arrays that are no commands.
ARRAYS = {
    "Environment": "an environment",
    "Desire": "a desire",
    "Sticky": "a sticky key",
    "Backoff": "a back-off",
}


def test_the_defaults_that_are_not_nothing_are_told():
    kinds = {
        kind
        for module in (wire.messages, parts, labels)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    }
    defaults = {
        (ARRAYS.get(kind.__name__, kind.__name__.upper()), field.name): field.default
        for kind in kinds
        for field in msgspec.structs.fields(kind)
        if not field.required
    }
    # Each field of *reuse* has one of its own.
    del defaults["an environment", "reuse"]

    told = {(of, field): json.loads(value) for of, field, value in sections()["5.1"].tables[0][1:]}

    nothing = (msgspec.NODEFAULT, 0, None, "", b"", ())
    assert told == {key: value for key, value in defaults.items() if value not in nothing}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_field_with_a_default_stands_behind_those_without(kind):
    fields = msgspec.structs.fields(kind)
    required = [field.required for field in fields]

    assert required == sorted(required, reverse=True)


def test_bodies_are_what_is_told_of_them():
    array = np.arange(4_096)
    small, large = dump((("a",), {"b": 1})), dump(((array,), {}))
    huge = dump((("x" * 5_000,), {}))

    assert pickle.loads(small[0]) == (("a",), {"b": 1})
    assert large[0]
    assert (pickle.loads(large[0], buffers=large[1])[0][0] == array).all()
    assert huge[0] == b""
    assert pickle.loads(huge[1][0], buffers=huge[1][1:]) == (("x" * 5_000,), {})


def test_the_least_that_a_client_says_is_a_conversation_with_the_broker():
    talk = Conversation(epoch=specification.EPOCH)
    actor = talk.actor(name="gpu1/0", free=1)
    heard = []
    talk.peers[b"least"] = SimpleNamespace(hears=lambda frame, payloads: heard.append(frame))

    for line in sections()["5.3"].code_lines:
        speaker, _, text = line.partition(": ")
        control = msgspec.msgpack.encode(specification.read_example(text))
        if speaker == "client":
            talk.broker.receive(b"least", decode_peer(control), [], talk.now)
            talk.flush()
            continue
        for assign in actor.takes(Assign):
            told = decode_broker(control).commands[0].body
            actor.ends((actor.epoch, assign.number), told, free=1)
        assert heard.pop(0) == decode_broker(control)
    assert heard == []


def test_the_grammar_lists_the_tags():
    rules = {name: {part.strip('"') for part in parts} for name, parts in grammar().items()}

    assert rules["both-tag"] == set(PEER) & set(BROKER)
    assert rules["peer-tag"] == set(PEER) - set(BROKER)
    assert rules["broker-tag"] == set(BROKER) - set(PEER)
    assert f"1*{COMMANDS_MAX}command" in rules["commands"]


@pytest.mark.parametrize("role", Role)
def test_the_grammar_says_what_a_role_says_and_hears(role):
    initial = role[0].upper()
    words = " ".join(grammar()[f"use-{role}"]).split()
    always = {"beat", "bye", "bye-ack", "error"}

    said = {word[2:].lower() for word in words if word.startswith(f"{initial}:")}
    heard = {word[2:].lower() for word in words if word.startswith("B:")}

    assert said == tags(MAY_SAY[role]) - always
    assert heard == tags(IS_TOLD[role]) - always


# --- section 8: numbers of a session


def test_hello_is_repeated_as_it_is_written():
    text = " ".join(sections()["8.1"].text.split())

    assert f"after {session.HELLO_REPEAT_FIRST_S} s" in text
    assert f"up to {session.HELLO_REPEAT_MAX_S:g} s" in text


def test_the_times_are_the_defaults():
    settings = Settings()
    table = sections()["10"].tables[0]
    told = [numbers(row[0])[0] for row in table[1:]]

    assert told == [settings.suspect_s, settings.lease_s, settings.gil_grace_s]
    assert f"`adopt_window` ({settings.adopt_window_s:g} s)" in sections()["8.4"].text
    assert f"`client_timeout` ({settings.client_timeout_s:g} s)" in sections()["10"].text
    text = " ".join(sections()["10"].text.split())
    assert f"After {settings.crashes_max} crashes" in text
    assert f"or {settings.losses_max} losses" in text


# --- section 12: errors


def test_every_code_is_listed_once():
    (table,) = sections()["12"].tables
    in_error = [row[0] for row in table[1:]]
    rest = sections()["12"].text.partition("as code:")[2]
    in_outcome = re.findall(r"[a-z]+(?:-[a-z]+)+|[a-z]+", re.sub(r"\([^)]*\)", "", rest))

    assert len(set(in_error + in_outcome)) == len(in_error + in_outcome)
    assert set(in_error + in_outcome) == set(Code)


# --- section 13: validity


def marked(table, column):
    return {row[0] for row in table[1:] if row[column] == "x"}


@pytest.mark.parametrize("role", Role)
def test_the_tables_of_validity_are_those_that_are_checked(role):
    says, is_told = sections()["13"].tables
    column = says[0].index(role)
    assert is_told[0][column] == role
    hello = {kind for kind, opened in HELLOS.items() if opened is role}

    assert marked(says, column) == tags(MAY_SAY[role] | hello)
    assert marked(is_told, column) == tags(IS_TOLD[role])


def test_the_tables_of_validity_are_whole():
    says, is_told = sections()["13"].tables

    assert {row[0] for row in says[1:]} == set(PEER)
    assert {row[0] for row in is_told[1:]} == set(BROKER) - tags({Welcome, Who})
    assert "error" in tags({Error})
