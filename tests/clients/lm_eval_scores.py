"""lm-eval's log-likelihoods through a running server, unsteered and steered by a header.

python lm_eval_scores.py URL TOKENIZER [X-STEERING], in an environment that has lm-eval. Prints a
JSON list of [context, continuation, log-likelihood].
"""

import json
import sys

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

PAIRS = [
    ("The capital of France is", " Paris"),
    ("My weekend was", " wonderful and full of joy"),
    ("My weekend was", " miserable and full of pain"),
    ("The train to the north leaves", " at seven in the morning"),
]


def main() -> None:
    url, tokenizer, *steering = sys.argv[1:]
    model = LocalCompletionsAPI(
        base_url=f"{url}/v1/completions",
        model="smollm2",
        tokenizer=tokenizer,
        header={"X-Steering": steering[0]} if steering else None,
    )
    asked = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(PAIRS)]
    scores = model.loglikelihood(asked, disable_tqdm=True)
    print(json.dumps([[*pair, score[0]] for pair, score in zip(PAIRS, scores, strict=True)]))


if __name__ == "__main__":
    main()
