"""Read many pages with a model that takes two at a time, and hold it only while it works.

    python examples/pipeline.py [--model ocr|sleep] [--pages N] [--rounds N] [--quick]

Each page is one task of three steps, and waits for the network in the first and the last of them:

    download   from a small HTTP server of this process; many at once do no harm
    read       with the model, two at once on this machine
    save       to the same server; many at once do no harm

The same pages are read in several ways, which differ in what a task holds while it waits, and the
wall times are shown in one table. The model is an OCR engine on pages that are rendered here, or
with `--model sleep`, which needs no packages, a wait of `--step` seconds. The waits are to the
model step as in the example of Prefect's documentation for limits per worker (1 s, 3 s and 0.5 s).

Exit status 0: every page was saved every time, and never more than two were with the model.
"""

import argparse
import asyncio
import importlib.util
import io
import random
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from sdk import Client, Environment, LocalCluster, ReusePolicy, current_task, gather

AT_ONCE = 2  # Pages with the model, on one machine.
PAGES_AHEAD = 10  # Pages that are anywhere, where the model's places do not bound them.
WARMING_PAGES = 8
DOWNLOAD_SHARE = 1 / 3  # Of the model step.
SAVE_SHARE = 1 / 6

LINES = 3
WORDS = [
    "brown",
    "dogs",
    "fox",
    "jumps",
    "lazy",
    "mix",
    "over",
    "potions",
    "quartz",
    "quick",
    "seven",
]
PACKAGES = ("rapidocr", "onnxruntime", "PIL")


@dataclass
class Reading:
    text: str
    began: float  # Of the clock that all processes of a machine share.
    ended: float


# ---- What the actors run ---------------------------------------------------------------------


class Reader(Environment):
    """The model: loaded once in an actor, then used by page after page."""

    # Of those that take a plain slot: all that are in one copy share it.
    reuse = ReusePolicy(concurrency=PAGES_AHEAD // AT_ONCE)

    def enter(self, step_s: float | None = None) -> None:
        self.step_s = step_s
        if step_s is not None:
            return
        # Only who loads the model pays for the imports.
        import cv2  # noqa: PLC0415
        from rapidocr import RapidOCR  # noqa: PLC0415

        # One page, one core: more threads would take it from the other page.
        cv2.setNumThreads(1)
        self.engine = RapidOCR(
            params={
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.limit_side_len": 320,
                "Global.use_cls": False,
                "Global.log_level": "error",
            }
        )

    async def read(self, image: bytes) -> Reading:
        began = time.monotonic()
        if self.step_s is None:
            text = await asyncio.to_thread(self.recognize, image)
        else:
            await asyncio.sleep(self.step_s)
            text = image.decode()
        return Reading(text, began, time.monotonic())

    def recognize(self, image: bytes) -> str:
        return "\n".join(self.engine(image).txts or ())


async def hold_slot(number: int, port: int) -> Reading:
    """Keep the place at the model from the first step to the last."""
    image = await download(number, port)
    reading = await current_task().environment.read(image)
    await save(number, port, reading.text)
    return reading


async def release_slot(number: int, port: int) -> Reading:
    """Give the place at the model back when the model is done."""
    task = current_task()
    image = await download(number, port)
    reading = await task.environment.read(image)
    task.release_slot()  # From here on the next page is with the model.
    await save(number, port, reading.text)
    return reading


async def read_and_save(number: int, port: int, image: bytes) -> Reading:
    """Begin with what another task has downloaded: the place is never held for that."""
    task = current_task()
    reading = await task.environment.read(image)
    task.release_slot()
    await save(number, port, reading.text)
    return reading


async def limit_inside(number: int, port: int) -> Reading:
    """Share a plain slot all the time, and the machine's limit only while the model works."""
    task = current_task()
    image = await download(number, port)
    async with task.limit("host:gpu"):
        reading = await task.environment.read(image)
    await save(number, port, reading.text)
    return reading


async def download(number: int, port: int) -> bytes:
    return await ask(port, f"GET /{number} HTTP/1.0\r\n\r\n".encode())


async def save(number: int, port: int, text: str) -> None:
    body = text.encode()
    await ask(
        port, f"PUT /{number} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )


async def ask(port: int, request: bytes) -> bytes:
    """Send a request; return the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise ConnectionError(f"the server said {head!r}")
    return body


# ---- What this process does ------------------------------------------------------------------


@dataclass
class Way:
    name: str
    function: Callable[..., Awaitable[Reading]]
    options: dict[str, Any]
    downloads_apart: bool = False


MODEL_PLACE = {"slots": {"gpu": 1}}
WAYS = [
    Way("slots alone", hold_slot, MODEL_PLACE),
    Way("release_slot() before save", release_slot, MODEL_PLACE),
    Way("and download as a task of its own", read_and_save, MODEL_PLACE, downloads_apart=True),
    Way("a limit around the model step", limit_inside, {}),
]
# Two processes on one machine, with a place at the model each; the limit is the machine's.
ACTORS = [
    {
        "replicas": AT_ONCE,
        "slots": {"slot": PAGES_AHEAD // AT_ONCE, "gpu": 1},
        "limits": {"gpu": AT_ONCE},
    }
]


class Storage(ThreadingHTTPServer):
    """Where the pages come from and their texts go to, each after a wait."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, images: list[bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.images = images
        self.texts: dict[int, str] = {}
        self.download_s = self.save_s = 0.0

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Say nothing: whoever asked is told, and pages that miss are counted."""


class Exchange(BaseHTTPRequestHandler):
    server: Storage

    def do_GET(self) -> None:
        time.sleep(self.server.download_s)
        self.answer(self.server.images[int(self.path[1:])])

    def do_PUT(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        time.sleep(self.server.save_s)
        self.server.texts[int(self.path[1:])] = text
        self.answer(b"")

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Run:
    wall_s: float
    readings: list[Reading]
    texts: dict[int, str]
    errors: list[BaseException]

    @property
    def busy(self) -> float:
        """Return which share of the time the places at the model were in use."""
        used_s = sum(reading.ended - reading.began for reading in self.readings)
        return used_s / AT_ONCE / self.wall_s

    @property
    def at_once(self) -> int:
        """Return how many pages were with the model at once, at most."""
        # An end comes before a beginning of the same moment.
        moves = [(reading.began, 1) for reading in self.readings]
        moves += [(reading.ended, -1) for reading in self.readings]
        inside = most = 0
        for _, move in sorted(moves):
            inside += move
            most = max(most, inside)
        return most


def warm(client: Client, reader: Any, images: list[bytes]) -> float:
    """Load the model in all actors; return how long a page is with it, as many as may at once."""
    some = [images[number % len(images)] for number in range(WARMING_PAGES)]
    places = client.options(**MODEL_PLACE)
    for _ in range(2):
        readings = gather(places.map(reader.read, some))
    return statistics.median(reading.ended - reading.began for reading in readings)


def go(client: Client, reader: Any, way: Way, storage: Storage) -> Run:
    """Read all pages in one way."""
    storage.texts = {}
    numbers = range(len(storage.images))
    places = client.options(environment=reader, **way.options)
    arguments: list[Iterable[Any]] = [numbers, [storage.server_port] * len(numbers)]
    started = time.perf_counter()
    if way.downloads_apart:
        arguments.append(client.map(download, *arguments))
    futures = places.map(way.function, *arguments)
    outcomes = gather(futures, return_exceptions=True)
    wall_s = time.perf_counter() - started
    readings = [outcome for outcome in outcomes if isinstance(outcome, Reading)]
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    return Run(wall_s, readings, storage.texts, errors)


def write_pages(count: int) -> list[str]:
    """Return what stands on the pages, the same in each run."""
    words = random.Random(0)
    return [
        "\n".join(" ".join(words.choice(WORDS) for _ in range(4)) for _ in range(LINES))
        for _ in range(count)
    ]


def render(text: str) -> bytes:
    """Return a page as a PNG."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - the sleeping model needs none.

    page = Image.new("L", (480, 20 + 48 * LINES), 255)
    font = ImageFont.load_default(size=26)
    for place, line in enumerate(text.splitlines()):
        ImageDraw.Draw(page).text((20, 16 + 48 * place), line, font=font, fill=0)
    png = io.BytesIO()
    page.save(png, "PNG")
    return png.getvalue()


def run(options: argparse.Namespace) -> int:
    """Read the pages in all ways, show what came out; return the exit status."""
    texts = write_pages(options.pages)
    is_ocr = options.model == "ocr"
    reader = Reader.using(step_s=None if is_ocr else options.step)
    images = [render(text) if is_ocr else text.encode() for text in texts]
    runs: dict[str, list[Run]] = {way.name: [] for way in WAYS}
    with (
        Storage(images) as storage,
        LocalCluster(actors=ACTORS) as cluster,
        cluster.client() as client,
    ):
        step_s = warm(client, reader, images)
        storage.download_s, storage.save_s = step_s * DOWNLOAD_SHARE, step_s * SAVE_SHARE
        print(
            f"{options.pages} pages, model {options.model!r}, {AT_ONCE} at once; download"
            f" {storage.download_s:.2f} s, model step {step_s:.2f} s, save {storage.save_s:.2f} s;"
            f" rounds: {options.rounds}\n",
            flush=True,
        )
        # In turn, so that a busy moment of the machine meets all.
        for _ in range(options.rounds):
            for way in WAYS:
                runs[way.name].append(go(client, reader, way, storage))
    show(runs)
    return judge(runs, texts)


def show(runs: dict[str, list[Run]]) -> None:
    """Print the table: medians, with the lowest and the highest."""
    rows = [("", "wall s", "of slots alone", "model busy", "at once, at most")]
    base = runs[WAYS[0].name]
    for name, these in runs.items():
        walls = [run.wall_s for run in these]
        ratios = [run.wall_s / first.wall_s for run, first in zip(these, base, strict=True)]
        busy = statistics.median(run.busy for run in these)
        most = max(run.at_once for run in these)
        rows.append((name, spread(walls), spread(ratios), f"{busy:.0%}", str(most)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"| {' | '.join(cells)} |")


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def judge(runs: dict[str, list[Run]], texts: list[str]) -> int:
    """Say how much of the text was read as it was written; return the exit status."""
    status = lines = agreeing = 0
    for name, these in runs.items():
        for each in these:
            missing = len(texts) - len(each.texts)
            if missing or each.errors:
                error = f": {each.errors[0]!r}" if each.errors else ""
                print(f"pipeline: {name}: {missing} pages not saved{error}", file=sys.stderr)
                status = 1
            if each.at_once > AT_ONCE:
                print(f"pipeline: {name}: {each.at_once} pages with the model", file=sys.stderr)
                status = 1
            for number, text in each.texts.items():
                written, read = texts[number].splitlines(), text.splitlines()
                lines += len(written)
                agreeing += sum(map(str.__eq__, written, read))
    print(f"\n{agreeing} of {lines} lines read as they were written")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description="Read pages with a model for two at a time.")
    parser.add_argument("--model", choices=("ocr", "sleep"), default="ocr")
    parser.add_argument("--step", metavar="S", type=float, default=0.3, help="of --model sleep")
    parser.add_argument("--pages", metavar="N", type=int, default=20)
    parser.add_argument("--rounds", metavar="N", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="6 pages in one round")
    options = parser.parse_args()
    if options.quick:
        options.pages, options.rounds = 6, 1
    if min(options.pages, options.rounds) < 1 or options.step <= 0:
        parser.exit(2, "pipeline: --pages, --rounds and --step must be above 0\n")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if options.model == "ocr" and missing:
        wanted = "rapidocr onnxruntime pillow"
        parser.exit(2, f"pipeline: the model is missing: pip install {wanted}, or --model sleep\n")
    try:
        return run(options)
    except KeyboardInterrupt:
        print("pipeline: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
