"""nginx in front of two servers, for the rolling restart: Debian's, as the user who runs this."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.report import say
from bench.servers import free_port
from steersman.vectors.demo.model import default_home

PACKAGES = ("nginx", "libpcre2-8-0", "libssl3", "zlib1g", "libcrypt1")
CONFIGURATION = """{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    log_format tries escape=json
        '{{"method": "$request_method", "uri": "$uri", "status": $status, '
        '"seconds": $request_time, "servers": "$upstream_addr", "statuses": "$upstream_status"}}';
    access_log {folder}/access.log tries;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 64m;

    upstream steersman {{
{servers}
        # Below the 5 s after which vLLM closes an idle connection.
        keepalive 32;
        keepalive_timeout 4s;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://steersman;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection "";
            # A token is passed on as it comes; a request is kept whole, to be sent again.
            proxy_buffering off;
            proxy_request_buffering on;
            proxy_connect_timeout 5s;
            proxy_read_timeout 300s;
            proxy_next_upstream error timeout http_503 non_idempotent;
        }}
    }}
}}
"""
# Nobody is ever left out: every other request meets the server that leaves, is away, or starts.
# (max_fails=1 would spare it most of them, as a Kubernetes service does.)
SERVER = "        server {address} max_fails=0;"


@dataclass(frozen=True)
class Nginx:
    """One that runs and answers at `url`."""

    url: str
    folder: Path

    def requests(self) -> list[dict[str, Any]]:
        """Its access log: a line a request, with every server that was tried."""
        text = (self.folder / "access.log").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def errors(self) -> list[str]:
        """Its error log."""
        return (self.folder / "error.log").read_text(errors="replace").splitlines()


def program() -> tuple[str, dict[str, str]]:
    """nginx and the environment it needs: the installed one, else Debian's package, unpacked."""
    if installed := shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return installed, {}
    home = default_home() / "nginx"
    root = home / "root"
    binary = root / "usr" / "sbin" / "nginx"
    if not binary.exists():
        say(f"fetching Debian's nginx into {home}")
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["apt-get", "download", *PACKAGES], cwd=home, check=True, capture_output=True
        )
        for package in sorted(home.glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
    libraries = [*root.glob("usr/lib/*-linux-*"), *root.glob("lib/*-linux-*")]
    return str(binary), {"LD_LIBRARY_PATH": ":".join(str(folder) for folder in libraries)}


@contextmanager
def nginx(addresses: Sequence[str], folder: Path) -> Iterator[Nginx]:
    """Before `addresses` (host:port), on a free port, with all its files in `folder`."""
    binary, libraries = program()
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    servers = "\n".join(SERVER.format(address=address) for address in addresses)
    configuration = folder / "nginx.conf"
    # Started by root, its workers would be nobody, who may not read what root keeps for itself.
    user = "user root;" if os.geteuid() == 0 else ""
    text = CONFIGURATION.format(user=user, folder=folder, servers=servers, port=port)
    configuration.write_text(text)
    process = subprocess.Popen(
        [binary, "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log")],
        env={**os.environ, **libraries},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(process, port, folder)
        yield Nginx(f"http://127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    deadline = time.monotonic() + 15
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/", timeout=5)
        except httpx.ConnectError:
            time.sleep(0.1)
        else:
            # The logs start with the first request that counts.
            for name in ("access.log", "error.log"):
                (folder / name).write_text("")
            return
    raise RuntimeError(f"nginx did not start: {(folder / 'error.log').read_text()}")
