"""Style vectors over four styles of the project's own texts: does the text turn into the style?

    python -m bench.styles --server URL

Each style has 48 texts, the n-th of each on the n-th of 48 subjects (bench/style_texts). Those on
every second subject make its vector, through the server's own extraction and with the layer and
coefficient that it recommends; the others train a classifier (TF-IDF and logistic regression) that
has to tell which style each steered answer is in. Answers are sampled at temperature 1, each from a
seed of its own. Fluency is their perplexity under the unsteered model, by Hugging Face.
Prints a confusion table and one JSON object last, and writes it to bench/results/styles.json; exit
status 1 if a style wins in less than 80% of its answers or perplexity rises by half or more.
"""

import argparse
import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from bench.report import publish
from bench.servers import demo_model
from bench.steering_api import ask, extract
from steersman.vectors.demo.activations import LoadedModel, load_model
from tools.demo.generate import log_likelihoods
from tools.demo.measures import PROMPTS
from tools.demo.sweep import perplexity

TEXTS = Path(__file__).parent / "style_texts"
STYLES = ("cheerful", "gloomy", "fairy_tale", "scientific")
NEW_TOKENS = 128
LEAST_WON = 0.8
MOST_PERPLEXITY = 1.5


def halves(style: str) -> tuple[list[str], list[str]]:
    """(texts for the vector, texts for the classifier): on every second subject each."""
    texts: list[str] = json.loads((TEXTS / f"{style}.json").read_text(encoding="utf-8"))
    return texts[::2], texts[1::2]


def classifier() -> Any:
    """Of the second halves. Capitals and punctuation are style, so both are kept."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    features = make_union(
        TfidfVectorizer(lowercase=False, token_pattern=r"\w+|[^\w\s]", sublinear_tf=True),
        TfidfVectorizer(lowercase=False, analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True),
    )
    model = make_pipeline(features, LogisticRegression(C=10.0, max_iter=1000, random_state=0))
    texts = [(text, style) for style in STYLES for text in halves(style)[1]]
    return model.fit([text for text, _ in texts], [style for _, style in texts])


def make_vectors(http: httpx.Client, tokens: str) -> dict[str, Any]:
    """The four vectors, as the library shows them, by style."""
    for style in STYLES:
        http.delete(f"/v1/steering/vectors/bench-{style}")
    request = {
        "method": "style",
        "name": "bench",
        "tokens": tokens,
        "styles": {style: halves(style)[0] for style in STYLES},
        "reproducible": True,
    }
    extract(http, request)
    return {s: ask(http, "GET", f"/v1/steering/vectors/bench-{s}") for s in STYLES}


def answers(http: httpx.Client, model: str, steering: dict[str, Any] | None) -> list[str]:
    """One sampled answer to each prompt."""

    def one(n: int) -> str:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPTS[n]}],
            "temperature": 1,
            "seed": n,
            "max_tokens": NEW_TOKENS,
        }
        if steering:
            body["steering"] = steering
        answer = ask(http, "POST", "/v1/chat/completions", json=body)
        return str(answer["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(one, range(len(PROMPTS))))


def fluency(loaded: LoadedModel, texts: list[str]) -> float:
    return perplexity(log_likelihoods(loaded, list(zip(PROMPTS, texts, strict=True))))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", required=True, metavar="URL")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", default="mean", choices=["last", "mean"])
    args = parser.parse_args()
    judge = classifier()
    known = [(text, style) for style in STYLES for text in halves(style)[0]]
    sure = judge.score([text for text, _ in known], [style for _, style in known])
    loaded = load_model(Path(demo_model()))
    with httpx.Client(base_url=args.server, timeout=600, trust_env=False) as http:
        vectors = make_vectors(http, args.tokens)
        plain = answers(http, args.model, None)
        usual = fluency(loaded, plain)
        table = {"unsteered": Counter(judge.predict(plain))}
        found: dict[str, Any] = {}
        for style, vector in vectors.items():
            recommended = vector["method_settings"]["quality"]["recommended"]
            texts = answers(http, args.model, {"vectors": {f"bench-{style}": None}})
            table[style] = Counter(judge.predict(texts))
            found[style] = {
                "layer": vector["layers"],
                "coefficient": vector["coefficient"],
                "relative_dose": recommended["relative_dose"],
                "won": table[style][style] / len(PROMPTS),
                "perplexity": fluency(loaded, texts),
                "examples": texts[:3],
            }
    print(f"{'asked for':12}" + "".join(f"{style:>11}" for style in STYLES) + "  perplexity")
    for row, counts in table.items():
        rise = found[row]["perplexity"] if row in found else usual
        print(f"{row:12}" + "".join(f"{counts[s]:11}" for s in STYLES) + f"{rise:12.2f}")
    passed = all(
        one["won"] >= LEAST_WON and one["perplexity"] < MOST_PERPLEXITY * usual
        for one in found.values()
    )
    publish(
        "styles",
        {
            "tokens": args.tokens,
            "prompts": len(PROMPTS),
            "classifier_on_the_vectors_texts": sure,
            "unsteered_perplexity": usual,
            "confusion": {row: dict(counts) for row, counts in table.items()},
            "styles": found,
            "won": sum(one["won"] for one in found.values()) / len(STYLES),
            "passed": passed,
        },
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
