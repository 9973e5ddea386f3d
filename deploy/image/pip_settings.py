"""pip's settings on this machine, for the pip inside an image's build.

    python pip_settings.py conf [MOUNT]    a pip.conf; its certificates are the secret `ca`
    python pip_settings.py folders         the local folders that it names, one a line
    python pip_settings.py ca              the file of certificates that pip is set to use, if any

The folders are MOUNT/0, MOUNT/1 and so on in the build; without MOUNT they are left out.
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


def configuration(found: dict[str, str], mount: str | None) -> str:
    """A pip.conf with those of `found` that are carried into a build."""
    places = {folder: f"{mount}/{number}" for number, folder in enumerate(folders(found))}
    lines = ["[global]"]
    for option in CARRIED:
        words = []
        for word in found.get(option, "").split():
            folder = _folder(option, word)
            if folder is None:
                words.append(word)
            elif mount is not None and folder in places:
                words.append("file://" + places[folder] + _path(word).removeprefix(folder))
        if words:
            lines.append(f"{option} = {' '.join(words)}")
    if "cert" in found:
        lines.append(f"cert = {CA_IN_BUILD}")
    return "\n".join(lines) + "\n"


def folders(found: dict[str, str]) -> list[str]:
    """The local folders that `found` takes packages from: absolute paths, those that are there."""
    named = {
        folder
        for option in CARRIED
        for word in found.get(option, "").split()
        if (folder := _folder(option, word)) and Path(folder).is_dir()
    }
    return sorted(named)


def _path(word: str) -> str:
    return word.removeprefix("file://").rstrip("/")


def _folder(option: str, word: str) -> str | None:
    """The folder that a build needs for `word` of `option`; None where it is not a local path.

    Of an index it is the parent, because its files lie beside it.
    """
    if option.endswith("index-url"):
        return str(Path(_path(word)).parent) if word.startswith("file://") else None
    if option == "find-links" and (word.startswith("file://") or "://" not in word):
        return _path(word)
    return None


def main(argv: list[str]) -> int:
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = settings(listing.stdout)
    match argv:
        case ["conf", *rest] if len(rest) < 2:
            print(configuration(found, rest[0] if rest else None), end="")
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
