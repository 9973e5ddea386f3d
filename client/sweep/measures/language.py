"""Language: the probability that langdetect gives it (Nakatani Shuyo's naive Bayes)."""

from steersman.client.errors import WrongUsage
from steersman.client.sweep.measures.measure import Measure, TextMeasure, needed

_SEED = 0


def language(argument: str) -> Measure:
    """`fr`: the probability that an answer is French, 0 to 1; the mean over answers is its share.

    `zh` counts zh-cn and zh-tw. A text without letters is in no language.
    """
    detect = needed("langdetect", "langdetect", "the measure language")
    factory = needed("langdetect.detector_factory", "langdetect", "the measure language")
    # It samples; the same text is to get the same number.
    detect.DetectorFactory.seed = _SEED
    factory.init_factory()
    known: list[str] = factory._factory.get_lang_list()
    codes = {code for code in known if code == argument or code.startswith(f"{argument}-")}
    if not argument or not codes:
        raise WrongUsage(
            f"language:{argument} is not known; write language:fr, with one of "
            f"{', '.join(sorted(known))}",
            param="--measure",
        )

    def share(text: str) -> float:
        try:
            found = detect.detect_langs(text)
        except detect.LangDetectException:
            return 0.0
        return float(sum(guess.prob for guess in found if guess.lang in codes))

    return TextMeasure(f"probability that it is {argument}", share)
