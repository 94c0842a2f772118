"""Who may open a session: the keys in the broker's folder, as it is and as it changes."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import zmq
from zmq.auth import create_certificates
from zmq.utils import z85

from broker import keys
from broker.keys import DOMAIN, Keys
from tests.broker.conversation import actor_hello
from wire.errors import Code, RemoteProtocolError
from wire.keys import fingerprint, read_public
from wire.messages import PROTOCOL, Beat, ClientHello, Frame, HostHello
from wire.parts import Role

PEERS = {"gpu1": "actors", "gpu2": "actors", "lap": "clients"}


class FakeControl:
    """A frame with what ZeroMQ would know of its sender."""

    def __init__(self, octets=b"", **known):
        self.octets = octets
        self.known = {name.replace("_", "-"): value for name, value in known.items()}

    def __len__(self):
        return len(self.octets)

    def get(self, name):
        if name not in self.known:
            raise zmq.ZMQError(errno.EINVAL)
        return self.known[name]


class FakeCore:
    def __init__(self, *rids, role=Role.HOST):
        self.sessions = {rid: SimpleNamespace(role=role) for rid in rids}
        self.ended = {}

    def bad(self, rid, error, now):
        assert error.fatal
        assert error.code is Code.NOT_AUTHORIZED
        self.ended[rid] = error.message
        del self.sessions[rid]


@pytest.fixture
def folder(tmp_path):
    for role in ("actors", "clients"):
        (tmp_path / role).mkdir()
    create_certificates(tmp_path, "broker")
    (tmp_path / "broker.key_secret").chmod(0o600)
    for name, role in PEERS.items():
        create_certificates(tmp_path / role, name)
        (tmp_path / role / f"{name}.key_secret").unlink()
    return tmp_path


def public(folder, name):
    return read_public(folder / PEERS[name] / f"{name}.key")


def host_hello():
    return HostHello(90, "host", 4711)


def client_hello():
    return ClientHello(7, "me", "3.11")


def hello(command):
    return Frame(PROTOCOL, 0, 1, 0, 0, [command])


def check(keys, folder, name, command, rid=b"r"):
    key = name if isinstance(name, bytes) else public(folder, name)
    keys.check(rid, hello(command), FakeControl(b"x", User_Id=key.decode()))


def asked(key, *, mechanism=b"CURVE", domain=DOMAIN):
    return [b"1.0", b"7", domain, b"10.0.0.1", b"", mechanism, z85.decode(key)]


def is_let_in(keys, key, **more):
    _, version, number, status, _, user, _ = keys.answer(FakeControl(), asked(key, **more))
    assert (version, number) == (b"1.0", b"7")
    assert user == (key if status == b"200" else b"")
    return status == b"200"


HELLOS = {"actor": actor_hello, "host": host_hello, "client": client_hello}


@pytest.mark.parametrize("role", HELLOS)
def test_the_key_of_an_actor_is_one_of_a_host_an_actor_and_a_client(folder, role):
    check(Keys(folder), folder, "gpu1", HELLOS[role]())


@pytest.mark.parametrize("role", ["actor", "host"])
def test_the_key_of_a_client_is_no_more_than_that(folder, role):
    wanted = {"actor": "an actor", "host": "a host"}[role]
    with pytest.raises(RemoteProtocolError, match=f"'lap' is that of a client, .*{wanted}"):
        check(Keys(folder), folder, "lap", HELLOS[role]())

    check(Keys(folder), folder, "lap", client_hello())


def test_who_came_by_a_file_may_say_any_role(folder):
    for make in HELLOS.values():
        Keys(folder).check(b"r", hello(make()), FakeControl(b"x"))


def test_only_a_hello_is_looked_at(folder):
    class Unasked:
        def get(self, name):
            raise AssertionError(name)

    Keys(folder).check(b"r", Frame(PROTOCOL, 0, 1, 1, 0, [Beat()]), Unasked())
    Keys(folder).check(b"r", Frame(PROTOCOL, 0, 1, 1, 0, []), Unasked())


def test_a_handshake_is_let_in_with_a_key_that_is_there_and_with_no_other(folder):
    keys = Keys(folder)
    stranger, _ = zmq.curve_keypair()

    assert is_let_in(keys, public(folder, "gpu1"))
    assert is_let_in(keys, public(folder, "lap"))
    assert not is_let_in(keys, stranger)
    assert not is_let_in(keys, read_public(folder / "broker.key"))
    assert not is_let_in(keys, public(folder, "gpu1"), mechanism=b"NULL")
    assert not is_let_in(keys, public(folder, "gpu1"), domain=b"")
    refused = [fields for event, fields in keys.take_notes() if event == "key_refused"]
    assert refused[0] == {"address": "10.0.0.1", "key": fingerprint(stranger)}


def test_a_password_lets_nobody_in_and_is_not_logged(folder):
    keys = Keys(folder)
    request = [b"1.0", b"7", DOMAIN, b"10.0.0.1", b"", b"PLAIN", b"user", b"secret"]

    assert keys.answer(FakeControl(), request)[3] == b"400"
    assert "secret" not in str(keys.take_notes())


def test_what_comes_from_outside_is_no_question_of_zeromq(folder):
    keys = Keys(folder)
    request = asked(public(folder, "gpu1"))

    assert keys.answer(FakeControl(Peer_Address="10.0.0.1"), request) is None
    assert keys.answer(FakeControl(b"x"), request) is None
    assert keys.answer(FakeControl(), []) is None


def test_a_key_that_is_added_counts_at_once(folder):
    known = Keys(folder)
    create_certificates(folder / "clients", "new")
    key = read_public(folder / "clients" / "new.key")

    assert is_let_in(known, key)
    check(known, folder, key, client_hello())


def test_a_key_that_is_removed_counts_no_more_and_its_sessions_end(folder):
    known, core = Keys(folder), FakeCore(b"1", b"2", b"3")
    core.sessions[b"3"].role = Role.CLIENT
    gone = public(folder, "gpu1")
    check(known, folder, "gpu1", host_hello(), b"1")
    check(known, folder, "gpu2", host_hello(), b"2")
    check(known, folder, "lap", client_hello(), b"3")
    (folder / "actors" / "gpu1.key").unlink()

    known.look(core, 10.0)

    assert core.ended == {b"1": f"the key {fingerprint(gone)} is none that this broker knows now"}
    assert not is_let_in(known, gone)
    with pytest.raises(RemoteProtocolError) as raised:
        check(known, folder, gone, client_hello())
    assert raised.value.fatal


def test_a_key_that_becomes_a_clients_ends_what_was_an_actors(folder):
    known, core = Keys(folder), FakeCore(b"1", b"2")
    core.sessions[b"2"].role = Role.CLIENT
    check(known, folder, "gpu1", host_hello(), b"1")
    check(known, folder, "gpu1", client_hello(), b"2")
    (folder / "actors" / "gpu1.key").rename(folder / "clients" / "gpu1.key")

    known.look(core, 10.0)

    assert core.ended == {b"1": "the key 'gpu1' is that of a client, and not of a host"}


def test_a_hello_of_another_role_that_comes_to_nothing_does_not_change_what_a_session_is(folder):
    known, core = Keys(folder), FakeCore(b"1")
    check(known, folder, "gpu1", host_hello(), b"1")
    check(known, folder, "gpu1", client_hello(), b"1")
    (folder / "actors" / "gpu1.key").rename(folder / "clients" / "gpu1.key")

    known.look(core, 10.0)

    assert list(core.ended) == [b"1"]


def test_what_a_peer_calls_itself_in_octets_that_are_no_text_is_no_key(folder):
    class Own(FakeControl):
        def get(self, name):
            return b"\xff".decode()

    known = Keys(folder)

    with pytest.raises(RemoteProtocolError, match="is none that this broker knows"):
        known.check(b"r", hello(client_hello()), Own(b"x"))
    assert known.answer(Own(), asked(public(folder, "gpu1"))) is None


def test_a_key_that_comes_to_be_in_both_folders_is_a_clients_and_that_is_said(folder):
    known = Keys(folder)
    (folder / "clients" / "too.key").write_bytes((folder / "actors" / "gpu1.key").read_bytes())

    with pytest.raises(RemoteProtocolError, match="is that of a client"):
        check(known, folder, "gpu1", host_hello())

    (note,) = known.take_notes()
    assert note[0] == "keys_unusable"
    assert "too.key' has the key of 'gpu1' as well" in note[1]["reason"]
    with pytest.raises(ValueError, match="has the key of 'gpu1' as well"):
        Keys(folder)


def test_a_file_that_has_another_key_now_counts_with_the_next_heartbeat(folder):
    known, core = Keys(folder), FakeCore(b"1")
    former, path = public(folder, "gpu1"), folder / "actors" / "gpu1.key"
    check(known, folder, "gpu1", host_hello(), b"1")
    path.write_bytes(path.read_bytes().replace(former, zmq.curve_keypair()[0]))

    known.look(core, 10.0)

    assert list(core.ended) == [b"1"]
    assert is_let_in(known, public(folder, "gpu1"))
    assert not is_let_in(known, former)


def test_a_file_in_the_middle_of_being_written_ends_no_session(folder):
    known, core = Keys(folder), FakeCore(b"1")
    check(known, folder, "gpu1", host_hello(), b"1")
    (folder / "actors" / "gpu1.key").write_bytes(b"")

    known.look(core, 10.0)
    known.look(core, 20.0)

    assert core.ended == {}
    (note,) = known.take_notes()
    assert "it has no public key" in note[1]["reason"]


def test_a_file_that_anybody_may_write_lets_in_whom_it_let_in_before(folder):
    """Whoever reached it put a key of his own there, and was an actor."""
    known, core = Keys(folder), FakeCore(b"1")
    former, path = public(folder, "gpu1"), folder / "actors" / "gpu1.key"
    check(known, folder, "gpu1", host_hello(), b"1")
    path.chmod(0o666)
    his = zmq.curve_keypair()[0]
    path.write_bytes(path.read_bytes().replace(former, his))

    known.look(core, 10.0)

    assert core.ended == {}
    assert is_let_in(known, former)
    assert not is_let_in(known, his)
    assert "anybody may write it: chmod o-w" in known.take_notes()[0][1]["reason"]
    with pytest.raises(ValueError, match=r"gpu1.key' cannot be used: anybody may write it"):
        Keys(folder)


@pytest.mark.parametrize("opened", ["", "actors"])
def test_a_folder_in_which_anybody_may_write_meanwhile_lets_nobody_new_in(folder, opened):
    """It was looked at when the broker started, and never again."""
    known, core = Keys(folder), FakeCore(b"1")
    check(known, folder, "gpu1", host_hello(), b"1")
    (folder / opened).chmod(0o777)
    path, _ = create_certificates(folder / "actors", "his")
    his, removed = read_public(Path(path)), public(folder, "gpu2")
    (folder / "actors" / "gpu2.key").unlink()

    known.look(core, 10.0)

    assert core.ended == {}
    assert [is_let_in(known, key) for key in (public(folder, "gpu1"), his, removed)] == [
        True,
        False,
        False,
    ]
    assert [event for event, _ in known.take_notes()].count("keys_unusable") == 1
    (folder / opened).chmod(0o700)
    known.look(core, 20.0)
    assert is_let_in(known, his)


def test_a_file_that_could_not_be_read_for_a_moment_is_read_again(folder, monkeypatch):
    # Until it was written once more its key was unknown, or the one that it had before let in.
    known, core = Keys(folder), FakeCore()
    former, path = public(folder, "gpu1"), folder / "actors" / "gpu1.key"
    path.write_bytes(path.read_bytes().replace(former, zmq.curve_keypair()[0]))

    def exhausted(path):
        raise ValueError(f"key file {str(path)!r}: {os.strerror(24)}")

    with monkeypatch.context() as moment:
        moment.setattr(keys, "read_public", exhausted)
        known.look(core, 10.0)
        known.look(core, 20.0)
    assert is_let_in(known, former)
    known.look(core, 30.0)

    assert is_let_in(known, public(folder, "gpu1"))
    assert not is_let_in(known, former)
    assert [event for event, _ in known.take_notes()].count("keys_unusable") == 1


def test_a_folder_that_cannot_be_read_just_now_ends_no_session(folder, monkeypatch):
    known, core = Keys(folder), FakeCore(b"1")
    check(known, folder, "gpu1", host_hello(), b"1")

    def exhausted(self):
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(keys.Path, "iterdir", exhausted)
    known.look(core, 10.0)

    assert core.ended == {}
    assert "Too many open files" in known.take_notes()[0][1]["reason"]


def test_who_takes_all_descriptors_cannot_keep_a_key_that_is_removed(folder, monkeypatch):
    known, core = Keys(folder), FakeCore(b"1", b"2")
    check(known, folder, "gpu1", host_hello(), b"1")
    check(known, folder, "gpu2", host_hello(), b"2")
    gone = public(folder, "gpu1")

    def exhausted(self):
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(keys.Path, "iterdir", exhausted)
    (folder / "actors" / "gpu1.key").unlink()
    known.look(core, 10.0)

    assert list(core.ended) == [b"1"]
    assert not is_let_in(known, gone)


def test_a_folder_of_a_role_that_is_gone_has_nobody(folder):
    known, core = Keys(folder), FakeCore(b"1")
    check(known, folder, "gpu1", host_hello(), b"1")
    (folder / "actors").rename(folder / "formerly")

    known.look(core, 10.0)

    assert list(core.ended) == [b"1"]


def test_connections_without_a_session_are_forgotten(folder):
    known, core = Keys(folder), FakeCore(b"1")
    for rid in (b"1", b"2", b"3"):
        check(known, folder, "gpu1", host_hello(), rid)

    known.look(core, 10.0)

    assert list(known._admitted) == [b"1"]


def test_the_folder_is_looked_at_once_a_heartbeat(folder):
    known, core = Keys(folder, heartbeat_s=2.0), FakeCore(b"1")
    check(known, folder, "gpu1", host_hello(), b"1")
    known.look(core, 10.0)
    (folder / "actors" / "gpu1.key").unlink()

    known.look(core, 11.9)
    assert core.ended == {}

    known.look(core, 12.0)
    assert list(core.ended) == [b"1"]


def test_a_file_that_is_not_there_yet_is_no_key(folder):
    create_certificates(folder / "clients", ".new")
    (folder / "clients" / "notes.txt").write_text("mine")

    assert not is_let_in(Keys(folder), read_public(folder / "clients" / ".new.key"))


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda f: (f / "broker.key_secret").unlink(), "has no broker.key_secret: `warmslot keys"),
        (lambda f: (f / "broker.key_secret").chmod(0o644), "others can read it"),
        (lambda f: (f / "broker.key").unlink(), "broker.key' cannot be used"),
        (
            lambda f: (f / "broker.key").write_bytes((f / "actors/gpu1.key").read_bytes()),
            "broker.key is not of broker.key_secret",
        ),
        (lambda f: (f / "clients/bad.key").write_text("no"), "bad.key' cannot be used"),
        (lambda f: (f / "clients/dir.key").mkdir(), "dir.key' cannot be used: it is no file"),
        (lambda f: f.chmod(0o777), "anybody may write there"),
        (lambda f: (f / "actors").chmod(0o1777), "actors': anybody may write there"),
    ],
)
def test_a_broker_does_not_start_with_a_folder_that_is_wrong(folder, spoil, named):
    spoil(folder)

    with pytest.raises(ValueError, match="key") as raised:
        Keys(folder)
    assert named in str(raised.value)


def test_a_folder_that_is_mounted_to_be_read_only_may_have_any_mode(folder, monkeypatch):
    folder.chmod(0o1777)
    found = SimpleNamespace(f_flag=os.ST_RDONLY)

    monkeypatch.setattr(os, "statvfs", lambda _: found)

    assert is_let_in(Keys(folder), read_public(folder / "actors" / "gpu1.key"))
