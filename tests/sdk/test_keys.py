"""`warmslot keys`: what it makes, and what it never does."""

import json
import os
import stat

import pytest

from sdk.__main__ import main
from wire.keys import load_own, read_pair, read_public


@pytest.fixture
def keys(tmp_path, capsys):
    """Run `warmslot keys` with what is given for a folder, and return status and output."""

    def run(*change):
        status = main(["keys", str(tmp_path / "keys"), *change])
        return status, capsys.readouterr()

    run.folder = tmp_path / "keys"
    return run


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_first_time_it_makes_the_pair_of_the_broker_and_then_never_again(keys):
    status, said = keys()
    first = content(keys.folder)

    assert status == 0
    assert "made" in said.out
    pair = read_pair(keys.folder / "broker.key_secret")
    assert pair.public == read_public(keys.folder / "broker.key")
    assert keys() == (0, ("NAME    ROLE    KEY\n" + said.out.splitlines()[-1] + "\n", ""))
    assert content(keys.folder) == first


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_what_it_makes_nobody_else_can_read_or_write(keys, umask):
    former = os.umask(umask)
    try:
        keys("add", "gpu1", "actor")
    finally:
        os.umask(former)

    for path in [keys.folder, *keys.folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o644 if path.suffix == ".key" else 0o600), path
    assert not list(keys.folder.glob(".new-*"))


def test_a_bad_name_makes_nothing(keys):
    """It made the pair of the broker first, in whatever folder that was."""
    status, said = keys("add", "../x", "actor")

    assert status == 2
    assert "'../x'" in said.err
    assert not keys.folder.exists()


@pytest.mark.parametrize("role", ["actor", "client"])
def test_it_lets_somebody_in_and_leaves_a_folder_to_be_carried_there(keys, role):
    status, said = keys("add", "gpu1", role)

    assert status == 0
    carried = keys.folder / "carry" / "gpu1"
    assert f"{carried} is for that machine" in said.out
    assert sorted(path.name for path in carried.iterdir()) == ["broker.key", "gpu1.key_secret"]
    own = load_own(carried)
    assert own.broker == read_public(keys.folder / "broker.key")
    assert own.own.public == read_public(keys.folder / f"{role}s" / "gpu1.key")


def test_a_name_that_others_gave_twice_is_listed_twice_and_removed_from_both(keys):
    """Only the client's was, and the actor's was not even listed."""
    keys("add", "gpu1", "actor")
    keys("add", "lap", "client")
    (keys.folder / "clients" / "lap.key").rename(keys.folder / "clients" / "gpu1.key")

    _, listed = keys()
    status, said = keys("remove", "gpu1")

    assert [line.split()[:2] for line in listed.out.splitlines()[2:]] == [
        ["gpu1", "actor"],
        ["gpu1", "client"],
    ]
    assert (status, said.err) == (0, "")
    assert not list(keys.folder.glob("*s/*.key"))


def test_it_does_not_say_that_somebody_is_out_whose_key_is_there_under_another_name(keys):
    keys("add", "lap", "client")
    twin = keys.folder / "clients" / "laptop.key"
    twin.write_bytes((keys.folder / "clients" / "lap.key").read_bytes())

    status, said = keys("remove", "lap")

    assert status == 2
    assert f"lap is removed, but may connect: {twin} has the same key" in said.err
    assert keys("remove", "laptop")[0] == 0


def test_it_lists_who_may_connect(keys):
    keys("add", "gpu1", "actor")
    keys("add", "lap", "client")

    _, said = keys()
    rows = [line.split() for line in said.out.splitlines()]
    assert [row[:2] for row in rows[1:]] == [
        ["broker", "broker"],
        ["gpu1", "actor"],
        ["lap", "client"],
    ]
    _, said = keys("--json")
    assert [one["name"] for one in json.loads(said.out)["keys"]] == ["broker", "gpu1", "lap"]


def test_a_file_that_is_no_key_is_listed_as_what_it_is(keys):
    keys()
    (keys.folder / "clients" / "bad.key").write_text("no")

    status, said = keys()

    assert status == 0
    assert "bad     client  key file" in said.out


def test_it_removes_who_is_not_to_connect_any_more(keys):
    keys("add", "gpu1", "actor")

    status, said = keys("remove", "gpu1")

    assert status == 0
    assert "may not connect any more" in said.out
    assert not (keys.folder / "actors" / "gpu1.key").exists()
    assert not (keys.folder / "carry" / "gpu1").exists()
    assert keys("add", "gpu1", "client")[0] == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["add", "gpu1", "client"], "there is a key 'gpu1' already"),
        (["add", "gpu1", "actor"], "there is a key 'gpu1' already"),
        (["add", "../gpu2", "actor"], "name '../gpu2' is not"),
        (["add", "broker", "actor"], "name 'broker' is not"),
        (["add", "gpu2", "operator"], "keys add gpu2 operator: say `keys DIR`"),
        (["add", "gpu2"], "keys add gpu2: say"),
        (["list"], "keys list: say"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_and_changes_nothing(keys, change, named):
    keys("add", "gpu1", "actor")
    before = content(keys.folder)

    status, said = keys(*change)

    assert status == 2
    assert named in said.err
    assert said.err.count("\n") == 1
    assert content(keys.folder) == before


@pytest.mark.parametrize("name", ["gpu2", "../broker"])
def test_a_key_to_remove_that_is_not_there_ended_as_a_wrong_option_does(keys, name):
    keys("add", "gpu1", "actor")
    before = content(keys.folder)

    status, said = keys("remove", name)

    assert (status, said.err.count("\n")) == (1, 1)
    assert f"there is no key '{name}'" in said.err
    assert content(keys.folder) == before


def test_a_key_that_was_removed_by_hand_is_not_made_while_its_secret_is_about(keys):
    keys("add", "gpu1", "actor")
    (keys.folder / "actors" / "gpu1.key").unlink()

    status, said = keys("add", "gpu1", "actor")

    assert status == 2
    assert "is still there from a former key: remove it first" in said.err


def test_the_folder_of_a_peer_is_none_of_a_broker(keys):
    keys("add", "gpu1", "actor")
    carried = keys.folder / "carry" / "gpu1"

    assert main(["keys", str(carried)]) == 2
    assert sorted(path.name for path in carried.iterdir()) == ["broker.key", "gpu1.key_secret"]


def test_a_secret_that_others_can_read_is_not_worked_with(keys):
    keys()
    (keys.folder / "broker.key_secret").chmod(0o644)

    status, said = keys("add", "gpu1", "actor")

    assert status == 2
    assert "others can read it" in said.err


def test_where_it_may_not_write_it_says_so(keys, tmp_path):
    keys.folder.write_text("a file")

    status, said = keys()

    assert status == 1
    assert "File exists" in said.err
    assert said.err.count("\n") == 1


def test_a_pair_of_which_half_could_be_written_left_a_folder_that_no_broker_can_have(keys):
    keys.folder.mkdir(mode=0o700)
    (keys.folder / "broker.key_secret").symlink_to(keys.folder / "nowhere")
    assert keys()[0] == 1

    (keys.folder / "broker.key_secret").unlink()

    assert keys()[0] == 0


def test_what_is_to_be_read_by_a_program_is_nothing_else(keys):
    _, said = keys("--json")

    assert [one["role"] for one in json.loads(said.out)["keys"]] == ["broker"]
