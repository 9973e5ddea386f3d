from pathlib import Path

import pytest
import torch

from steersman.vectors.demo.activations import QUESTION, LoadedModel, load_model, text_activations
from steersman.vectors.demo.contrast import Contrast
from steersman.vectors.demo.directions import find_directions
from steersman.vectors.errors import DemoError
from tests.support.vectors.demo import save_tiny

TEXTS = ["the sun is up", "a dog", "rain fell on the old grey town all night", "she sang"]
CONTRAST = Contrast("mood", "", tuple(TEXTS[:2]), tuple(TEXTS[2:]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), 4, [QUESTION, "user", "assistant", *TEXTS])


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_model(folder)


def one_by_one(loaded: LoadedModel, text: str, layer: int) -> torch.Tensor:
    """The obvious way: no batch, no cache, no hooks."""
    opening, ids = loaded.chat_ids(QUESTION), loaded.text_ids(text)
    with torch.no_grad():
        states = loaded.model(torch.tensor([opening + ids]), output_hidden_states=True)
    stream: torch.Tensor = states.hidden_states[layer + 1][0, len(opening) :]
    return stream


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_batches_padding_and_the_shared_opening_change_nothing(
    loaded: LoadedModel, batch_size: int
) -> None:
    found = list(text_activations(loaded, TEXTS, [0, 2], batch_size))
    for activations, text in zip(found, sorted(TEXTS, key=lambda t: len(t.split())), strict=True):
        for layer in (0, 2):
            torch.testing.assert_close(activations[layer], one_by_one(loaded, text, layer))


def test_a_direction_is_the_difference_of_the_means(loaded: LoadedModel) -> None:
    found = find_directions(loaded, {"mood": CONTRAST}, [1], lambda line: None)
    tokens = [one_by_one(loaded, text, 1) for text in TEXTS]
    means = [rows.mean(0) for rows in tokens]
    expected = (means[0] + means[1]) / 2 - (means[2] + means[3]) / 2
    torch.testing.assert_close(found.difference["mood"]["mean"][1], expected)
    last = [rows[-1] for rows in tokens]
    expected = (last[0] + last[1]) / 2 - (last[2] + last[3]) / 2
    torch.testing.assert_close(found.difference["mood"]["last"][1], expected)
    median = torch.cat(tokens).norm(dim=-1).median()
    assert found.median_norm[1] == pytest.approx(float(median), rel=1e-5)


def test_the_last_layer_is_read_before_the_final_norm(loaded: LoadedModel) -> None:
    opening, ids = loaded.chat_ids(QUESTION), loaded.text_ids(TEXTS[0])
    with torch.no_grad():
        states = loaded.model(torch.tensor([opening + ids]), output_hidden_states=True)
    normed = states.hidden_states[-1][0, len(opening) :]
    (activations,) = text_activations(loaded, TEXTS[:1], [3])
    torch.testing.assert_close(loaded.model.model.norm(activations[3]), normed)
    assert not torch.allclose(activations[3], normed)


def test_blocks_after_the_last_one_read_need_not_be_there(
    folder: Path, loaded: LoadedModel
) -> None:
    (cut,) = text_activations(load_model(folder, blocks=2), TEXTS[:1], [1])
    (whole,) = text_activations(loaded, TEXTS[:1], [1])
    assert torch.equal(cut[1], whole[1])


def test_no_model_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="no model"):
        load_model(tmp_path)
