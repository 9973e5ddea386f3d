"""What the page of /playground costs: bytes, first paint, and long tasks while 2,000 tokens stream.

    python -m bench.serving.playground

Starts the demo server and Chromium, both on this machine, and writes bench/results/playground.json.
The first paint is that of the real server. The stream is replayed (`bench.serving.replay`), in the
form of a dynamic answer of two properties and at a speed that the demo's engine does not reach on a
CPU: what is measured is the page. A long task is one of over 50 ms, in which no new frame is shown.
"""

import gzip
import itertools
import json
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, expect

from bench.machine import describe
from bench.report import say
from bench.servers import demo_model, running, steersman
from bench.serving.replay import replaying
from steersman.server.playground.routes import BUILT
from steersman.vectors.demo.make import fill_library
from tests.support.playground.browser import browser, context
from tests.support.playground.page import Playground

RESULT: Final = Path(__file__).parents[1] / "results" / "playground.json"
OPTIONS: Final = shlex.split("--served-model-name smollm2 --max-model-len 4096")
TOKENS: Final = 2000
TOKENS_A_SECOND: Final = 50
VISITS: Final = 7
_OBSERVE: Final = """
window.longTasks = [];
new PerformanceObserver((list) => {
  for (const one of list.getEntries()) window.longTasks.push(one.duration);
}).observe({type: 'longtask', buffered: true});
window.frames_ = [];
const frame = (now) => { window.frames_.push(now); requestAnimationFrame(frame); };
requestAnimationFrame(frame);
"""


def sizes() -> dict[str, int]:
    """Bytes of each file, as it is sent to a browser that takes gzip."""
    return {
        path.name: path.stat().st_size
        if path.suffix == ".woff2"
        else len(gzip.compress(path.read_bytes(), 9))
        for path in sorted(BUILT.iterdir())
    }


def first_paints(started: Browser, url: str) -> list[float]:
    """Milliseconds from the navigation to the first contentful paint, of visits with no cache."""
    found = []
    for _ in range(VISITS):
        with context(started, url) as page:
            play = Playground(page).open()
            entry = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            found.append(float(play.evaluate(entry)))
    return found


def long_stream(started: Browser) -> dict[str, Any]:
    """A dynamic answer of `TOKENS` tokens in one column, each tinted and drawn, watched."""
    with replaying(TOKENS, TOKENS_A_SECOND) as url, context(started, url) as page:
        page.add_init_script(_OBSERVE)
        play = Playground(page).open()
        page.get_by_role("button", name="Remove Unsteered").click()
        page.get_by_role("checkbox", name="Dynamic").check()
        play.evaluate("window.longTasks.length = 0; window.frames_.length = 0; 0")
        play.say("Tell me a long story about a lighthouse.", TOKENS)
        # Not `expect`: it looks through the whole page once a second, and each look at thousands of
        # tokens is a long task of its own.
        page.wait_for_timeout(1000 * (TOKENS / TOKENS_A_SECOND + 3))
        tasks: list[float] = play.evaluate("window.longTasks")
        frames: list[float] = play.evaluate("window.frames_")
        expect(page.locator(".answer-end")).to_contain_text(f"{TOKENS:,} tokens")
        gaps = sorted(b - a for a, b in itertools.pairwise(frames))
        return {
            "tokens": TOKENS,
            "tokens_a_second": TOKENS_A_SECOND,
            "seconds": round((frames[-1] - frames[0]) / 1000, 1),
            "tokens_tinted": page.locator(".token").count(),
            "long_tasks": len(tasks),
            "long_tasks_ms": round(sum(tasks)),
            "longest_task_ms": round(max(tasks, default=0)),
            "frame_gap_median_ms": round(statistics.median(gaps), 1),
            "frame_gap_p99_ms": round(gaps[int(len(gaps) * 0.99)], 1),
            "frame_gap_longest_ms": round(gaps[-1], 1),
        }


def main() -> None:
    model = demo_model()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill_library(Path(model), folder / "library", say)
        command = steersman(model, [*OPTIONS, "--library", str(folder / "library")])
        home = {"STEERSMAN_HOME": name}
        with running("demo", command, home, folder / "log") as server, browser() as started:
            paints = first_paints(started, server.url)
            result = {
                "machine": describe(),
                "bytes_sent": sizes(),
                "bytes_in_all": sum(sizes().values()),
                "first_paint_ms": {
                    "median": round(statistics.median(paints)),
                    "worst": round(max(paints)),
                    "visits": VISITS,
                },
                "stream": long_stream(started),
            }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    json.dump(result, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
