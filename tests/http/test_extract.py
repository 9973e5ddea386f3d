"""Vectors made by the server, against the same made by hand from Hugging Face's hidden states."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from steersman.vectors.demo.contrast import contrasts
from steersman.vectors.file.format import read_vector
from steersman.vectors.tensors import HookPoint
from tests.reference.methods import component, logistic
from tests.reference.reference import ReferenceModel
from tests.support.http.client import Client

LAYERS = 30
QUESTION = "Write a sentence."
PAIRS = (
    ("I am so happy today, everything shines!", "I am so sad today, everything is grey."),
    ("What a wonderful surprise this is.", "What a dreadful surprise this is."),
    ("The party was great fun for all of us.", "The party was awful for all of us."),
    ("She laughed and danced all night.", "She wept and lay awake all night."),
    ("We won, and the crowd cheered!", "We lost, and the crowd left."),
    ("Spring is here and birds are singing.", "Winter is here and nothing sings."),
    ("He smiled and shook my hand.", "He scowled and turned away."),
)
"""An odd number: where as many pairs lie on one side of a component as on the other, its sign is a
matter of taste."""
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def reference(model: Path) -> ReferenceModel:
    return ReferenceModel(model)


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    return AutoTokenizer.from_pretrained(model)


@pytest.fixture
def made(client: Client) -> Iterator[list[str]]:
    """Names of vectors to delete afterwards."""
    names: list[str] = []
    yield names
    for name in names:
        client.http.delete(f"/v1/steering/vectors/{name}")


def start(client: Client, **request: Any) -> dict[str, Any]:
    answer = client.http.post("/v1/steering/vectors/extract", json=request)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def finished(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job when it has ended."""
    for _ in range(3000):
        now: dict[str, Any] = client.http.get(f"/v1/steering/jobs/{job['id']}").json()
        if now["status"] not in ("queued", "running"):
            return now
        time.sleep(0.2)
    raise AssertionError(f"still {now}")


def extract(client: Client, made: list[str], **request: Any) -> dict[str, Any]:
    made.append(request["name"])
    job = finished(client, start(client, **request))
    assert job["status"] == "succeeded", job
    return job


def tensors(client: Client, name: str, site: str = "resid_post") -> Array:
    """[layers, ...] of a vector in the library."""
    content = client.http.get(f"/v1/steering/vectors/{name}/content").content
    found = read_vector(content).tensors
    return torch.stack([found[HookPoint(site, layer)] for layer in range(LAYERS)]).numpy()


def states(reference: ReferenceModel, tokens: Sequence[int], site: str = "resid_post") -> Array:
    """[layers, tokens, hidden]."""
    return reference.streams(tokens, [HookPoint(site, layer) for layer in range(LAYERS)]).numpy()


def answered(tokenizer: Any, text: str, question: str = QUESTION) -> tuple[list[int], int]:
    opening = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    start = tokenizer(opening, add_special_tokens=False).input_ids
    return [*start, *tokenizer(text, add_special_tokens=False).input_ids], len(start)


def same_direction(found: Array, expected: Array) -> None:
    """Cosine at every layer; and the same length, to float32's accuracy of a difference."""
    lengths = np.linalg.norm(found, axis=-1), np.linalg.norm(expected, axis=-1)
    cosine = (found * expected).sum(-1) / (lengths[0] * lengths[1])
    assert cosine.min() >= 0.9999
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=1e-3)


def test_mean_difference(
    client: Client, made: list[str], reference: ReferenceModel, tokenizer: Any
) -> None:
    """Means over the answers' tokens; and what the library says of the vector."""
    job = extract(
        client, made, name="md", method="mean_difference", tokens="mean", prompt=QUESTION,
        positive=[p for p, _ in PAIRS], negative=[n for _, n in PAIRS], description="joy",
        licence="Apache-2.0",
    )  # fmt: skip
    sides = []
    for side in (0, 1):
        rows = []
        for pair in PAIRS:
            tokens, first = answered(tokenizer, pair[side])
            rows.append(states(reference, tokens)[:, first:].mean(1))
        sides.append(np.mean(rows, axis=0))
    same_direction(tensors(client, "md"), sides[0] - sides[1])

    assert job["progress"]["done"] == job["progress"]["total"] == 14
    assert job["bad_rows"] == []
    vector = client.http.get("/v1/steering/vectors/md").json()
    assert job["vectors"] == [f"md@{vector['digest'].removeprefix('sha256:')[:12]}"]
    quality = vector["method_settings"]["quality"]
    assert set(quality["separation"]) == {f"resid_post.{n}" for n in range(LAYERS)}
    assert vector["base_model"]["num_layers"] == LAYERS
    assert vector["safe_range"] is None

    answer = client.chat(steering={"vectors": {"md": 0.1}}).json()
    assert answer["steering"]["vectors"][0]["digest"] == vector["digest"]


def test_caa_at_the_answer_letter(
    client: Client, made: list[str], reference: ReferenceModel, tokenizer: Any
) -> None:
    questions = ["Do you like rain? (A) Yes (B) No", "Is it late? (A) Yes (B) No", "Tea? (A) Yes"]
    extract(
        client, made, name="letters", method="caa",
        pairs=[{"prompt": q, "positive": "(A)", "negative": "(B)"} for q in questions],
    )  # fmt: skip
    differences = []
    for question in questions:
        a, b = (
            states(reference, answered(tokenizer, letter, question)[0])[:, -2]
            for letter in ("(A)", "(B)")
        )
        differences.append(a - b)
    same_direction(tensors(client, "letters"), np.mean(differences, axis=0))


def last_states(reference: ReferenceModel, tokenizer: Any, texts: Sequence[str]) -> Array:
    """[layers, texts, hidden] of raw texts."""
    rows = [states(reference, tokenizer(text).input_ids)[:, -1] for text in texts]
    return np.stack(rows, axis=1)


@pytest.mark.parametrize("centring", ["pca_diff", "pca_center"])
def test_principal_component(
    client: Client, made: list[str], reference: ReferenceModel, tokenizer: Any, centring: str
) -> None:
    extract(
        client, made, name="pc", method="repe", pairs=[list(p) for p in PAIRS], tokens="last",
        settings={"centring": centring},
    )  # fmt: skip
    sides = [last_states(reference, tokenizer, [p[side] for p in PAIRS]) for side in (0, 1)]
    expected = np.stack(
        [
            component.principal_component(high, low, centring == "pca_center")
            for high, low in zip(*sides, strict=True)
        ]
    )
    same_direction(tensors(client, "pc"), expected)


def test_probe(client: Client, made: list[str], reference: ReferenceModel, tokenizer: Any) -> None:
    extract(
        client, made, name="probed", method="probe", tokens="last", settings={"c": 1.0},
        positive=[p for p, _ in PAIRS], negative=[n for _, n in PAIRS],
    )  # fmt: skip
    sides = [last_states(reference, tokenizer, [p[side] for p in PAIRS]) for side in (0, 1)]
    expected = []
    for high, low in zip(*sides, strict=True):
        weights, _ = logistic.logistic(high, low, 1.0)
        expected.append(weights / np.linalg.norm(weights))
    same_direction(tensors(client, "probed"), np.stack(expected))


def test_styles_from_a_file(
    client: Client, made: list[str], reference: ReferenceModel, tokenizer: Any
) -> None:
    """A JSONL upload: one vector a style, each against all other texts together."""
    texts = {
        "glad": [p for p, _ in PAIRS],
        "sad": [n for _, n in PAIRS[:4]],
        "flat": ["A box."] * 2,
    }
    lines = [{"text": text, "label": style} for style in texts for text in texts[style]]
    made += [f"tone-{style}" for style in texts]
    answer = client.http.post(
        "/v1/steering/vectors/extract",
        data={"request": json.dumps({"name": "tone", "method": "style"})},
        files={"file": ("rows.jsonl", "\n".join(map(json.dumps, lines)))},
    )
    assert answer.status_code == 202, answer.text
    job = finished(client, answer.json())
    assert job["status"] == "succeeded", job
    assert [v.partition("@")[0] for v in job["vectors"]] == [f"tone-{s}" for s in texts]
    rows = {style: last_states(reference, tokenizer, texts[style]) for style in texts}
    others = np.concatenate([rows["sad"], rows["flat"]], axis=1)
    same_direction(tensors(client, "tone-glad"), rows["glad"].mean(1) - others.mean(1))
    assert client.http.get("/v1/steering/vectors/tone-glad").json()["positions"] == "all"


def test_per_step(
    client: Client, made: list[str], reference: ReferenceModel, tokenizer: Any
) -> None:
    """The attention's output at each greedy step, which is what its input gives folded through the
    projection."""
    prompts = {
        "positive": ["The sun was out and we", "My favourite day", "Everyone smiled when"],
        "negative": ["The rain fell and we", "The worst day of", "Everyone cried when"],
    }
    steps, blocks = 5, reference.model.model.layers
    extract(client, made, name="stepwise", method="per_step", steps=steps, **prompts)
    weights = [block.self_attn.o_proj.weight.detach().numpy() for block in blocks]
    sides = []
    for side in ("positive", "negative"):
        texts = []
        for prompt in prompts[side]:
            ids = tokenizer(prompt).input_ids
            whole = [*ids, *reference.greedy(ids, steps)]
            seen: list[torch.Tensor] = []
            hooks = [
                block.self_attn.o_proj.register_forward_pre_hook(
                    lambda _m, inputs, seen=seen: seen.append(inputs[0][0])
                )
                for block in blocks
            ]
            with torch.no_grad():
                reference.model(input_ids=torch.tensor([whole]))
            for hook in hooks:
                hook.remove()
            texts.append(torch.stack(seen)[:, len(ids) - 1 : len(ids) - 1 + steps].numpy())
        sides.append(np.mean(texts, axis=0))
    folded = np.stack([delta @ w.T for delta, w in zip(sides[0] - sides[1], weights, strict=True)])
    found = tensors(client, "stepwise", "attn_out")
    assert found.shape == (LAYERS, steps, 576)
    same_direction(found, folded)


def test_bad_rows_are_named_and_the_others_used(client: Client, made: list[str]) -> None:
    pairs: list[Any] = [list(p) for p in PAIRS]
    pairs[1] = ["Only one side"]
    pairs[3] = ["", "An empty one."]
    pairs[4] = [[{"role": "user"}], "A message without content."]
    job = extract(client, made, name="patched", method="repe", pairs=pairs)
    assert [(bad["row"], bad["label"]) for bad in job["bad_rows"]] == [
        (2, ""), (4, "positive"), (5, "positive"),
    ]  # fmt: skip
    assert "content" in job["bad_rows"][2]["reason"]
    assert job["progress"]["total"] == 8
    assert client.http.get("/v1/steering/vectors/patched").json()["method_settings"]["quality"][
        "rows"
    ] == [4, 4]


def test_twice_the_same_bytes(client: Client, made: list[str]) -> None:
    """One text at a time, whatever ran before."""
    request = {
        "method": "mean_difference", "pairs": [list(p) for p in PAIRS], "reproducible": True,
        "created_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    contents = []
    for _ in range(2):
        extract(client, made, name="again", **request)
        contents.append(client.http.get("/v1/steering/vectors/again/content").content)
        client.http.delete("/v1/steering/vectors/again")
        client.chat("Something else.")
    assert contents[0] == contents[1]


def test_a_dose_is_the_same_at_every_layer(client: Client, made: list[str]) -> None:
    extract(client, made, name="dosed", method="repe", pairs=[list(p) for p in PAIRS],
            unit_dose=0.2)  # fmt: skip
    medians = client.http.get("/v1/steering/capabilities").json()["median_norms"]
    vector = client.http.get("/v1/steering/vectors/dosed").json()
    for name, norm in vector["norms"].items():
        assert norm / medians[name] == pytest.approx(0.2, rel=1e-5)
    # The dose of a recommendation, and of what stands for one.
    assert vector["coefficient"] == pytest.approx(0.15 / 0.2, rel=1e-5)
    assert vector["safe_range"] is None


def test_cancel(client: Client) -> None:
    texts = [f"Text number {n} of many." for n in range(1000)]
    others = [f"Another text, number {n}." for n in range(1000)]
    job = start(client, name="never", method="mean_difference", positive=texts, negative=others)
    behind = start(client, name="never-too", method="caa", pairs=[["(A)", "(B)"]] * 2)
    assert client.http.delete(f"/v1/steering/jobs/{behind['id']}").status_code == 200
    assert client.http.delete(f"/v1/steering/jobs/{job['id']}").json()["status"] == "cancelling"
    for one in (job, behind):
        assert finished_after_cancel(client, one) == "cancelled"
    assert client.http.get("/v1/steering/vectors/never").status_code == 404
    listed = client.http.get("/v1/steering/jobs").json()["data"]
    assert {job["id"], behind["id"]} <= {one["id"] for one in listed}


def finished_after_cancel(client: Client, job: dict[str, Any]) -> str:
    for _ in range(300):
        status: str = client.http.get(f"/v1/steering/jobs/{job['id']}").json()["status"]
        if status not in ("queued", "running", "cancelling"):
            break
        time.sleep(0.1)
    return status


def test_a_job_that_cannot_end_well_says_why(client: Client) -> None:
    """Of raw texts of one token nothing is read, which only the tokenizer knows."""
    pairs = [["a", "b"]] * 4
    job = finished(client, start(client, name="short", method="mean_difference", pairs=pairs))
    assert job["status"] == "failed"
    assert job["error"]["code"] == "too_few_rows"
    assert "no tokens to read" in job["error"]["message"]


def test_a_job_shows_the_tokens_and_warns_of_one_sign(client: Client, made: list[str]) -> None:
    """Texts that end in the same sign and a blank, as in CASES 2.21; 8 pairs beside streams."""
    pairs = [[f"{p} . ", f"{n} . "] for p, n in PAIRS]
    job = extract(client, made, name="dots", method="mean_difference", tokens="last", pairs=pairs,
                  layers=[14])  # fmt: skip
    assert [(s["row"], s["label"]) for s in job["samples"][:2]] == [
        (1, "positive"),
        (1, "negative"),
    ]
    assert len({s["token"] for s in job["samples"]}) == 1
    assert "happy today" in job["samples"][0]["before"]
    assert "same_token" in [warning["code"] for warning in job["warnings"]]
    whole = extract(client, made, name="whole", method="mean_difference", pairs=pairs, layers=[14])
    assert "same_token" not in [warning["code"] for warning in whole["warnings"]]
    vector = client.http.get("/v1/steering/vectors/whole").json()
    assert vector["method_settings"]["tokens"] == "mean"


def test_a_difference_that_holds_is_recommended(client: Client, made: list[str]) -> None:
    """Twelve of the demo's pairs; and the coefficient has the dose that is said."""
    texts = contrasts()["cheerful"]
    job = extract(
        client, made, name="holds", method="mean_difference", layers=[12, 14, 16],
        positive=list(texts.positive[:12]), negative=list(texts.negative[:12]),
    )  # fmt: skip
    assert job["warnings"] == []
    vector = client.http.get("/v1/steering/vectors/holds").json()
    quality = vector["method_settings"]["quality"]
    advice, null = quality["recommended"], quality["null"]
    assert vector["layers"] == [advice["layer"]] == [null["layer"]]
    place = f"resid_post.{advice['layer']}"
    assert quality["separation"][place] > null["separation"]["mean"] + 2 * null["separation"]["sd"]
    assert vector["coefficient"] == pytest.approx(advice["coefficient"])
    medians = client.http.get("/v1/steering/capabilities").json()["median_norms"]
    dose = vector["coefficient"] * vector["norms"][place] / medians[place]
    assert dose == pytest.approx(advice["relative_dose"])
    assert vector["safe_range"] is None, "nobody has looked at text"
    looked = client.http.get("/v1/steering/vectors/holds/inspect").json()
    assert (looked["recommended"], looked["not_recommended"]) == (advice, None)


def test_noise_is_not_recommended(client: Client, made: list[str]) -> None:
    """The same texts dealt out to two sides: CASES 6.2."""
    texts = [text for pair in PAIRS for text in pair]
    sides = {"positive": texts[0::4] + texts[1::4], "negative": texts[2::4] + texts[3::4]}
    job = extract(client, made, name="noise", method="mean_difference", **sides)
    vector = client.http.get("/v1/steering/vectors/noise").json()
    quality = vector["method_settings"]["quality"]
    assert quality["recommended"] is None
    assert "shuffled labels" in quality["reason"]
    assert set(quality["null"]["separation"]) == {"mean", "sd"}
    assert vector["safe_range"] is None
    assert [w["code"] for w in job["warnings"]] == ["not_recommended"]
    looked = client.http.get("/v1/steering/vectors/noise/inspect").json()
    assert (looked["recommended"], looked["not_recommended"]) == (None, quality["reason"])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": "magic"}, "method"),
    "field": ({"texts": ["x"]}, "texts"),
    "no texts": ({"pairs": None}, "pairs"),
    "layer": ({"layers": [30]}, "layers"),
    "site": ({"site": "resid_pre"}, "site"),
    "unknown site": ({"site": "nowhere"}, "site"),
    "tokens": ({"tokens": "steps"}, "tokens"),
    "setting": ({"settings": {"depth": 3}}, "settings.depth"),
    "number": ({"method": "probe", "settings": {"c": 1e9}}, "settings.c"),
    "unpaired": (
        {"method": "repe", "pairs": None, "positive": ["a b"] * 3, "negative": ["c d"] * 2},
        "pairs",
    ),
    "name": ({"name": "no spaces"}, "name"),
    "one pair": ({"pairs": [["a b", "c d"]]}, "positive"),
    "same texts": ({"pairs": [["a b", "a b"]] * 4}, "pairs"),
    "empty texts": ({"pairs": [["a b", ""]] * 4}, "negative"),
    "one side": ({"pairs": None, "positive": ["a b", "c d"]}, "negative"),
    "too many": ({"pairs": [["a", "b"]] * 3000}, "pairs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_once(client: Client, case: str) -> None:
    change, param = REFUSED[case]
    request = {"name": "x", "method": "mean_difference", "pairs": [["a", "b"]] * 4, **change}
    answer = client.http.post("/v1/steering/vectors/extract", json=request)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_a_name_that_is_taken(client: Client, rnd: str) -> None:
    request = {"name": rnd, "method": "mean_difference", "pairs": [["a", "b"]] * 4}
    answer = client.http.post("/v1/steering/vectors/extract", json=request)
    assert answer.status_code == 409


def test_unknown_job(client: Client) -> None:
    for job_id in ("job-0123", "job-..", "nothing"):
        assert client.http.get(f"/v1/steering/jobs/{job_id}").status_code == 404
