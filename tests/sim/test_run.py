"""Long runs of fresh seeds: what is done stays done, and a failure can be repeated."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim import run
from tests.sim.run import CHUNK, Work

ROOT = Path(__file__).resolve().parents[2]
STORY = "seed 7: a profile\na history\nAssertionError: lost"


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state.json"


def begun(state, *, commit="one"):
    """Return work of which the first part is done."""
    work = Work(state, commit, first=1000, seeds=3 * CHUNK, steps=9)
    work.note(work.chunks()[0], [(1007, STORY)])
    return work


def test_what_was_broken_off_goes_on_where_it_was(state):
    begun(state)

    work = Work.resume(state, "one", seeds=3 * CHUNK, steps=9)

    assert work is not None
    assert [chunk.start for chunk in work.chunks()] == [1000 + CHUNK, 1000 + 2 * CHUNK]
    assert work.failures == [(1007, STORY)]


@pytest.mark.parametrize(
    "asked",
    [
        {"commit": "two", "seeds": 3 * CHUNK, "steps": 9},
        {"commit": "one", "seeds": 4 * CHUNK, "steps": 9},
        {"commit": "one", "seeds": 3 * CHUNK, "steps": 8},
    ],
    ids=str,
)
def test_another_commit_or_number_starts_anew(state, asked):
    begun(state)

    assert Work.resume(state, **asked) is None


def test_what_is_done_starts_anew(state):
    work = begun(state)
    for chunk in work.chunks():
        work.note(chunk, [])

    assert Work.resume(state, "one", seeds=3 * CHUNK, steps=9) is None


def test_a_spoiled_state_file_starts_anew(state):
    state.write_text('{"commit": "on')

    assert Work.resume(state, "one", seeds=3 * CHUNK, steps=9) is None


def test_changes_to_the_tree_are_another_commit(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "x")
    names = [run.commit_of(tmp_path)]
    for text in ("b", "c"):
        (tmp_path / "file").write_text(text)
        names.append(run.commit_of(tmp_path))

    assert len(set(names)) == 3


def test_a_failure_is_told_with_its_history_and_the_command_that_repeats_it(
    state, monkeypatch, capsys
):
    def run_seed(seed, steps):
        return STORY if seed == 1007 else ""

    monkeypatch.setattr(run, "run_seed", run_seed)
    work = Work(state, "abc123", first=1000, seeds=3 * CHUNK, steps=9)

    status = run.run(work, 1, keep_going=False)

    said = capsys.readouterr().out
    assert status == 1
    assert "FAILED at commit abc123" in said
    assert "a history" in said
    assert "-m tests.sim.run --seed 1007 --steps 9" in said
    assert len(work.chunks()) == 2, "it stops there"


def test_a_failure_does_not_stop_what_is_to_keep_going(state, monkeypatch):
    monkeypatch.setattr(run, "run_seed", lambda seed, steps: STORY if seed == 1007 else "")
    work = Work(state, "abc123", first=1000, seeds=3 * CHUNK, steps=9)

    assert run.run(work, 1, keep_going=True) == 1
    assert work.chunks() == []


@pytest.mark.process
@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_the_same_command(state):
    command = [sys.executable, "-m", "tests.sim.run", "--jobs=2", "--steps=60", f"--state={state}"]
    command += ["--first=0", f"--seeds={6 * CHUNK}"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as killed:
        until_written(state, killed)
        killed.kill()

    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "going on after" in ran.stdout
    assert f"{6 * CHUNK} seeds from" in ran.stdout
    assert "seeds/s" in ran.stderr


def until_written(state, process):
    """Wait until some seeds are done, as the state file says."""
    while not state.exists():
        assert process.poll() is None, "it ended before it was killed"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.02)
