"""The examples do what they say, and say what is wrong."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deployment import ROOT, environment

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(120)]

PATIENCE_S = 100.0
# It can be opened, also by root, and not be read where nothing is mapped.
UNREADABLE = Path("/proc/self/mem")
needs_model = pytest.mark.skipif(
    importlib.util.find_spec("magika") is None, reason="the demo's packages are not installed"
)


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(COLUMNS="120"),
        check=False,
    )


@pytest.fixture
def folder(tmp_path):
    """A few files of each kind, in two folders."""
    top = tmp_path / "files"
    (top / "below").mkdir(parents=True)
    for number in range(20):
        code = f"import os\n\n\ndef work_{number}(path):\n    return os.listdir(path)\n" * 9
        (top / f"code_{number}.py").write_text(code)
        (top / "below" / f"table_{number}.json").write_text(
            json.dumps({"a": [number] * 50}, indent=2)
        )
    (top / "empty.txt").touch()
    return top


def test_hello_prints_its_translation():
    done = run("hello.py")

    assert (done.returncode, done.stdout, done.stderr) == (0, "bonjour monde, with 512 MB\n", "")


@needs_model
def test_every_file_is_identified_and_reported(folder, tmp_path):
    report = tmp_path / "report.jsonl"

    done = run("identify_files.py", folder, "--report", report)

    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in report.read_text().splitlines()]
    labels = {record["path"].rpartition("/")[2]: record["label"] for record in records}
    assert len(labels) == len(records) == 41
    assert {labels[f"code_{n}.py"] for n in range(20)} == {"python"}
    assert {labels[f"table_{n}.json"] for n in range(20)} == {"json"}
    assert "41 of 41" in done.stdout
    assert re.search(r"1 cold", done.stdout)
    assert re.search(r"with release_slot\(\)", done.stdout)
    assert re.search(r"p50 [\d.]+ ms, p99 [\d.]+ ms", done.stdout)


@needs_model
@pytest.mark.skipif(not UNREADABLE.exists(), reason="no file that nobody can read")
def test_a_file_that_cannot_be_read_is_named_and_fails_the_run(tmp_path):
    (tmp_path / "readable.txt").write_text("Nothing but words, and a few of them.\n" * 9)
    (tmp_path / "unreadable").symlink_to(UNREADABLE)

    done = run("identify_files.py", tmp_path)

    assert done.returncode == 1
    assert "1 of 2" in done.stdout
    assert str(tmp_path / "unreadable") in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"), [(["no-such-folder"], "'no-such-folder'"), (["--frob"], "--frob")]
)
def test_a_bad_argument_is_told_with_status_2(arguments, named):
    if importlib.util.find_spec("rich") is None:
        pytest.skip("the demo's packages are not installed")

    done = run("identify_files.py", *arguments)

    assert done.returncode == 2
    assert named in done.stderr.splitlines()[-1]
