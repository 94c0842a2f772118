"""Identify the content type of every file below some folders, on actors that keep the model loaded.

    python examples/identify_files.py [DIR...] [--report FILE]

Three steps, and each holds only what it needs:

    read      on the small actor; needs no model
    identify  on the actor with memory > 256, in its one slot, with the model that stays loaded
    report    the same task in the same actor, but after release_slot(): the next one has the slot

Without a DIR it takes Python's own standard library. Exit status 0: every file was identified.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress
    from rich.table import Table
except ModuleNotFoundError:
    print("identify_files: a package is missing: pip install rich magika", file=sys.stderr)
    sys.exit(2)

from sdk import (
    Client,
    Comparator,
    Desired,
    Environment,
    LocalCluster,
    ReusePolicy,
    as_completed,
    current_task,
    gather,
)

# Other people's packages, and compiled copies of files that are identified anyway.
FOLDERS_SKIPPED = {"site-packages", "__pycache__"}

BATCH_FILES = 16
BATCHES_AHEAD = 64
BATCHES_MEASURED = 8
EMPTY_TASKS = 300
EDGE_BYTES = 16 * 1024  # The model looks at the first and the last 4 KiB of a file.

# Extensions that say what is in a file, to check a sample of the answers against.
TELLING = {"c", "css", "gif", "html", "json", "pdf", "png", "py", "toml", "wav", "xml", "zip"}
SAMPLE_FILES = 300

NEEDS_MODEL = {"memory": Desired(256, Comparator.GREATER_THAN)}
NEEDS_NO_MODEL = {"memory": Desired(comparator=Comparator.NOT_EXISTS)}


@dataclass
class Answer:
    path: str
    label: str
    mime: str
    score: float
    extensions: list[str]


@dataclass
class Batch:
    answers: list[Answer]
    load_s: float | None  # Of a cold run: what loading the model took.


# ---- What the actors run ---------------------------------------------------------------------


class FileTypes(Environment):
    """The model: loaded once in an actor, then used by task after task."""

    reuse = ReusePolicy(replicas=(1, 2), idle_ttl=60)

    def enter(self) -> None:
        started = time.perf_counter()
        # Only who loads the model pays for the imports.
        import onnxruntime  # noqa: PLC0415
        from magika import Magika  # noqa: PLC0415

        class OneThread(Magika):
            """One slot, one core: threads that wait by spinning would take it from the others."""

            def _init_onnx_session(self) -> onnxruntime.InferenceSession:
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = 1
                return onnxruntime.InferenceSession(self._model_path, options)

        self.model = OneThread()
        self.load_s: float | None = time.perf_counter() - started

    def identify(self, contents: dict[str, bytes]) -> Batch:
        load_s, self.load_s = self.load_s, None
        answers = []
        for path, content in contents.items():
            result = self.model.identify_bytes(content)
            kind, label = result.output, str(result.output.label)
            answers.append(Answer(path, label, kind.mime_type, result.score, kind.extensions))
        return Batch(answers, load_s)


def read(paths: list[str]) -> dict[str, bytes]:
    """Return the beginning and the end of each file; what cannot be read is left out."""
    contents = {}
    for path in paths:
        with suppress(OSError), Path(path).open("rb") as file:
            head = file.read(EDGE_BYTES)
            file.seek(max(EDGE_BYTES, file.seek(0, os.SEEK_END) - EDGE_BYTES))
            contents[path] = head + file.read()
    return contents


def identify(contents: dict[str, bytes], report: str) -> Batch:
    """Identify files with the resident model, then write their records below *report*."""
    task = current_task()
    batch = task.environment.identify(contents)
    task.release_slot()  # From here on the next batch is with the model.
    write_report(batch.answers, report)
    return batch


def identify_and_hold(contents: dict[str, bytes], report: str) -> Batch:
    """Do the same with the slot held to the end, to see what releasing it is worth."""
    batch = current_task().environment.identify(contents)
    write_report(batch.answers, report)
    return batch


def identify_cold(contents: dict[str, bytes]) -> Batch:
    """Identify files as one would with nothing resident: load the model in the task."""
    types = FileTypes()
    types.enter()
    return types.identify(contents)


def nothing() -> None:
    pass


def write_report(answers: list[Answer], report: str) -> None:
    """Write each file's record, whole or not at all, also when a task runs twice or power fails."""
    for answer in answers:
        with Path(answer.path).open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        name = hashlib.sha256(os.fsencode(answer.path)).hexdigest()
        fresh = Path(report, f"{name}.{os.getpid()}")
        with fresh.open("w") as file:
            json.dump(asdict(answer) | {"sha256": checksum}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(Path(report, f"{name}.json"))
        folder = os.open(report, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


# ---- What this process does ------------------------------------------------------------------


def identify_all(client: Client, paths: list[str], report: str) -> list[Batch]:
    """Identify the files and show how far it is; a file that could not be read is in no batch."""
    small = client.options(desired_labels=NEEDS_NO_MODEL)
    warm = client.options(desired_labels=NEEDS_MODEL, environment=FileTypes)
    identifying = []
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        bar_read = progress.add_task("read", total=len(paths))
        bar_identified = progress.add_task("identified", total=len(paths))

        def advance(future) -> None:
            if not future.cancelled() and future.exception() is None:
                progress.advance(bar_identified, len(future.result().answers))

        # A folder of any size must not end up in memory: only so much of it is read ahead.
        for ahead in split(split(paths, BATCH_FILES), BATCHES_AHEAD):
            for reading in as_completed(small.map(read, ahead)):
                contents = reading.result()
                progress.advance(bar_read, len(contents))
                future = warm.submit(identify, contents, report)
                future.add_done_callback(advance)
                identifying.append(future)
        return gather(identifying)


def measure(client: Client, paths: list[str], runs: int, report: str) -> dict[str, str]:
    """Return what the warm model and release_slot() are worth, and what an empty task costs."""
    cold = client.options(desired_labels=NEEDS_MODEL)
    warm = client.options(desired_labels=NEEDS_MODEL, environment=FileTypes)
    few = [read(batch) for batch in split(paths, BATCH_FILES)[:BATCHES_MEASURED]]

    load_s = statistics.mean(batch.load_s for batch in gather(cold.map(identify_cold, few)))

    # In turn, so that a busy moment of the machine meets both.
    walls_s: dict[str, list[float]] = {"released": [], "held": []}
    for _ in range(2):
        for slot, function in (("released", identify), ("held", identify_and_hold)):
            started = time.perf_counter()
            gather(warm.map(function, few, [report] * len(few)))
            walls_s[slot].append(time.perf_counter() - started)
    released_s, held_s = map(min, walls_s.values())

    empty_ms = []
    for _ in range(EMPTY_TASKS):
        started = time.perf_counter()
        warm.submit(nothing).result()
        empty_ms.append((time.perf_counter() - started) * 1e3)
    cuts = statistics.quantiles(empty_ms, n=100)
    return {
        f"loading each time (of {len(few)})": f"+{load_s * runs:.1f} s, {load_s * 1e3:.0f} ms each",
        f"{len(few)} batches": f"{released_s:.2f} s with release_slot(), {held_s:.2f} s without",
        "empty task, submit to result": f"p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms",
    }


def agreement(answers: list[Answer]) -> str:
    """Return for how many files of a sample the model and the extension say the same."""
    extensions = {answer.path: Path(answer.path).suffix[1:] for answer in answers}
    telling = [
        each for each in answers if extensions[each.path] in TELLING and each.label != "empty"
    ]
    sample = random.Random(0).sample(telling, min(SAMPLE_FILES, len(telling)))
    agreeing = sum(extensions[answer.path] in answer.extensions for answer in sample)
    return f"{agreeing} of a sample of {len(sample)}"


def show(batches: list[Batch], files: int, wall_s: float, measured: dict[str, str]) -> None:
    answers = [answer for batch in batches for answer in batch.answers]
    most = Counter(answer.label for answer in answers).most_common(5)
    loads_s = [batch.load_s for batch in batches if batch.load_s is not None]
    table = Table(show_header=False)
    table.add_row("files identified", f"{len(answers)} of {files}")
    table.add_row("most of them", ", ".join(f"{count} {label}" for label, count in most))
    table.add_row("the extension agrees", agreement(answers))
    table.add_row("wall time", f"{wall_s:.1f} s, {len(answers) / wall_s:.0f} files a second")
    cold = f"{len(loads_s)} cold, loading took {sum(loads_s):.2f} s"
    table.add_row("runs of the model", f"{len(batches) - len(loads_s)} warm, {cold}")
    for name, figure in measured.items():
        table.add_row(name, figure)
    Console().print(table)


def find_files(top: Path) -> Iterator[str]:
    for folder, below, names in os.walk(top.resolve()):
        below[:] = sorted(set(below) - FOLDERS_SKIPPED)
        paths = (Path(folder, name) for name in sorted(names))
        yield from (str(path) for path in paths if path.is_file())


def split(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def run(paths: list[str], kept_report: Path | None) -> int:
    """Identify the files, measure, show what came out; return the exit status."""
    actors = [{"slots": 1, "labels": {"memory": 512}}, {"slots": 2}]
    with (
        tempfile.TemporaryDirectory(prefix="identify-files-") as report,
        LocalCluster(actors=actors) as cluster,
        cluster.client() as client,
    ):
        started = time.perf_counter()
        batches = identify_all(client, paths, report)
        wall_s = time.perf_counter() - started
        if kept_report is not None:
            records = sorted(path.read_text() + "\n" for path in Path(report).glob("*.json"))
            kept_report.write_text("".join(records))
        measured = measure(client, paths, len(batches), report)
    show(batches, len(paths), wall_s, measured)
    answered = {answer.path for batch in batches for answer in batch.answers}
    unanswered = [path for path in paths if path not in answered]
    for path in unanswered[:10]:
        print(f"identify_files: not answered, it cannot be read: {path}", file=sys.stderr)
    return 1 if unanswered else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Identify the content type of files.")
    parser.add_argument("folders", metavar="DIR", nargs="*", type=Path, help="default: the stdlib")
    parser.add_argument("--report", metavar="FILE", type=Path, help="keep it: a JSON line per file")
    options = parser.parse_args()
    folders = options.folders or [Path(sysconfig.get_path("stdlib"))]
    for folder in folders:
        if not folder.is_dir():
            parser.exit(2, f"identify_files: {str(folder)!r} is not a folder\n")
    if importlib.util.find_spec("magika") is None:
        parser.exit(2, "identify_files: the model is missing: pip install magika\n")
    paths = list(dict.fromkeys(path for folder in folders for path in find_files(folder)))
    if not paths:
        parser.exit(2, f"identify_files: no files below {', '.join(map(str, folders))}\n")
    try:
        return run(paths, options.report)
    except KeyboardInterrupt:
        print("identify_files: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
