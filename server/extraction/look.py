"""What a job shows of its texts before they are captured: tokens that will be read, and what looks
wrong with them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

from steersman.server.extraction.examples import Example
from steersman.server.extraction.request import SIDES, ExtractRequest
from steersman.vectors.errors import shown
from steersman.vectors.methods.quality import LEAST_MEASURED

SAMPLES: Final = 3
"""Texts a side, or a style, of which the token is shown."""
MOST_LABELS: Final = 8
NEARLY_ALL: Final = 0.9
_BEFORE: Final = 12
"""Tokens shown before the one that is read."""


def samples(examples: Sequence[Example], tokenizer: Any) -> list[dict[str, Any]]:
    """The first texts of each side: what is read of them, as text, and what stands before it."""
    found: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for example in examples:
        counts[example.label] += 1
        if counts[example.label] > SAMPLES or len(counts) > MOST_LABELS:
            continue
        end = len(example.tokens)
        # What is generated is not known yet: the first of its steps is the prompt's last token.
        tokens = example.tokens[example.start : min(example.stop, end)]
        before = example.tokens[max(0, example.start - _BEFORE) : example.start]
        found.append(
            {
                "row": example.row,
                "label": example.label,
                "token": _text(tokenizer, tokens),
                "before": _text(tokenizer, before),
                "tokens": example.stop - example.start,
            }
        )
    return found


def warnings(
    request: ExtractRequest, examples: Sequence[Example], tokenizer: Any
) -> list[dict[str, str]]:
    """What is likely not meant, each as a code and a message."""
    found = []
    if said := _same_token(request, examples, tokenizer):
        found.append({"code": "same_token", "message": said})
    if said := _same_texts(examples):
        found.append({"code": "identical_pairs", "message": said})
    counts = Counter(example.label for example in examples)
    if min(counts.values()) < LEAST_MEASURED:
        found.append(
            {
                "code": "few_rows",
                "message": f"there are {min(counts.values())} texts on a side: how good the vector "
                f"is cannot be measured with fewer than {LEAST_MEASURED}",
            }
        )
    return found


def _same_token(request: ExtractRequest, examples: Sequence[Example], tokenizer: Any) -> str | None:
    """Of rules that read one token: whether it is nearly always the same one on both sides. A chat
    that ends with a question is read at the template's end, which is the same by design."""
    if request.token_rule not in ("last", "answer"):
        return None
    read: dict[str, Counter[int]] = defaultdict(Counter)
    for example in examples:
        if not example.asks:
            read[example.label][example.tokens[example.start]] += 1
    if len(read) < 2:
        return None
    tokens = set().union(*read.values())
    alike = {token: min(side[token] / side.total() for side in read.values()) for token in tokens}
    share = sum(alike.values())
    if share < NEARLY_ALL:
        return None
    most = max(alike, key=lambda token: (alike[token], -token))
    remedy = "leave it out of the texts"
    if "mean" in request.how.token_rules:
        remedy += ', or read the mean over all ("tokens": "mean")'
    return (
        f"in {share:.0%} of the texts the token that is read is the same on all sides, mostly "
        f"{shown(_text(tokenizer, (most,)))}: what is found there says more of that token than of "
        f"the texts; {remedy}"
    )


def _same_texts(examples: Sequence[Example]) -> str | None:
    """Whether some counterparts are the same text."""
    sides = {side: {e.pair: e.tokens for e in examples if e.label == side} for side in SIDES}
    pairs = sides["positive"].keys() & sides["negative"].keys()
    same = sum(sides["positive"][pair] == sides["negative"][pair] for pair in pairs)
    if not same:
        return None
    return f"{same} of {len(pairs)} pairs have the same text on both sides, which says nothing"


def _text(tokenizer: Any, tokens: Sequence[int]) -> str:
    """At most 80 characters, the middle left out."""
    text = str(tokenizer.decode(list(tokens))) if tokens else ""
    return text if len(text) <= 80 else f"{text[:38]} … {text[-38:]}"
