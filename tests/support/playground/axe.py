"""axe-core, run on the page.

Its source comes from the packages of client/playground/ and is evaluated over Chromium's debugging
protocol, as a person's developer tools would: the page's Content-Security-Policy stays as it is.
"""

import sys
from pathlib import Path

from tests.support.playground.page import Playground

SOURCE = Path(sys.prefix) / "tools" / "playground" / "node_modules" / "axe-core" / "axe.min.js"
GRAVE = ("serious", "critical")


def grave_findings(play: Playground) -> list[str]:
    """What axe finds on the page as it is now, of serious or critical impact: rule and place."""
    play.evaluate(SOURCE.read_text() + "; 0")
    found = play.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then((all) => all.violations.map((one) =>"
        " [one.id, one.impact, one.nodes.map((node) => node.target.join(' ') + ': ' +"
        " (node.any[0]?.message ?? '')).slice(0, 5)]))"
    )
    return [f"{rule}: {places}" for rule, impact, places in found if impact in GRAVE]
