"""What check.py runs in the container: a request of the server, or a look at what the image holds.

    python inside.py request PATH [BODY]    KEY in the environment; prints {"status", "body"}
    python inside.py stream PATH BODY       prints each event as it comes, then "end"
    python inside.py drained PATH BODY      prints the status of /ready, waits until it is another,
                                            asks for PATH, and prints both
    python inside.py packages               prints what is installed, and what must not be there

The standard library alone: it is the image that is tried, not this file.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path
from typing import Any

SERVER = "http://127.0.0.1:8000"
TOOLS = (
    "cc",
    "gcc",
    "g++",
    "c++",
    "clang",
    "ld",
    "make",
    "cmake",
    "ninja",
    "git",
    "curl",
    "wget",
    "node",
)
PLACES = ("/opt", "/root", "/src", "/wheels", "/run/secrets", "/var/lib/apt/lists", "/home", "/srv")


def ask(path: str, body: str | None) -> Any:
    headers = {"Content-Type": "application/json"}
    if os.environ.get("KEY"):
        headers["Authorization"] = "Bearer " + os.environ["KEY"]
    data = body.encode() if body else None
    return urllib.request.urlopen(
        urllib.request.Request(SERVER + path, data=data, headers=headers), timeout=600
    )


def answer(path: str, body: str | None = None) -> tuple[int, str]:
    """The status, 0 where nobody answers, and the body."""
    try:
        with ask(path, body) as response:
            status, text = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    except (urllib.error.URLError, ConnectionError) as error:
        status, text = 0, str(error).encode()
    return status, text.decode(errors="replace")


def request(path: str, body: str | None = None) -> None:
    status, text = answer(path, body)
    print(json.dumps({"status": status, "body": text}))


def drained(path: str, body: str) -> None:
    """Starts before the signal: a process that is started in a busy container takes its time."""
    ready, _ = answer("/ready")
    print(ready, flush=True)
    while ready == 200:
        time.sleep(0.05)
        ready, _ = answer("/ready")
    status, _ = answer(path, body)
    print(ready, status, flush=True)


def stream(path: str, body: str) -> None:
    with ask(path, body) as response:
        for line in response:
            if line.startswith(b"data: "):
                print(line[6:].decode().strip(), flush=True)
    print("end", flush=True)


def packages() -> None:
    """Prints packages, tools, tests, files that the user may write, and rests of the build."""
    writable: list[str] = []
    odd: list[str] = []
    here = os.stat("/").st_dev
    for folder, folders, files in os.walk("/"):
        folders[:] = [
            name
            for name in folders
            if not os.path.islink(os.path.join(folder, name))
            and os.path.join(folder, name) not in ("/proc", "/sys", "/dev")
            and _device(os.path.join(folder, name)) == here
        ]
        writable += [
            path
            for path in (folder, *(os.path.join(folder, name) for name in files))
            if not os.path.islink(path) and _writable(path)
        ]
    for place in PLACES:
        if os.path.isdir(place) and os.access(place, os.R_OK):
            odd += [f"{place}/{name}" for name in os.listdir(place)]
    tests = [
        str(path)
        for path in Path("/opt/steersman").rglob("*")
        if path.name in ("tests", "bench", "conftest.py") or path.name.startswith("test_")
    ]
    # The base image's pip; the environment has none of its own.
    pip = next(p for p in ("/usr/local/bin/python3", "/usr/bin/python3") if os.path.exists(p))
    check = subprocess.run(
        [
            pip,
            "-m",
            "pip",
            "--python",
            sys.executable,
            "--disable-pip-version-check",
            "--no-cache-dir",
            "check",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    print(
        json.dumps(
            {
                "python": sys.version.split()[0],
                "user": [os.getuid(), os.getgid(), os.getgroups()],
                "distributions": sorted(
                    {f"{d.name}=={d.version}" for d in metadata.distributions()}
                ),
                "tools": [tool for tool in TOOLS if shutil.which(tool)],
                "writable": sorted(writable),
                "odd": sorted(odd),
                "tests": tests,
                "pip check": (check.stdout + check.stderr).splitlines(),
            }
        )
    )


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def _writable(path: str) -> bool:
    """By its mode: where the root is read-only, access() denies all."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    if found.st_uid == os.getuid():
        return bool(found.st_mode & 0o200)
    if found.st_gid in (os.getgid(), *os.getgroups()):
        return bool(found.st_mode & 0o020)
    return bool(found.st_mode & 0o002)


if __name__ == "__main__":
    COMMANDS: dict[str, Any] = {
        "request": request,
        "stream": stream,
        "drained": drained,
        "packages": packages,
    }
    COMMANDS[sys.argv[1]](*sys.argv[2:])
