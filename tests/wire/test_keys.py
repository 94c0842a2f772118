"""Files of keys: which are taken, and what is said of those that are not."""

import pytest
import zmq
from zmq.auth import create_certificates

from wire.keys import (
    OwnKeys,
    check_name,
    fingerprint,
    is_key,
    load_own,
    own_keys,
    read_pair,
    read_public,
)


@pytest.fixture
def folder(tmp_path):
    """Make a peer's folder with tools of ZeroMQ alone."""
    made = tmp_path / "mine"
    made.mkdir()
    create_certificates(made, "gpu1")
    create_certificates(made, "broker")
    (made / "gpu1.key_secret").chmod(0o600)
    (made / "broker.key_secret").unlink()
    return made


def test_a_folder_that_other_tools_made_is_read(folder):
    own = load_own(folder)

    assert own.name == "gpu1"
    assert own.broker == read_public(folder / "broker.key")
    assert own.own.public == read_public(folder / "gpu1.key")
    assert zmq.curve_public(own.own.secret) == own.own.public


def test_a_secret_is_never_shown(folder):
    own = load_own(folder)

    assert own.own.secret.decode() not in repr(own)
    assert fingerprint(own.own.public) in repr(own)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o644])
def test_a_secret_that_others_could_read_is_refused(folder, mode):
    (folder / "gpu1.key_secret").chmod(mode)

    with pytest.raises(ValueError, match=r"gpu1.key_secret' cannot be used: others can read it"):
        load_own(folder)


@pytest.mark.parametrize(
    ("name", "said"), [("broker.key", "anybody may write it"), ("gpu1.key_secret", "others can")]
)
def test_a_file_that_anybody_may_write_is_refused(folder, name, said):
    """Whoever put his own key into the broker's had this peer talk to him."""
    (folder / name).chmod((folder / name).stat().st_mode | 0o002)

    with pytest.raises(ValueError, match=rf"{name}' cannot be used: {said}"):
        load_own(folder)


def rewrite(path, old, new):
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def cut_secret(folder):
    rewrite(folder / "gpu1.key_secret", "secret-key", "other-key")


def cut_public(folder):
    rewrite(folder / "broker.key", "public-key", "other-key")


def mix(folder):
    public, _ = zmq.curve_keypair()
    path = folder / "gpu1.key_secret"
    rewrite(path, read_public(path).decode(), public.decode())


def break_public(folder):
    path = folder / "broker.key"
    rewrite(path, read_public(path).decode(), "#" * 40)


def shorten(folder):
    path = folder / "broker.key"
    rewrite(path, read_public(path).decode(), "short")


def add_another(folder):
    (folder / "other.key_secret").write_text("")


WRONG = [
    (lambda folder: (folder / "broker.key").unlink(), "broker.key' cannot be used: No such file"),
    (lambda folder: (folder / "gpu1.key_secret").unlink(), "one NAME.key_secret, and has none"),
    (add_another, "has gpu1.key_secret, other.key_secret"),
    (cut_secret, "it has no secret key"),
    (cut_public, "it has no public key"),
    (lambda folder: (folder / "broker.key").write_text("public-key"), "it has no public key"),
    (mix, "its secret key is not that of its public one"),
    (break_public, "its public key is none of CURVE"),
    (shorten, "its public key is none of CURVE"),
    (lambda folder: (folder / "broker.key").write_bytes(b"\0" * 100_000), "it is no file of a key"),
    (lambda folder: (folder / "broker.key_secret").write_text(""), "the broker's own folder"),
]


@pytest.mark.parametrize(("spoil", "named"), WRONG)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(folder, spoil, named):
    spoil(folder)

    with pytest.raises(ValueError, match="key") as raised:
        load_own(folder)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="none' is not a folder"):
        load_own(tmp_path / "none")


def test_keys_are_for_endpoints_of_tcp_alone(folder):
    assert own_keys(folder, "ipc:///tmp/b") is None
    assert own_keys("/no/such/folder", "ipc:///tmp/b") is None
    assert own_keys("", "tcp://127.0.0.1:1") is None
    assert own_keys(None, "tcp://127.0.0.1:1") is None
    assert isinstance(own_keys(folder, "tcp://127.0.0.1:1"), OwnKeys)
    assert isinstance(own_keys(str(folder), "tcp://127.0.0.1:1"), OwnKeys)


@pytest.mark.parametrize("wrong", [5, b"/keys", ["keys"], True])
def test_what_is_no_path_is_no_folder_of_keys(wrong):
    with pytest.raises(TypeError, match="is not the path of a folder"):
        own_keys(wrong, "tcp://127.0.0.1:1")


@pytest.mark.parametrize("name", ["gpu1", "a", "Laptop-of_7", "1", "x" * 64])
def test_a_name_is_one_of_a_file(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".gpu", "a.key", "a/b", "../a", "-x", "a b", "a\n", "gpu\u0661", "\u00e9"),
        *("broker", "Broker", "x" * 65, "\udc80"),
    ],
)
def test_a_name_that_could_be_something_else_is_refused(name):
    with pytest.raises(ValueError, match="is not 1 to 64 letters"):
        check_name(name)


def test_a_pair_is_its_public_and_its_secret_key(folder):
    pair = read_pair(folder / "gpu1.key_secret")

    assert is_key(pair.public)
    assert is_key(pair.secret)
    assert not is_key(b"~" * 40)
    assert not is_key(b"0" * 39)
