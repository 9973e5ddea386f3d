"""pip's settings on this machine, for the pip inside an image's build.

    python pip_settings.py conf       a pip.conf: indexes, folders, certificates (the secret `ca`)
    python pip_settings.py folders    the local folders that it names, one a line
    python pip_settings.py ca         the file of certificates, if pip is told to use one

Read from `pip config list`, which knows pip's files and its environment variables.
"""

import ast
import subprocess
import sys
from pathlib import Path

# Where packages come from, and no more: constraints and other options are this machine's own.
CARRIED = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "timeout")
CA_IN_BUILD = "/run/secrets/ca"


def settings(listing: str) -> dict[str, str]:
    """Each option's value, by its name, out of what `pip config list` prints.

    As for pip, the environment's variables go before a file's [install], and that before [global].
    """
    ranked: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        where, _, value = line.partition("=")
        section, _, option = where.rpartition(".")
        option = option.removeprefix("default-")
        rank = {"global": 0, "install": 1, ":env:": 2}.get(section)
        if rank is not None and rank >= ranked.get(option, (0, ""))[0]:
            ranked[option] = (rank, str(ast.literal_eval(value)))
    return {option: value for option, (_, value) in ranked.items()}


def configuration(found: dict[str, str]) -> str:
    """A pip.conf with those of `found` that are carried into a build."""
    lines = ["[global]"]
    lines += [
        f"{option} = {' '.join(found[option].split())}" for option in CARRIED if option in found
    ]
    if "cert" in found:
        lines.append(f"cert = {CA_IN_BUILD}")
    return "\n".join(lines) + "\n"


def folders(found: dict[str, str]) -> list[str]:
    """The local folders that `found` takes packages from: absolute paths.

    Of an index it is the parent, because its files lie beside it.
    """
    named = set()
    for option in ("index-url", "extra-index-url"):
        for address in found.get(option, "").split():
            if address.startswith("file://"):
                named.add(str(Path(address.removeprefix("file://")).resolve().parent))
    for place in found.get("find-links", "").split():
        path = Path(place.removeprefix("file://"))
        if path.is_absolute() and path.is_dir():
            named.add(str(path))
    return sorted(named)


def main(argv: list[str]) -> int:
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = settings(listing.stdout)
    match argv:
        case ["conf"]:
            print(configuration(found), end="")
        case ["folders"]:
            print(*folders(found), sep="\n")
        case ["ca"]:
            print(found.get("cert", ""))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
