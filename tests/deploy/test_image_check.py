"""How deploy/image/check.py starts the container; what follows is `make image-test`."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.image import inside
from deploy.image.check import ABSENT, BrokenPromise, options, promise
from tests.deploy.rendered import workloads
from tests.deploy.tools import ROOT


def test_the_container_is_started_as_the_pod(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    chosen, arguments, grace = options(tmp_path, tmp_path / "keys" / "keys.yaml")
    [pod] = [pod for pod in workloads("overlays/cpu-demo") if pod.servers]
    [(container, expected)] = pod.servers
    assert (arguments, grace) == (expected, pod.spec["terminationGracePeriodSeconds"])
    mounted = {o.split(":")[1] for o in chosen if o.startswith("--volume=")}
    wanted = {m["mountPath"] for m in container["volumeMounts"]}
    assert mounted == wanted - {"/dev/shm"}
    assert f"--volume={tmp_path}/keys:/etc/steersman/keys:ro" in chosen
    assert f"--volume={tmp_path}/home:/var/lib/steersman:rw" in chosen
    assert {
        "--user=10001:10001", "--cap-drop=all", "--security-opt=no-new-privileges",
        "--network=none", "--env=HF_HUB_OFFLINE=1", f"--shm-size={2 * 2**30}",
        f"--memory={7 * 2**30}", "--cpu-shares=2048",
    } <= {*chosen}  # fmt: skip
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o777


def test_a_promise_that_does_not_hold() -> None:
    with pytest.raises(BrokenPromise, match="no compiler: gcc"):
        promise(False, "no compiler", "gcc")


class _Stopping(BaseHTTPRequestHandler):
    """/ready is 200 twice, and then all is 503."""

    ready = 0

    def do_GET(self) -> None:
        type(self).ready += 1
        self.send_response(200 if self.ready <= 2 else 503)
        self.end_headers()

    def do_POST(self) -> None:
        self.send_response(503 if self.ready == 3 else 500)
        self.end_headers()
        self.wfile.write(self.headers["Authorization"].encode())

    def log_message(self, *_: object) -> None:
        pass


def test_what_is_asked_from_inside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Stopping)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(inside, "SERVER", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("KEY", "abc")
    try:
        inside.drained("/v1/chat/completions", "{}")
        assert capsys.readouterr().out == "200\n503 503\n"
        inside.request("/v1/chat/completions", "{}")
        assert json.loads(capsys.readouterr().out) == {"status": 503, "body": "Bearer abc"}
    finally:
        server.shutdown()
        server.server_close()
    inside.request("/ready")
    assert json.loads(capsys.readouterr().out)["status"] == 0


def test_what_pip_check_may_miss_is_what_is_left_out() -> None:
    pins = (ROOT / "requirements/cpu.txt").read_text()
    pinned = set(re.findall(r"^([\w.-]+)==", pins, re.MULTILINE))
    # These two are pinned for the tests' environment, and taken out of the image.
    assert pinned & ABSENT.keys() == {"triton", "ninja"}
