from steersman.vectors.demo.contrast import contrasts
from steersman.vectors.demo.defaults import load_defaults
from steersman.vectors.demo.make import LAYERS
from tools.demo.measures import KITCHEN_WORDS, MEASURES, PROMPTS, SPACE_WORDS, words


def test_every_side_has_forty_texts_of_its_own() -> None:
    for contrast in contrasts().values():
        assert len(contrast.positive) == len(contrast.negative) >= 40
        for side in (contrast.positive, contrast.negative):
            assert len(set(side)) == len(side)
        assert not set(contrast.positive) & set(contrast.negative)
        assert contrast.description


def test_there_are_six_demo_vectors_and_each_is_measured() -> None:
    defaults = load_defaults()
    assert {"cheerful", "formal"} <= set(defaults)
    assert len(defaults) >= 6
    assert set(defaults) <= set(contrasts()) & set(MEASURES)
    for chosen in defaults.values():
        assert set(chosen.layers) <= set(LAYERS)
        low, high = chosen.safe_range
        assert low < 0 < chosen.coefficient <= high


def test_the_space_measure_counts_no_word_of_its_texts() -> None:
    space = contrasts()["space"]
    seen = {word for text in (*space.positive, *space.negative) for word in words(text)}
    assert not seen & (SPACE_WORDS | KITCHEN_WORDS)


def test_prompts_are_sixteen_and_not_among_the_texts() -> None:
    assert len(set(PROMPTS)) == 16
    texts = {t for c in contrasts().values() for t in (*c.positive, *c.negative)}
    assert not texts & set(PROMPTS)


def test_measures_tell_the_two_sides_apart() -> None:
    for name, contrast in contrasts().items():
        if name == "space":
            continue
        measure = MEASURES[name].of
        positive = sum(map(measure, contrast.positive)) / len(contrast.positive)
        negative = sum(map(measure, contrast.negative)) / len(contrast.negative)
        assert positive > negative, name
