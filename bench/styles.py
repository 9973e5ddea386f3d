"""Style vectors over four styles of the project's own texts: does the text turn into the style?

    python -m bench.styles --server URL [--coefficient C]

One half of each style's texts makes its vector, through the server's own extraction and with the
layer and coefficient that it recommends; the other half trains a classifier (TF-IDF and logistic
regression) that has to tell whose style each steered answer is in. Fluency is the answers'
perplexity under the unsteered model, by Hugging Face. Prints a confusion table and one JSON object
last, and writes it to bench/results/styles.json.
"""

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from bench.demo_generate import log_likelihoods
from bench.demo_measures import PROMPTS
from bench.demo_sweep import perplexity
from bench.machine import describe
from vectors.demo.activations import LoadedModel, load_model
from vectors.demo.contrast import contrasts
from vectors.demo.model import default_home, prepare_model

RESULTS = Path(__file__).parent / "results" / "styles.json"
STYLES = ("cheerful", "questions", "shouting", "space")
NEW_TOKENS = 48
LEAST_WON = 0.8
MOST_PERPLEXITY = 1.5


def halves(style: str) -> tuple[list[str], list[str]]:
    """(texts for the vector, texts for the classifier): every second line each."""
    lines = contrasts()[style].positive
    return list(lines[::2]), list(lines[1::2])


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
    answer = http.post("/v1/steering/vectors/extract", json=request)
    if answer.is_error:
        raise SystemExit(answer.text)
    job = answer.json()
    while job["status"] in ("queued", "running"):
        time.sleep(0.5)
        job = http.get(f"/v1/steering/jobs/{job['id']}").json()
    if job["status"] != "succeeded":
        raise SystemExit(str(job["error"]))
    return {s: http.get(f"/v1/steering/vectors/bench-{s}").json() for s in STYLES}


def answers(http: httpx.Client, model: str, steering: dict[str, Any] | None) -> list[str]:
    """Greedy answers to all prompts."""

    def one(prompt: str) -> str:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": NEW_TOKENS,
        }
        if steering:
            body["steering"] = steering
        answer = http.post("/v1/chat/completions", json=body)
        if answer.is_error:
            raise SystemExit(answer.text)
        return str(answer.json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(one, PROMPTS))


def fluency(loaded: LoadedModel, texts: list[str]) -> float:
    return perplexity(log_likelihoods(loaded, list(zip(PROMPTS, texts, strict=True))))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", required=True, metavar="URL")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", default="last", choices=["last", "mean"])
    parser.add_argument("--factor", type=float, default=1.0, help="times the recommendation")
    args = parser.parse_args()
    judge = classifier()
    known = [(text, style) for style in STYLES for text in halves(style)[0]]
    sure = judge.score([text for text, _ in known], [style for _, style in known])
    loaded = load_model(prepare_model(default_home(), lambda line: print(line, file=sys.stderr)))
    with httpx.Client(base_url=args.server, timeout=600, trust_env=False) as http:
        vectors = make_vectors(http, args.tokens)
        plain = answers(http, args.model, None)
        usual = fluency(loaded, plain)
        table = {"unsteered": Counter(judge.predict(plain))}
        found: dict[str, Any] = {}
        for style, vector in vectors.items():
            coefficient = args.factor * vector["coefficient"]
            texts = answers(http, args.model, {"vectors": {f"bench-{style}": coefficient}})
            table[style] = Counter(judge.predict(texts))
            found[style] = {
                "layer": vector["layers"],
                "coefficient": coefficient,
                "relative_dose": args.factor
                * vector["method_settings"]["quality"]["recommended"]["relative_dose"],
                "won": table[style][style] / len(PROMPTS),
                "perplexity": fluency(loaded, texts),
                "examples": texts[:3],
            }
    print(f"{'asked for':12}" + "".join(f"{style:>11}" for style in STYLES) + "  perplexity")
    for row, counts in table.items():
        rise = found[row]["perplexity"] if row in found else usual
        print(f"{row:12}" + "".join(f"{counts[s]:11}" for s in STYLES) + f"{rise:12.2f}")
    result = {
        "benchmark": "styles",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "tokens": args.tokens,
        "factor": args.factor,
        "prompts": len(PROMPTS),
        "classifier_on_the_vectors_texts": sure,
        "unsteered_perplexity": usual,
        "confusion": {row: dict(counts) for row, counts in table.items()},
        "styles": found,
        "won": sum(one["won"] for one in found.values()) / len(STYLES),
        "passed": all(
            one["won"] >= LEAST_WON and one["perplexity"] < MOST_PERPLEXITY * usual
            for one in found.values()
        ),
    }
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result, ensure_ascii=False))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
