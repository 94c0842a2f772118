"""A name is held by one host at a time, and leaves no file behind."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from actor.machine import names
from actor.machine.names import NameTaken, hold_name

ENDPOINT = "tcp://127.0.0.1:1"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"warmslot-{os.getuid()}"


def test_a_name_that_is_given_back_leaves_no_file(folder):
    held = hold_name("h", ENDPOINT)
    assert len(list(folder.iterdir())) == 1

    held.release()

    assert list(folder.iterdir()) == []


def test_a_file_that_a_killed_host_left_is_taken_over(folder):
    hold_name("h", ENDPOINT).release()
    (folder / "stale").touch()
    held = hold_name("h", ENDPOINT)
    (left,) = [path for path in folder.iterdir() if path.name != "stale"]
    held.release()
    left.touch()

    again = hold_name("h", ENDPOINT)

    with pytest.raises(NameTaken):
        hold_name("h", ENDPOINT)
    again.release()


def test_the_lock_of_a_file_that_was_removed_meanwhile_does_not_count(folder, monkeypatch):
    former = hold_name("h", ENDPOINT)
    flock = names.fcntl.flock

    def release_first(fd, operation):
        monkeypatch.setattr(names.fcntl, "flock", flock)
        former.release()
        flock(fd, operation)

    monkeypatch.setattr(names.fcntl, "flock", release_first)
    held = hold_name("h", ENDPOINT)

    with pytest.raises(NameTaken):
        hold_name("h", ENDPOINT)
    held.release()


def test_only_one_of_many_has_the_name_at_a_time(folder):
    inside = []
    most = []

    def work(_):
        for _ in range(50):
            try:
                held = hold_name("h", ENDPOINT)
            except NameTaken:
                continue
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            held.release()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    assert set(most) == {1}


def test_a_start_removes_what_killed_hosts_have_left(folder):
    alive = hold_name("alive", ENDPOINT)
    stale, new = folder / "0-stale.lock", folder / "0-new.lock"
    for path in (stale, new, *folder.iterdir()):
        path.touch()
        if path is not new:
            os.utime(path, (1.0, 1.0))

    held = hold_name("h", ENDPOINT)

    assert not stale.exists()
    assert new.exists()
    with pytest.raises(NameTaken):
        hold_name("alive", ENDPOINT)
    alive.release()
    held.release()
