from pathlib import Path

import pytest

from steersman.vectors.demo.activations import QUESTION
from steersman.vectors.demo.contrast import contrasts
from steersman.vectors.demo.defaults import load_defaults
from steersman.vectors.demo.make import LAYERS, make_vectors
from steersman.vectors.file.format import read_vector
from tests.support.vectors.demo import HIDDEN, save_tiny

BLOCKS = 30


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [t for c in contrasts().values() for t in (*c.positive, *c.negative)]
    words = [QUESTION, "user", "assistant", *texts]
    return save_tiny(tmp_path_factory.mktemp("tiny"), BLOCKS, words)


@pytest.fixture(scope="module")
def made(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_vectors(model_dir, tmp_path_factory.mktemp("vectors"), lambda line: None)


def test_every_vector_has_the_measured_defaults(made: list[Path]) -> None:
    defaults = load_defaults()
    assert [path.stem for path in made] == sorted(defaults)
    for path in made:
        vector, chosen = read_vector(path), defaults[path.stem]
        assert vector.name == path.stem
        assert vector.hidden_size == HIDDEN
        assert {layer for _, layer in vector.tensors} == set(LAYERS)
        assert vector.layers == chosen.layers
        assert vector.coefficient == chosen.coefficient
        assert vector.safe_range == chosen.safe_range
        assert vector.base_model is not None
        assert vector.base_model.num_layers == BLOCKS


def test_coefficient_one_is_the_measured_dose_at_every_layer(made: list[Path]) -> None:
    defaults = load_defaults()
    for path in made:
        vector = read_vector(path)
        medians = vector.method_settings["median_residual_norm"]
        for (site, layer), tensor in vector.tensors.items():
            dose = float(tensor.norm()) / medians[f"{site}.{layer}"]
            assert dose == pytest.approx(defaults[path.stem].unit_dose, rel=1e-4)


def test_the_same_bytes_the_second_time(model_dir: Path, made: list[Path], tmp_path: Path) -> None:
    again = make_vectors(model_dir, tmp_path, lambda line: None)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in made]


def test_vectors_that_are_there_are_not_made_again(made: list[Path], tmp_path: Path) -> None:
    # There is no model at this path: making anything would fail.
    assert make_vectors(tmp_path, made[0].parent, lambda line: None) == made


def test_a_missing_vector_is_made_again(model_dir: Path, made: list[Path], tmp_path: Path) -> None:
    paths = make_vectors(model_dir, tmp_path, lambda line: None)
    expected = paths[0].read_bytes()
    paths[0].unlink()
    make_vectors(model_dir, tmp_path, lambda line: None)
    assert paths[0].read_bytes() == expected
