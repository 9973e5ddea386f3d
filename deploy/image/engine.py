"""docker or podman, as deploy/image/check.py needs them."""

import json
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# podman's second way is for machines without systemd, or whose cgroups (versions 1 and 2 at once)
# crun refuses.
_WAYS = (
    ["docker"],
    ["podman"],
    ["podman", "--runtime=runc", "--cgroup-manager=cgroupfs"],
)


class EngineError(Exception):
    """A command of the engine failed; the message is what the engine printed."""


def _limits() -> list[str]:
    """Limits of `run` that need no capability, as podman's own defaults may.

    podman first lowers its own limit of processes to the kernel's highest process number.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    highest = int(Path("/proc/sys/kernel/pid_max").read_text())
    if not 0 <= processes < highest:
        processes = highest
    return [f"--ulimit=nproc={processes}", *([f"--ulimit=nofile={files}"] if files >= 0 else [])]


@dataclass(frozen=True)
class Engine:
    """A container engine that runs containers here."""

    command: list[str]
    limits: list[str]
    """Options of `run` for any container."""

    @classmethod
    def find(cls, image: str) -> "Engine":
        """The first that has `image` and runs it. EngineError says what each one printed."""
        # podman gives the image's health check to systemd, which need not be there.
        limits = [*_limits(), "--no-healthcheck"]
        failures = []
        for command in _WAYS:
            if not shutil.which(command[0]):
                failures.append(f"{command[0]}: not installed")
                continue
            engine = cls(command, limits)
            if command[0] == "docker" and engine.do("info", check=False).returncode:
                failures.append("docker: its daemon does not answer")
                continue
            if engine.do("image", "inspect", image, check=False).returncode:
                failures.append(f"{command[0]}: has no image {image}; make image builds it")
                continue
            done = engine.do("run", "--rm", *limits, "--entrypoint=/bin/true", image, check=False)
            if done.returncode == 0:
                return engine
            failures.append(f"{' '.join(command)}: {done.stderr.strip()}")
        raise EngineError("no engine runs the image here:\n  " + "\n  ".join(failures))

    def do(
        self, *argv: str, check: bool = True, timeout: float = 300, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs one command of the engine. Raises EngineError if it fails and `check`."""
        done = subprocess.run(
            [*self.command, *argv],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            input=stdin,
        )
        if check and done.returncode:
            raise EngineError(
                f"{' '.join([*self.command, *argv])[:300]}: exit {done.returncode}\n"
                f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return done

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        """What the engine knows of an image or a container."""
        found: list[dict[str, Any]] = json.loads(self.do(kind, "inspect", name).stdout)
        return found[0]

    def read_only(self) -> list[str]:
        """Options of `run` for a read-only root with no writable folder that is not asked for."""
        return [
            "--read-only",
            *(["--read-only-tmpfs=false"] if self.command[0] == "podman" else []),
        ]

    def version(self) -> str:
        """The engine's name and version, and what is not its default."""
        told = self.do("--version").stdout.strip()
        return " ".join([told, *self.command[1:]])
