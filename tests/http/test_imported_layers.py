"""An imported direction is added in the engine at the layer that its maker meant."""

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import save_file

from bench.servers import Server
from steersman.client.cli import main
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.http.conftest import HIDDEN, NORM
from tests.support.http.client import Client, completion_body

LAYER = 12
BLOCKS = 30


def direction() -> torch.Tensor:
    values = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(77))
    scaled: torch.Tensor = values * (NORM / values.norm())
    return scaled


def _gguf(path: Path) -> None:
    writer = GGUFWriter(path, "controlvector")
    for number in (LAYER, BLOCKS):
        writer.add_tensor(f"direction.{number}", direction().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _stack(rows: int, at: int) -> torch.Tensor:
    stack = torch.zeros(rows, HIDDEN)
    stack[at] = direction()
    return stack


FILES: dict[str, Callable[[Path], Any]] = {
    "v.gguf": _gguf,
    "v.svec": lambda path: path.write_text(
        json.dumps({"directions": {str(LAYER + 1): direction().tolist()}})
    ),
    "lens.safetensors": lambda path: save_file(
        {f"blocks.{LAYER + 1}.hook_resid_pre": direction()}, path
    ),
    "layers.pt": lambda path: torch.save(_stack(BLOCKS, LAYER), path),
    "hidden_states.npy": lambda path: np.save(path, _stack(BLOCKS + 1, LAYER + 1).numpy()),
    "dict.pth": lambda path: torch.save({LAYER: direction()}, path),
}


def _logprobs(client: Client, name: str) -> list[float]:
    body = completion_body(
        logprobs=1,
        steering={"vectors": [{"id": name, "coefficient": 1.0, "positions": "all"}]},
    )
    answer = client.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["choices"][0]["logprobs"]["token_logprobs"])


@pytest.mark.parametrize("file", FILES)
def test_the_engine_adds_it_where_its_maker_does(
    file: str, client: Client, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERSMAN_SERVER", server.url)
    names = {at: f"at-{at}-{secrets.token_hex(4)}" for at in (LAYER - 1, LAYER, LAYER + 1)}
    imported = f"imported-{secrets.token_hex(4)}"
    FILES[file](tmp_path / file)
    assert main(["vectors", "import", str(tmp_path / file), "--name", imported]) == 0
    try:
        for at, name in names.items():
            ours = SteeringVector({HookPoint("resid_post", at): direction()})
            assert client.upload(write_vector(ours), name).status_code == 201
        theirs = _logprobs(client, imported)
        assert theirs == pytest.approx(_logprobs(client, names[LAYER]), abs=1e-4)
        for at in (LAYER - 1, LAYER + 1):
            other = _logprobs(client, names[at])
            assert max(abs(a - b) for a, b in zip(theirs, other, strict=True)) > 1e-2
    finally:
        for name in (imported, *names.values()):
            client.http.delete(f"/v1/steering/vectors/{name}")
