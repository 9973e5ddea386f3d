"""Activation patching: what Hugging Face computes with hooks, as a job, and what is refused."""

import io
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

from tests.reference.interventions import Intervened, Intervention
from tests.reference.reference import ReferenceModel
from tests.support.http.client import Client

PATH = "/v1/steering/patch"
JOBS = "/v1/steering/jobs"
CLEAN, CORRUPTED = "The capital of France is", "The capital of Italy is"
ANSWERS = [" Paris", " Rome"]
POINTS = [("attn_out", 12), ("mlp_out", 3), ("resid_post", 5), ("resid_post", 28)]
BODY = {
    "clean": CLEAN,
    "corrupted": CORRUPTED,
    "answers": ANSWERS,
    "hook_points": [f"{site}.{layer}" for site, layer in POINTS],
}
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def reference(model: Path) -> ReferenceModel:
    return ReferenceModel(model)


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    return AutoTokenizer.from_pretrained(model)


def ended(client: Client, **fields: Any) -> dict[str, Any]:
    """The job that the body with `fields` starts, once it has ended."""
    answer = client.http.post(PATH, json={**BODY, **fields})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    for _ in range(600):
        if job["status"] in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(0.2)
        job = client.http.get(f"{JOBS}/{job['id']}").json()
    raise AssertionError(job)


class Judge:
    """The measure, by hooks on the whole text."""

    def __init__(self, reference: ReferenceModel, answers: list[list[int]]) -> None:
        self.reference = reference
        self.answers = answers

    def difference(self, prompt: list[int], patches: list[Intervention]) -> float:
        first, second = [self.log_probability(prompt, answer, patches) for answer in self.answers]
        return first - second

    def log_probability(
        self, prompt: list[int], answer: list[int], patches: list[Intervention]
    ) -> float:
        ids = [*prompt, *answer]
        found = Intervened(self.reference).logprobs(ids, len(prompt), patches)
        places = range(len(prompt) - 1, len(ids) - 1)
        return float(sum(found[n, token] for n, token in zip(places, answer, strict=True)))

    def patched(self, into: list[int], source: list[int], at: tuple[str, int], t: int) -> float:
        stream = self.reference.streams(source, [at])[0, t]
        positions = {"start": t, "stop": t + 1}
        patch = Intervention("replace", *at, 1.0, {"v": stream}, positions=positions)
        return self.difference(into, [patch])


@pytest.mark.parametrize("answers", [ANSWERS, [" Paris, of course", " Rome"]])
def test_the_tables_are_what_hugging_face_computes(
    client: Client, reference: ReferenceModel, tokenizer: Any, answers: list[str]
) -> None:
    job = ended(client, answers=answers)
    assert (job["status"], job["type"], job["error"]) == ("succeeded", "patch", None)
    table = job["patch"]
    clean, corrupted = tokenizer(CLEAN)["input_ids"], tokenizer(CORRUPTED)["input_ids"]
    first = next(n for n, pair in enumerate(zip(clean, corrupted, strict=True)) if len({*pair}) > 1)
    assert table["positions"] == [*range(first, len(clean))]
    assert table["tokens"]["clean"][0] == " France"
    assert table["hook_points"] == BODY["hook_points"]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in answers]
    judge = Judge(reference, ids)
    plain = [judge.difference(prompt, []) for prompt in (clean, corrupted)]
    assert abs(table["clean"] - plain[0]) <= TOLERANCE
    assert abs(table["corrupted"] - plain[1]) <= TOLERANCE
    for direction, into, source, sign in (
        ("denoising", corrupted, clean, 1),
        ("noising", clean, corrupted, -1),
    ):
        wanted = np.array(
            [[judge.patched(into, source, at, t) for t in table["positions"]] for at in POINTS]
        )
        found = np.array(table[direction]["difference"])
        assert np.abs(found - wanted).max() <= TOLERANCE
        base = plain[1] if direction == "denoising" else plain[0]
        share = sign * (wanted - base) / (plain[0] - plain[1])
        assert np.abs(np.array(table[direction]["effect"]) - share).max() <= TOLERANCE
        # It is not a table of nothing: late in the model the last token decides.
        assert share[-1, -1] > 0.5


def test_it_is_drawn_and_listed(client: Client) -> None:
    job = ended(client, directions=["denoising"], tokens={"start": -1})
    assert "noising" not in job["patch"]
    assert job["patch"]["positions"] == [4]
    assert job["progress"]["done"] == job["progress"]["total"] == len(POINTS)
    drawn = client.http.get(f"{JOBS}/{job['id']}/heat_map")
    assert drawn.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(drawn.content))
    assert picture.width > 100
    pixels = np.asarray(picture).astype(int)
    assert (pixels[..., 0] > pixels[..., 2] + 100).any(), "no effect is drawn"
    listed = client.http.get(JOBS).json()["data"]
    (found,) = [one for one in listed if one["id"] == job["id"]]
    assert "patch" not in found
    # Nothing of it is in the library.
    assert "patch" not in [
        one["id"] for one in client.http.get("/v1/steering/vectors").json()["data"]
    ]


def test_without_contrast_it_says_so(client: Client) -> None:
    job = ended(client, answers=[ANSWERS[1], ANSWERS[0]], tokens={"start": -1})
    assert [said["code"] for said in job["warnings"]] == ["no_contrast"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"clean": ""}, "clean"),
        ({"corrupted": "The capital of the old kingdom of Italy is"}, "corrupted"),
        ({"corrupted": CLEAN}, "corrupted"),
        ({"answers": [" Paris"]}, "answers"),
        ({"answers": [" Paris", ""]}, "answers[1]"),
        ({"answers": [" Paris", " Paris"]}, "answers"),
        ({"hook_points": ["resid_post"]}, "hook_points[0]"),
        ({"hook_points": ["resid_post.30"]}, "hook_points"),
        ({"hook_points": ["resid_pre.3"]}, "hook_points"),
        ({"hook_points": []}, "hook_points"),
        ({"tokens": {"start": 9}}, "tokens"),
        ({"directions": ["sideways"]}, "directions"),
        ({"directions": []}, "directions"),
        ({"metric": "kl"}, "metric"),
        ({"clean": "word " * 3000, "corrupted": "word " * 3000}, "clean"),
        ({"clean": "a " * 400 + CLEAN, "corrupted": "b " * 400 + CORRUPTED,
          "hook_points": None}, "hook_points"),
    ],
)  # fmt: skip
def test_what_cannot_be_patched_is_refused_by_its_key(
    client: Client, fields: dict[str, Any], param: str
) -> None:
    answer: httpx.Response = client.http.post(PATH, json={**BODY, **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_only_a_patching_job_has_a_heat_map(client: Client) -> None:
    answer = client.http.get(f"{JOBS}/job-0123456789abcdef/heat_map")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")
