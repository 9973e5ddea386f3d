"""Which installed distributions some roots need, and which they lack. For the container file.

    python distributions.py extra ROOT...           installed, and needed by no root
    python distributions.py missing PINS ROOT...    needed and not installed, as PINS pins them

One name a line, nothing where there is nothing. A root is a distribution, with extras if need be:
`steersman[demo]`. The environment looked at is that of the Python that runs this. PINS is
requirements/cpu.txt; what is needed and not in there is left out on purpose, as it says itself.
"""

import sys
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(roots: list[str]) -> set[str]:
    """The canonical names of all that `roots` need, themselves included, installed or not."""
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(root) for root in roots]
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        for extra in {"", *asked.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                requires = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue
            waiting += [r for r in map(Requirement, requires) if _holds(r.marker, extra)]
    return {name for name, _ in seen}


def _holds(marker: Marker | None, extra: str) -> bool:
    return marker is None or marker.evaluate({"extra": extra})


def installed() -> set[str]:
    return {canonicalize_name(d.name) for d in metadata.distributions()}


def main(argv: list[str]) -> int:
    match argv:
        case ["extra", *roots] if roots:
            lines = installed() - needed(roots)
        case ["missing", pins, *roots] if roots:
            absent = needed(roots) - installed()
            pinned = [
                line
                for line in Path(pins).read_text().splitlines()
                if "==" in line and line[0] != "#"
            ]
            lines = {p for p in pinned if canonicalize_name(Requirement(p).name) in absent}
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    for line in sorted(lines):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
