"""Two hosts on one machine: this one, and a network namespace beside it, joined by a cable.

Each has its own addresses and its own loopback; what one sends the other goes through the cable,
which can be cut.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.servers import free_port
from tests.support.matrix.bench import Bench
from tests.support.matrix.start import ROOT

HERE, THERE = "10.77.0.1", "10.77.0.2"
READY_S = 400
STEP_S = 20
"""Seconds that a step may take before its engine gives up: vLLM waits for 300."""


def missing() -> str:
    """Why there can be no second host here; empty if there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "a network namespace takes root and iproute2"
    tried = subprocess.run(["ip", "netns", "add", "steersman-try"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "steersman-try"], capture_output=True)
    return tried.stderr.strip()


@dataclass
class Hosts:
    """A server over both, and the cable."""

    http: httpx.Client
    leader: "subprocess.Popen[bytes]"
    log: Path
    cable: str

    def cut(self) -> None:
        """Take the other host off the network."""
        _ip("link", "set", self.cable, "down")


@contextmanager
def two_hosts(bench: Bench, folder: Path, options: Sequence[str]) -> Iterator[Hosts]:
    """One server over two hosts, ready, with the bench's library; the other host runs the second
    rank."""
    space = f"steersman-{os.getpid()}"
    cable, end = f"stm{os.getpid() % 10**8}a", f"stm{os.getpid() % 10**8}b"
    inside = ["ip", "netns", "exec", space]
    port, master = free_port(), free_port()
    processes: list[subprocess.Popen[bytes]] = []
    _ip("netns", "add", space)
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "name", end, "netns", space)
        _ip("addr", "add", f"{HERE}/24", "dev", cable)
        _ip("link", "set", cable, "up")
        for words in (["addr", "add", f"{THERE}/24", "dev", end], ["link", "set", end, "up"],
                      ["link", "set", "lo", "up"]):  # fmt: skip
            subprocess.run([*inside, "ip", *words], check=True)
        common = [
            *(sys.executable, "-m", "steersman.client.cli", "serve", str(bench.model)),
            *("--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"),
            *("--max-model-len", "512", "--block-size", "32"),
            *("--kv-cache-memory-bytes", str(2**25), "--library", str(bench.library)),
            *("--nnodes", "2", "--master-addr", HERE, "--master-port", str(master)),
            *("--distributed-executor-backend", "mp", *options),
        ]
        leading = ["--node-rank", "0", "--host", "127.0.0.1", "--port", str(port)]
        for rank, (before, address, device, own) in enumerate(
            [([], HERE, cable, leading), (inside, THERE, end, ["--node-rank", "1", "--headless"])]
        ):
            environment = {
                **os.environ,
                "STEERSMAN_HOME": str(folder / f"home-{rank}"),
                "VLLM_HOST_IP": address,
                "GLOO_SOCKET_IFNAME": device,
                "VLLM_CPU_OMP_THREADS_BIND": str(sorted(os.sched_getaffinity(0))[rank % 2]),
                "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(STEP_S),
            }
            with (folder / f"rank-{rank}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [*before, *common, *own],
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment,
                        cwd=ROOT,
                        start_new_session=True,
                    )
                )
        log_file = folder / "rank-0.log"
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False
        ) as http:
            _wait(http, processes, log_file)
            yield Hosts(http, processes[0], log_file, cable)
    finally:
        for one in processes:
            _end(one)
        subprocess.run(["ip", "link", "del", cable], capture_output=True)
        subprocess.run(["ip", "netns", "del", space], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _wait(http: httpx.Client, processes: Sequence["subprocess.Popen[bytes]"], log: Path) -> None:
    end = time.monotonic() + READY_S
    while True:
        if any(one.poll() is not None for one in processes) or time.monotonic() > end:
            raise AssertionError(f"no server over two hosts:\n{log.read_text()[-4000:]}")
        try:
            if http.get("/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(1)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Its whole group, which is its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue
