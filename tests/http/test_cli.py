"""`steersman` against a real server: making, watching, cancelling, talking."""

import io
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.servers import Server
from steersman.client.cli import main
from tests.support.http.client import Client

GLAD = ["I am so happy!", "What a joy it is.", "We laughed all day.", "She smiled with delight."]
SAD = ["I am so unhappy.", "What a pity it is.", "We cried all day.", "She frowned with grief."]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def steersman(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run `steersman` with these arguments, and `typed` on stdin: status, stdout, stderr."""
    monkeypatch.setenv("STEERSMAN_SERVER", server.url)

    def run(*args: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        capsys.readouterr()
        status = main(list(args))
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Arguments that name two files of texts."""
    for name, lines in (("glad", GLAD), ("sad", SAD)):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    return ["--positive", str(tmp_path / "glad.txt"), "--negative", str(tmp_path / "sad.txt")]


def fresh() -> str:
    return f"cli-{secrets.token_hex(4)}"


def job_of(client: Client, name: str) -> dict[str, Any]:
    jobs = client.http.get("/v1/steering/jobs").json()["data"]
    return next(job for job in jobs if job["name"] == name)


def test_extract_waits_and_shows_the_measures(
    client: Client, steersman: Run, texts: list[str]
) -> None:
    name = fresh()
    how = ["--method", "mean_difference", "--layers", "12-14", "--description", "glad"]
    status, out, err = steersman("vectors", "extract", name, *how, *texts)
    assert status == 0, err
    for shown in ("separation", "split-half cosine", "relative norm", "resid_post.13"):
        assert shown in out
    vector = client.http.get(f"/v1/steering/vectors/{name}").json()
    # Of four sentences a side nothing can be said, and it is.
    quality = vector["method_settings"]["quality"]
    assert quality["recommended"] is None
    assert "not recommended: at layer" in " ".join(out.split())
    assert "row 1 (positive): ' am so happy!' (4 tokens) after 'I'" in err
    assert f"made {name}@{vector['digest'].removeprefix('sha256:')[:12]}" in out
    assert "8/8" in err
    # The name is taken now, which is said before any work.
    status, out, err = steersman("vectors", "extract", name, *how, *texts, "--json")
    assert (status, json.loads(out)["error"]["param"]) == (1, "name")


def test_extract_of_pairs_as_json_and_bad_rows(steersman: Run, tmp_path: Path) -> None:
    pairs = [{"positive": a, "negative": b} for a, b in zip(GLAD, SAD, strict=True)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, pairs)) + "\nnonsense\n")
    name = fresh()
    args = ["--method", "probe", "--layers", "12", "--set", "c=0.5", "--set", "length=scaled"]
    status, out, err = steersman(
        "vectors", "extract", name, *args, "--pairs", str(file), "--reproducible", "--json"
    )
    assert status == 0, err
    told = json.loads(out)
    assert told["job"]["status"] == "succeeded"
    (vector,) = told["vectors"]
    assert (vector["id"], vector["method_settings"]["c"]) == (name, 0.5)
    assert "row 5" in err


def test_styles_become_a_vector_each(steersman: Run, tmp_path: Path) -> None:
    folder = tmp_path / "styles"
    folder.mkdir()
    for style, lines in (("glad", GLAD), ("sad", SAD)):
        (folder / f"{style}.txt").write_text("\n".join(lines))
    name = fresh()
    args = ["--method", "style", "--layers", "12", "--styles", str(folder), "--prompt", "How?"]
    status, out, err = steersman("vectors", "extract", name, *args)
    assert status == 0, err
    assert f"made {name}-glad@" in out
    assert f"made {name}-sad@" in out


def test_a_job_by_itself(steersman: Run, texts: list[str]) -> None:
    name = fresh()
    args = ["--method", "mean_difference", "--layers", "12", "--no-wait", *texts]
    status, out, _ = steersman("vectors", "extract", name, *args)
    job_id = out.strip()
    assert status == 0
    status, out, _ = steersman("jobs", "show", job_id, "--wait", "--json")
    assert (status, json.loads(out)["status"]) == (0, "succeeded")
    status, out, _ = steersman("jobs", "list")
    assert status == 0
    assert any(job_id in line and "succeeded" in line for line in out.splitlines())
    status, out, _ = steersman("jobs", "show", job_id)
    assert "8 of 8" in out
    status, out, _ = steersman("jobs", "cancel", job_id, "--json")
    assert (status, json.loads(out)["status"]) == (0, "succeeded")


def test_a_job_that_fails_is_a_1(steersman: Run, tmp_path: Path) -> None:
    """Of texts that are too long for the model, which only the job can find out."""
    file = tmp_path / "pairs.jsonl"
    pairs = [{"positive": f"{n} glad" * 3000, "negative": f"{n} sad" * 3000} for n in range(4)]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    args = ["--method", "mean_difference", "--pairs", str(file), "--json"]
    status, out, err = steersman("vectors", "extract", fresh(), *args)
    told = json.loads(out)["error"]
    assert (status, told["code"]) == (1, "too_few_rows")
    assert "jobs show" in told["remedy"]
    assert "row 1" in err


def test_texts_that_nothing_can_come_of_are_refused_at_once(steersman: Run, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("nonsense\n")
    args = ["--method", "mean_difference", "--pairs", str(file), "--json"]
    status, out, _ = steersman("vectors", "extract", fresh(), *args)
    told = json.loads(out)["error"]
    assert (status, told["code"], told["param"]) == (1, "too_few_rows", "positive")


def test_ctrl_c_cancels_the_job(client: Client, server: Server, tmp_path: Path) -> None:
    for side in ("a", "b"):
        lines = [f"{side} {n}: " + "word " * 300 for n in range(200)]
        (tmp_path / side).write_text("\n".join(lines))
    name = fresh()
    texts = ["--positive", str(tmp_path / "a"), "--negative", str(tmp_path / "b")]
    args = ["vectors", "extract", name, "--method", "mean_difference", "--layers", "12", *texts]
    process = subprocess.Popen(
        [sys.executable, "-m", "steersman.client.cli", *args],
        env=os.environ | {"STEERSMAN_SERVER": server.url},
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        # In the background of a shell, as CI may run this, a process is started deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline().startswith("job-")
    while job_of(client, name)["status"] == "queued":
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, "Traceback" in err) == ("", False)
    assert "is cancelled" in err
    assert job_of(client, name)["status"] == "cancelled"


def test_chat_over_a_pipe(client: Client, steersman: Run, rnd: str) -> None:
    args = ["chat", "--temperature", "0", "--max-tokens", "8", "--system", "Be brief."]
    typed = f"/steer {rnd} 1.5\nHello\n/steer\n/steer off\nAnd now?\n/vectors\n/quit\nnever read\n"
    status, out, err = steersman(*args, typed=typed)
    assert status == 0, err
    messages: list[dict[str, str]] = [{"role": "system", "content": "Be brief."}]
    steering = {"vectors": {rnd: 1.5}}
    turns: list[tuple[str, dict[str, Any]]] = [("Hello", {"steering": steering}), ("And now?", {})]
    for text, fields in turns:
        messages.append({"role": "user", "content": text})
        answer = client.chat_text(messages=messages, max_tokens=8, **fields)
        assert answer in out
        messages.append({"role": "assistant", "content": answer})
    assert f"steered: {rnd} 1.5\n[{rnd} 1.5 at 10,14, dose " in err
    assert "not steered\n[not steered]" in err
    assert " id " in out


def test_chat_as_json_lines(steersman: Run, rnd: str) -> None:
    args = ["chat", "--json", "--temperature", "0", "--max-tokens", "4", "--steer", f"{rnd}=0.5"]
    status, out, err = steersman(*args, typed="Hello\n/reset\n\nHello\n")
    assert status == 0, err
    first, second = map(json.loads, out.splitlines())
    assert first["message"] == second["message"]
    assert first["finish_reason"] == "length"
    (vector,) = first["steering"]["vectors"]
    assert (vector["id"], vector["coefficient"], vector["steered_tokens"]) == (rnd, 0.5, 4)


def test_chat_projects_a_direction_out(steersman: Run, rnd: str) -> None:
    args = ["chat", "--json", "--temperature", "0", "--max-tokens", "4"]
    _, out, err = steersman(*args, typed=f"/project {rnd} 0.5\nHello\n/steer {rnd}\nHello\n")
    projected, added = (json.loads(line)["steering"]["vectors"][0] for line in out.splitlines())
    assert (projected["operation"], projected["coefficient"]) == ("project", 0.5)
    assert "operation" not in added
    assert f"steered: project {rnd} 0.5" in err


def test_chat_says_what_is_wrong(steersman: Run, rnd: str) -> None:
    assert steersman("chat", typed="/steer nothere 1\n")[0] == 1
    assert steersman("chat", typed=f"/steer 1 {rnd}\n")[0] == 2
    assert steersman("chat", typed="/stear\n")[0] == 2
    status, _, err = steersman("chat", typed=f"/steer {rnd} 1e9\nHello\n")
    assert status == 1
    assert "param: steering" in err


def test_a_vector_goes_round(steersman: Run, own: str, tmp_path: Path, server: Server) -> None:
    file = tmp_path / "v.gguf"
    status, out, err = steersman("vectors", "export", own, "--format", "gguf", "--out", str(file))
    assert status == 0, err
    assert f"--control-vector {file}" in out
    name = fresh()
    status, out, err = steersman("vectors", "import", str(file), "--name", name, "--json")
    assert status == 0, err
    assert json.loads(out)["vector"]["id"] == name
    digests = [
        json.loads(steersman("vectors", "show", one, "--json")[1])["digest"] for one in (own, name)
    ]
    assert digests[0] == digests[1]
    assert steersman("vectors", "delete", name, "--server", f"{server.url}/v1")[0] == 0
