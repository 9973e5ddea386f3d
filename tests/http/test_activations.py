"""The stream of texts as a file: what Hugging Face computes, within limits."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load
from transformers import AutoTokenizer

from tests.reference.reference import ReferenceModel
from tests.support.http.client import FRANCE, Client

PATH = "/v1/steering/activations"
POINTS = [("attn_out", 3), ("resid_post", 14)]
TEXTS = ["What a lovely day it is.", "No.", "The ferry leaves at seven."]
CHAT = [{"role": "user", "content": FRANCE}]
CLOSE = 1e-4
"""Largest difference, as a share of the norm."""


@pytest.fixture(scope="module")
def reference(model: Path) -> ReferenceModel:
    return ReferenceModel(model)


def ask(client: Client, **fields: Any) -> httpx.Response:
    points = [f"{site}.{layer}" for site, layer in POINTS]
    return client.http.post(PATH, json={"texts": TEXTS, "hook_points": points, **fields})


def ids_of(model: Path, text: Any) -> list[int]:
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    if isinstance(text, str):
        return list(tokenizer(text)["input_ids"])
    said = tokenizer.apply_chat_template(text, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(said, add_special_tokens=False)["input_ids"])


def cut(stream: NDArray[np.float64], tokens: Any) -> NDArray[np.float64]:
    """[tokens, hidden] -> [rows, hidden]."""
    match tokens:
        case "last":
            return stream[-1:]
        case "mean":
            return np.asarray(stream[1:].mean(0, keepdims=True))
        case "all":
            return stream
        case {"start": start, "stop": stop}:
            return stream[start:stop]
    raise ValueError(tokens)


@pytest.mark.parametrize("tokens", ["last", "mean", "all", {"start": -2, "stop": None}])
def test_they_are_what_hugging_face_computes(
    client: Client, model: Path, reference: ReferenceModel, tokens: Any
) -> None:
    texts = [*TEXTS, CHAT]
    # Their blocks may be in the prefix cache by now.
    ask(client, texts=texts, tokens="last")
    answer = ask(client, texts=texts, tokens=tokens)
    assert answer.status_code == 200, answer.text
    found = load(answer.content)
    ids = [ids_of(model, text) for text in texts]
    streams = [reference.streams(one, POINTS).double().numpy() for one in ids]
    rows = [len(cut(one[0], tokens)) for one in streams]
    assert found["offsets"].tolist() == np.cumsum([0, *rows]).tolist()
    for n, (site, layer) in enumerate(POINTS):
        wanted = np.concatenate([cut(one[n], tokens) for one in streams])
        got = found[f"{site}.{layer}"]
        assert got.dtype == np.float32
        off = np.linalg.norm(got - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
        assert off.max() <= CLOSE
    each = tokens not in ("last", "mean")
    assert ("token_ids" in found) == each
    if each:
        of_texts = [cut(np.array(one)[:, None], tokens) for one in ids]
        assert found["token_ids"].tolist() == np.concatenate(of_texts)[:, 0].tolist()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"texts": []}, "texts"),
        ({"texts": ["Yes.", ""]}, "texts[1]"),
        ({"texts": [7]}, "texts"),
        ({"hook_points": ["resid_post"]}, "hook_points[0]"),
        ({"hook_points": ["resid_post.30"]}, "hook_points"),
        ({"hook_points": ["resid_pre.3"]}, "hook_points"),
        ({"tokens": "first"}, "tokens"),
        ({"tokens": {"start": 900}}, "texts[0]"),
        ({"site": "resid_post"}, "site"),
        ({"texts": ["word " * 3000]}, "texts[0]"),
        ({"texts": ["word " * 1500] * 20, "tokens": "all"}, "texts"),
    ],
)
def test_what_cannot_be_had_is_refused_by_its_key(
    client: Client, fields: dict[str, Any], param: str
) -> None:
    answer = ask(client, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_too_many_texts_are_refused(client: Client) -> None:
    answer = ask(client, texts=["a"] * 4097)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "too_many_rows"
