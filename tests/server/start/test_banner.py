"""What stands on the terminal when a server is up."""

import asyncio
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from steersman.server.start.banner import announce, banner, url_of

MODEL = {"id": "smollm2", "num_layers": 30}


def args(**fields: Any) -> SimpleNamespace:
    plain = {"host": None, "port": 8000, "uds": None, "ssl_keyfile": None, "api_key": None}
    return SimpleNamespace(**plain | fields)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0"}, "http://127.0.0.1:8000"),
        ({"host": "::"}, "http://[::1]:8000"),
        ({"host": "fd00::1"}, "http://[fd00::1]:8000"),
        ({"host": "gpu1", "port": 9, "ssl_keyfile": "k"}, "https://gpu1:9"),
        ({"uds": "/run/s"}, "unix:/run/s"),
    ],
)
def test_where_it_is(fields: dict[str, Any], url: str) -> None:
    assert url_of(args(**fields)) == url


@pytest.mark.parametrize("keys", [None, "/etc/keys.yaml"])
@pytest.mark.parametrize("names", [[], ["calm", "cheerful"], ["calm"]])
def test_the_command_can_be_pasted(keys: str | None, names: list[str]) -> None:
    text = banner(args(), MODEL, names, len(names), keys=keys, presets=[])
    (line,) = [line for line in text.splitlines() if line.strip().startswith("curl ")]
    words = shlex.split(line)
    assert words[1] == "http://127.0.0.1:8000/v1/chat/completions"
    body = httpx.Response(200, content=words[words.index("-d") + 1]).json()
    assert (body["model"], body["max_tokens"] > 0) == ("smollm2", True)
    assert ("steering" in body) is bool(names)
    assert any("STEERSMAN_API_KEY" in word for word in words) is (keys is not None)
    assert ("no keys" in text) is (keys is None)


@pytest.mark.parametrize("page", [True, False])
def test_the_page_has_its_address(page: bool) -> None:
    text = banner(args(), MODEL, [], 0, keys=None, presets=[], page=page)
    assert ("http://127.0.0.1:8000/playground" in text) is page
    assert "/playground" not in banner(
        args(uds="/run/s"), MODEL, [], 0, keys=None, presets=[], page=True
    )


def test_of_many_vectors_some_are_named() -> None:
    text = banner(args(), MODEL, ["a", "b"], 900, keys=None, presets=[])
    assert "a, b and 898 more" in text


@pytest.mark.parametrize("model", [MODEL, None])
async def test_ready_is_marked_when_the_server_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    model: dict[str, Any] | None,
) -> None:  # fmt: skip
    monkeypatch.setenv("STEERSMAN_RUN", str(tmp_path))
    monkeypatch.delenv("STEERSMAN_LOG_FORMAT", raising=False)
    library = SimpleNamespace(
        page=lambda after, most: ([SimpleNamespace(name="glad")], False), count=lambda: 1
    )
    steersman = SimpleNamespace(
        whole_library=library,
        all_presets=SimpleNamespace(all=lambda: {"sunny": None}),
        settings=SimpleNamespace(api_keys_file=None, default_preset=None, playground=True),
    )
    state = SimpleNamespace(server=SimpleNamespace(started=False), steersman=steersman)
    announce(state, args(), model)
    await asyncio.sleep(0.1)
    assert not (tmp_path / "ready").exists()
    state.server.started = True
    await state.announcing
    assert (tmp_path / "ready").exists()
    shown = capsys.readouterr().err
    assert ("glad" in shown) is ("smollm2:sunny" in shown) is (model is not None)
