"""`steersman vectors import --features-by`, against Hugging Face's states and all features."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from bench.servers import Server
from steersman.client.cli import main
from tests.http.test_cli import GLAD, SAD
from tests.reference.methods import features
from tests.reference.reference import ReferenceModel
from tests.support.http.client import Client

HIDDEN, COUNT, LAYER = 576, 96, 14
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder with random features, of which each is active on some texts."""
    folder = tmp_path_factory.mktemp("sae")
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    save_file(
        {
            "W_enc": normal(HIDDEN, COUNT) / HIDDEN**0.5, "W_dec": normal(COUNT, HIDDEN),
            "b_enc": normal(COUNT), "b_dec": normal(HIDDEN), "threshold": normal(COUNT).abs(),
        },
        folder / "sae_weights.safetensors",
    )  # fmt: skip
    config = {
        "architecture": "jumprelu", "d_in": HIDDEN, "d_sae": COUNT,
        "hook_name": f"blocks.{LAYER}.hook_resid_post", "apply_b_dec_to_input": True,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, str]:
    found = {}
    for side, lines in (("positive", GLAD), ("negative", SAD)):
        path = tmp_path / f"{side}.txt"
        path.write_text("\n".join(lines))
        found[side] = str(path)
    return found


@pytest.fixture
def steersman(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.setenv("STEERSMAN_SERVER", server.url)

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(list(args))
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def made(client: Client) -> Iterator[str]:
    yield "by-texts"
    client.http.delete("/v1/steering/vectors/by-texts")


def activations(model: Path, sae: Path, lines: list[str]) -> np.ndarray[Any, Any]:
    """[texts, features], the slow way."""
    from safetensors.numpy import load_file

    reference, tokenizer = ReferenceModel(model), AutoTokenizer.from_pretrained(model)
    weights = load_file(sae / "sae_weights.safetensors")
    return np.stack(
        [
            features.strongest(
                reference.streams(tokenizer(line).input_ids, [("resid_post", LAYER)])[0].numpy(),
                weights,
                before=True,
            )
            for line in lines
        ]
    )


def test_by_contrast(
    steersman: Run, client: Client, model: Path, sae: Path, texts: dict[str, str], made: str
) -> None:
    status, _, err = steersman(
        "vectors", "import", str(sae), "--features-by", "contrast", "--name", made, "--top", "3",
        "--positive", texts["positive"], "--negative", texts["negative"],
    )  # fmt: skip
    assert status == 0, err
    vector = client.http.get(f"/v1/steering/vectors/{made}").json()
    how = vector["method_settings"]
    chosen = [one["feature"] for one in how["quality"]["features"]]
    assert how["imported"]["features"] == chosen
    assert vector["operation"] == "feature"
    high, low = (activations(model, sae, lines) for lines in (GLAD, SAD))
    areas = {
        n: features.area(high[:, n].tolist(), low[:, n].tolist())
        for n in range(COUNT)
        if high[:, n].mean() > low[:, n].mean()
    }
    best = sorted(areas, key=lambda n: (-areas[n], low[:, n].mean() - high[:, n].mean()))[:3]
    assert chosen == best
    for one in how["quality"]["features"]:
        n = one["feature"]
        assert one["auroc"] == areas[n]
        assert one["mean"] == pytest.approx([high[:, n].mean(), low[:, n].mean()], rel=1e-3)
    assert set(how["quality"]["null"]["auroc"]) == {"mean", "sd"}
    assert f"feature {best[0]}: auroc" in err

    answer = client.chat(steering={"vectors": [{"id": made, "value": 1.0}]}, max_tokens=2)
    assert answer.status_code == 200, answer.text


def test_by_activation(
    steersman: Run, client: Client, model: Path, sae: Path, texts: dict[str, str], made: str
) -> None:
    status, _, err = steersman(
        "vectors", "import", str(sae), "--features-by", "activation", "--name", made,
        "--positive", texts["positive"],
    )  # fmt: skip
    assert status == 0, err
    how = client.http.get(f"/v1/steering/vectors/{made}").json()["method_settings"]
    means = activations(model, sae, GLAD).mean(0)
    assert how["imported"]["features"] == np.argsort(-means)[:4].tolist()


@pytest.mark.parametrize(
    ("options", "param"),
    [
        (["--features-by", "contrast"], "--positive"),
        (["--features-by", "contrast", "--positive", "{positive}"], "--negative"),
        (
            ["--features-by", "activation", "--positive", "{positive}", "--negative", "{negative}"],
            "--negative",
        ),
        (
            ["--features-by", "activation", "--positive", "{positive}", "--features", "3"],
            "--features-by",
        ),
        (["--features", "3", "--top", "2"], "--top"),
    ],
)
def test_options_that_do_not_go_together(
    steersman: Run, sae: Path, texts: dict[str, str], options: list[str], param: str
) -> None:
    filled = [option.format(**texts) for option in options]
    status, _, err = steersman("vectors", "import", str(sae), *filled)
    assert status != 0
    assert param in err, sys.stderr
