"""A service that reads pages: one copy of its model when it is quiet, three when much is to do.

    python examples/reading_service.py [--model ocr|sleep] [--seconds S] [--plot FILE.svg] [--quick]

The load rises to more than two copies can bear, stays, falls and ends. The broker has the host
start one more actor while pages wait, at most three, and lets those go that had nothing to do for
`scaledown_ttl`. What came of it is drawn in the terminal: pages a second, copies, and for how long
pages waited; with --plot also as a picture (SVG, PNG or PDF), for which matplotlib must be there.

The model is an OCR engine on pages that are rendered here, or with `--model sleep`, which needs no
packages, a wait of `--step` seconds, after one second of loading. Without --broker it starts a
broker and a host of its own, as `python -m actor --replicas 1:3` is one.

Exit status 0: every page was read, by never more than three copies.
"""

import argparse
import importlib.util
import math
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import PACKAGES, Reader, render, write_pages

from sdk import Client, LocalCluster, ReusePolicy, TaskFuture, gather

REPLICAS = (1, 3)
# Load at the begin and at the peak, in pages a second for each that one copy reads in a second.
LOW, PEAK = 0.3, 2.2
# Shares of the time: quiet, rising, peak, falling. Then nothing, until one copy is left.
PHASES = (0.2, 0.3, 0.3, 0.2)
LOAD_S = 1.0
ROWS_MAX = 36
LOOK_INTERVAL_S = 0.1
TIMEOUT_S = 120.0


class Service(Reader):
    """The model of the pipeline, for one page at a time and in as many copies as are needed."""

    reuse = ReusePolicy(replicas=REPLICAS, scaledown_ttl=2.0, idle_ttl=600)

    def enter(self, step_s=None):
        if step_s is not None:
            time.sleep(LOAD_S)
        super().enter(step_s)

    def read_page(self, image):
        """Return the text, and when it was begun, in the clock that a machine's processes share."""
        began = time.monotonic()
        if self.step_s is None:
            return self.recognize(image), began
        time.sleep(self.step_s)
        return image.decode(), began


@dataclass
class Story:
    """What was seen: when pages were submitted, for how long they waited, how many copies."""

    began: float = field(default_factory=time.monotonic)
    submitted: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    looks: list[tuple[float, int]] = field(default_factory=list)

    def now(self) -> float:
        return time.monotonic() - self.began

    def watch(self, client: Client, is_over: threading.Event) -> None:
        """Count the copies until it is over."""
        while not is_over.wait(LOOK_INTERVAL_S):
            found = client.query("environments", timeout=TIMEOUT_S)["environments"]
            self.looks.append((time.monotonic(), sum(one["warm"] for one in found)))


def load_at(share: float) -> float:
    """Return the load at a moment, which is given as a share of the time."""
    levels = (LOW, LOW, PEAK, PEAK, LOW)
    for phase, before, after in zip(PHASES, levels, levels[1:], strict=True):
        if share < phase:
            return before + (after - before) * share / phase
        share -= phase
    return LOW


def serve(
    client: Client, service: type[Service], images: list[bytes], story: Story, seconds: float
) -> tuple[list[TaskFuture], float]:
    """Submit pages as the load says; return their futures, and how long a copy needs for one."""
    measured = []
    for image in images[:6]:
        at = time.monotonic()
        client.submit(service.read_page, image).result(TIMEOUT_S)
        measured.append(time.monotonic() - at)
    page_s = statistics.median(measured[1:])  # The first waited for the model.
    story.began = time.monotonic()
    futures: list[TaskFuture] = []
    due, clock = 0.0, threading.Event()
    while due < seconds:
        clock.wait(max(0.0, due - story.now()))
        story.submitted.append(story.now())
        futures.append(client.submit(service.read_page, images[len(futures) % len(images)]))
        due += page_s / load_at(due / seconds)
    return futures, page_s


def draw(story: Story, seconds: float) -> None:
    """Print one line for each span of time."""
    end = max([seconds, *(at for at, _ in story.looks)])
    span = max(0.5, end / ROWS_MAX)
    print("     s  pages/s                   copies  waited, median")
    most = max(story.waits)
    for row in range(math.ceil(end / span)):
        begin, until = row * span, (row + 1) * span
        mine = [n for n, at in enumerate(story.submitted) if begin <= at < until]
        copies = [count for at, count in story.looks if begin <= at < until]
        waits = [story.waits[n] for n in mine]
        wait = statistics.median(waits) if waits else 0.0
        rate = len(mine) / span
        print(
            f"{begin:6.1f}  {rate:5.1f} {'=' * min(18, round(rate)):<18}"
            f"  {'#' * max(copies, default=0):<6}"
            f"  {wait:6.2f} s {'*' * round(24 * wait / most) if most else ''}".rstrip()
        )


def plot(story: Story, path: Path) -> None:
    """Draw the same as a picture."""
    import matplotlib as mpl  # noqa: PLC0415 - only who wants a picture needs it.

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, (copies, waits) = plt.subplots(2, sharex=True, figsize=(9, 5), layout="constrained")
    copies.step(*zip(*story.looks, strict=True), where="post", label="copies of the model")
    copies.hist(
        story.submitted,
        bins=max(1, int(max(story.submitted))),
        histtype="step",
        color="tab:gray",
        label="pages submitted in a second",
    )
    copies.legend(loc="upper right")
    waits.plot(story.submitted, story.waits, ".", color="tab:red")
    waits.set(xlabel="submitted after, s", ylabel="waited, s")
    figure.savefig(path)
    plt.close(figure)


def run(options: argparse.Namespace) -> int:
    texts = write_pages(20)
    is_ocr = options.model == "ocr"
    images = [render(text) if is_ocr else text.encode() for text in texts]
    service = Service.using(step_s=None if is_ocr else options.step)
    with ExitStack() as stack:
        if options.broker:
            client = stack.enter_context(Client(options.broker, connect_timeout=5.0))
        else:
            host = {"replicas": REPLICAS, "slots": 1, "prefetch": 0}
            cluster = stack.enter_context(LocalCluster([host]))
            client = stack.enter_context(cluster.client())
        story, is_over = Story(), threading.Event()
        watcher = threading.Thread(target=story.watch, args=(client, is_over))
        futures, page_s = [], 0.0
        try:
            watcher.start()
            futures, page_s = serve(client, service, images, story, options.seconds)
            outcomes = gather(futures, return_exceptions=True, timeout=TIMEOUT_S)
            # Those that are not needed any more go, unless somebody else uses them.
            until = story.now() + 30.0
            while story.looks[-1][1] > REPLICAS[0] and story.now() < until:
                is_over.wait(LOOK_INTERVAL_S)
            is_over.wait(1.0)
        finally:
            is_over.set()
            watcher.join()
    looks = [(at - story.began, copies) for at, copies in story.looks]
    story.looks = [look for look in looks if look[0] >= 0]
    return report(options, story, outcomes, texts, page_s)


def report(
    options: argparse.Namespace,
    story: Story,
    outcomes: list,
    texts: list[str],
    page_s: float,
) -> int:
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if failed:
        print(f"reading_service: {len(failed)} not read: {failed[0]!r}", file=sys.stderr)
        return 1
    begins = [began - story.began for _, began in outcomes]
    story.waits = [max(0.0, b - s) for b, s in zip(begins, story.submitted, strict=True)]
    draw(story, options.seconds)
    lines = agreeing = 0
    for number, (text, _) in enumerate(outcomes):
        written, read = texts[number % len(texts)].splitlines(), text.splitlines()
        lines += len(written)
        agreeing += sum(map(str.__eq__, written, read))
    counts = [count for _, count in story.looks]
    print(
        f"\n{len(outcomes)} pages, {page_s * 1000:.0f} ms each; {agreeing} of {lines} lines read as"
        f" they were written\ncopies: {counts[0]} at first, {max(counts)} at most,"
        f" {counts[-1]} in the end; longest wait {max(story.waits):.2f} s"
    )
    if options.plot:
        plot(story, options.plot)
        print(f"drawn in {options.plot}")
    return int(max(counts) > REPLICAS[1])


def main() -> int:
    parser = argparse.ArgumentParser(description="Read pages with one to three copies of a model.")
    parser.add_argument("--model", choices=("ocr", "sleep"), default="ocr")
    parser.add_argument("--step", metavar="S", type=float, default=0.1, help="of --model sleep")
    parser.add_argument(
        "--seconds", metavar="S", type=float, default=40.0, help="how long it lasts"
    )
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw it: .svg, .png or .pdf")
    parser.add_argument("--broker", metavar="ENDPOINT", help="default: one of its own")
    parser.add_argument("--quick", action="store_true", help="10 seconds")
    options = parser.parse_args()
    if options.quick:
        options.seconds = 10.0
    if min(options.seconds, options.step) <= 0:
        parser.exit(2, "reading_service: --seconds and --step must be above 0\n")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if options.model == "ocr" and missing:
        wanted = "pip install rapidocr onnxruntime pillow"
        parser.exit(2, f"reading_service: the model is missing: {wanted}, or --model sleep\n")
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.exit(2, "reading_service: --plot needs it: pip install matplotlib\n")
    try:
        return run(options)
    except KeyboardInterrupt:
        print("reading_service: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
