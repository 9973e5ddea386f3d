"""Every setting of dynamic composition against k + 2 forwards of the whole text a token.

All of them on a tiny model, where a forward takes milliseconds: 20 prompts each; one prompt each on
the demo model. Part of `make matrix`.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import Shelf
from tests.reference.reference import ReferenceModel
from tests.support.engine.dynamic import Setting, distances
from tests.support.engine.engine import Ask, Engine
from tests.support.engine.v2_asks import prompt as random_prompt
from tests.support.matrix import tiny

TOKENS = 40
CLOSE = 1e-3
PRODUCT = [
    Setting(k, mean=mean, top_p=top_p, start=0.4, cap=0.4, steps=steps)
    for k, mean, top_p, steps in itertools.product((1, 2, 3), (True, False), (0.5, 0.95), (1, 6))
]


def name(setting: Setting) -> str:
    divergence = "mean" if setting.mean else "sum"
    return f"{setting.properties}-{divergence}-{setting.top_p}-{setting.steps}"


every_setting = pytest.mark.parametrize("setting", PRODUCT, ids=name)


@pytest.fixture(scope="module")
def worst() -> Iterator[list[float]]:
    seen = [0.0]
    yield seen
    print(f"\ndynamic parity: worst difference of a coefficient or divergence {max(seen):.1e}")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_shelf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    norms = tiny.stream_norms(tiny_model, random_prompt(0, 100))
    return Shelf(tmp_path_factory.mktemp("tiny-library"), norms, tiny.HIDDEN)


@pytest.fixture(scope="module")
def tiny_reference(tiny_model: Path) -> ReferenceModel:
    return ReferenceModel(tiny_model)


@pytest.fixture(scope="module")
def tiny_engine(start_engine: Callable[..., Engine], tiny_model: Path, tiny_shelf: Shelf) -> Engine:
    library = str(tiny_shelf.library.root)
    return start_engine({"library": library}, model=tiny_model, kv_cache_memory_bytes=2**27)


def compare(
    engine: Engine, reference: ReferenceModel, shelf: Shelf, asks: list[Ask], setting: Setting
) -> float:
    """The largest difference of a coefficient or divergence; the tokens must be equal."""
    apart = [0.0]
    for ask, (answer, notes) in zip(asks, engine.noted(*asks), strict=True):
        wanted = setting.reference(reference, shelf, ask.prompt, ask.tokens)
        here = max(distances(answer, notes, wanted))
        # Means over large nuclei are small themselves.
        assert here <= 0.01 * max(map(max, wanted.divergences))
        apart.append(here)
    assert engine.left() == (0,) * 8
    return max(apart)


@pytest.mark.matrix
@pytest.mark.timeout(3000)
@every_setting
def test_on_a_tiny_model(
    tiny_engine: Engine,
    tiny_reference: ReferenceModel,
    tiny_shelf: Shelf,
    setting: Setting,
    worst: list[float],
) -> None:
    setting = Setting(**{**vars(setting), "layers": (1,)})
    asks = [Ask(random_prompt(n, 1 + 3 * n), setting.plan(tiny_shelf), TOKENS) for n in range(20)]
    worst.append(compare(tiny_engine, tiny_reference, tiny_shelf, asks, setting))
    assert worst[-1] <= CLOSE


@pytest.mark.matrix
@pytest.mark.timeout(3000)
@every_setting
def test_on_the_demo_model(
    engine: Engine,
    reference: ReferenceModel,
    shelf: Shelf,
    text_ids: list[int],
    setting: Setting,
    worst: list[float],
) -> None:
    first = 3 * PRODUCT.index(setting)
    ask = Ask(tuple(text_ids[first : first + 12]), setting.plan(shelf), TOKENS)
    worst.append(compare(engine, reference, shelf, [ask], setting))
    assert worst[-1] <= CLOSE
