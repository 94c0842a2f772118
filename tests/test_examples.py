"""The examples do what they say, and say what is wrong."""

import importlib.util
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deployment import ROOT, environment

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = 100.0
# It can be opened, also by root, and not be read where nothing is mapped.
UNREADABLE = Path("/proc/self/mem")
needs_model = pytest.mark.skipif(
    importlib.util.find_spec("magika") is None, reason="the demo's packages are not installed"
)
needs_ocr = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("rapidocr", "onnxruntime", "PIL"))),
    reason="the packages of the extra 'pipeline' are not installed (make pipeline installs them)",
)


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(COLUMNS="120"),
        check=False,
    )
    done.stderr = complaints(done.stderr)
    return done


def complaints(errors):
    """Leave out that a broker was waited for, as is said where a busy machine starts it slowly."""
    return re.sub(r".*\] broker_(?:unreachable|reached) .*\n", "", errors)


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


def test_the_warm_actor_is_preferred_and_the_small_one_never_taken():
    done = run("worker_affinity.py", "--tasks", 10)

    assert (done.returncode, done.stderr) == (0, "")
    alone, together = done.stdout.splitlines()
    assert alone == "one at a time: warm 10, cold 0, small 0"
    warm, cold, small = map(int, re.findall(r"\d+", together))
    assert (warm + cold, small) == (10, 0)
    assert cold > 0, "nobody waits for the warm one while another is free"


def test_batches_are_at_least_twice_as_fast():
    done = run("batching.py", "--quick")

    assert (done.returncode, done.stderr) == (0, "")
    single, batched = (line.split("|") for line in done.stdout.splitlines()[3:5])
    assert (single[1].strip(), batched[1].strip()) == ("one at a time", "@batch")
    assert int(single[4]) == 100
    assert int(batched[4]) < 50


def test_models_are_swapped_and_nobody_finds_another_one():
    done = run("evict_and_load.py", "--requests", 100)

    assert (done.returncode, done.stderr) == (0, "")
    requested, required, stale = done.stdout.splitlines()
    assert re.match(r"100 requests loaded a model \d+ times: small \d+, medium \d+", requested)
    assert required.startswith("100 tasks required one")
    assert stale == "0 tasks started where another model was"


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


@pytest.mark.skipif(
    importlib.util.find_spec("rich") is not None, reason="the demo's packages are installed"
)
def test_the_demo_without_its_packages_names_what_to_install():
    done = run("identify_files.py")

    assert done.returncode == 2
    assert "pip install rich magika" in done.stderr


def check_pipeline(done):
    """Expect 6 pages of 3 lines to be saved in each way, and two at a time with the model."""
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.strip("|").split("|") for line in done.stdout.splitlines() if line[:1] == "|"][2:]
    assert [row[0].strip() for row in rows] == [
        "slots alone",
        "release_slot() before save",
        "and download as a task of its own",
        "a limit around the model step",
    ]
    assert {int(row[-1]) for row in rows} <= {1, 2}
    agreeing, lines = map(int, re.search(r"(\d+) of (\d+) lines", done.stdout).groups())
    assert lines == 4 * 6 * 3
    assert agreeing >= 0.9 * lines


def test_the_pipeline_saves_every_page_in_every_way():
    check_pipeline(run("pipeline.py", "--model", "sleep", "--step", "0.1", "--quick"))


@needs_ocr
def test_the_pipeline_reads_pages_with_a_real_model():
    check_pipeline(run("pipeline.py", "--quick"))


def check_service(done):
    """Expect every page to be read, by more copies than one while there was much to do."""
    assert (done.returncode, done.stderr) == (0, "")
    agreeing, lines = map(int, re.search(r"(\d+) of (\d+) lines", done.stdout).groups())
    assert agreeing >= 0.9 * lines > 0
    first, most, last = map(int, re.search(r"copies: (\d) .* (\d) .* (\d) ", done.stdout).groups())
    assert (first, last) == (1, 1)
    assert 2 <= most <= 3
    rows = [line.split() for line in done.stdout.splitlines() if "#" in line]
    assert {row[-4].strip("=") for row in rows} >= {"#", "#" * most}


def test_the_service_has_as_many_copies_as_its_load_needs():
    check_service(run("reading_service.py", "--model", "sleep", "--quick"))


@needs_ocr
def test_the_service_reads_pages_with_a_real_model_and_draws_how():
    check_service(run("reading_service.py", "--seconds", 20))


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is not None, reason="matplotlib is installed"
)
def test_a_picture_of_the_service_without_its_package_names_what_to_install():
    done = run("reading_service.py", "--model", "sleep", "--plot", "service.svg")

    assert done.returncode == 2
    assert "pip install matplotlib" in done.stderr


def test_an_interrupted_pipeline_leaves_nothing_behind():
    command = [sys.executable, str(ROOT / "examples" / "pipeline.py"), "--model", "sleep"]
    with subprocess.Popen(
        [*command, "--pages", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        # It submits them when it has said so; a child that stays fails any test.
        assert process.stdout.readline().startswith("1000 pages")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130
    # Whether the pages were on their way already, so that the client has some to cancel, is chance.
    canceled = r"(.*\] tasks_canceled .* reason='the client was closed'\n)?"
    assert re.fullmatch(rf"{canceled}pipeline: interrupted\n", complaints(errors))


@pytest.mark.skipif(
    importlib.util.find_spec("rapidocr") is not None, reason="the model is installed"
)
def test_a_pipeline_without_its_model_names_what_to_install():
    done = run("pipeline.py")

    assert done.returncode == 2
    assert "pip install rapidocr" in done.stderr
    assert "--model sleep" in done.stderr


def test_the_counter_survives_its_kills():
    done = run("counter.py", "--kills", 3)

    assert done.returncode == 0, done.stderr
    assert "60 increments, 3 kills: 0 lost, 0 repeated" in done.stdout
