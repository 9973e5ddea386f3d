"""lm-eval's log-likelihoods through a running server, unsteered and steered by a header.

python lm_eval_scores.py URL TOKENIZER, in an environment that has lm-eval. Prints lines as see.py
does; the text is a JSON list of the pairs' log-likelihoods.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

ASK = json.loads((Path(__file__).parent / "ask.json").read_text())
PAIRS = [(context, continuation) for context, continuation in ASK["pairs"]]


def use(**changes: str) -> str:
    return json.dumps(
        {"vectors": [{"id": ASK["vector"], "coefficient": ASK["coefficient"], **changes}]}
    )


def scores(url: str, tokenizer: str, header: dict[str, str] | None) -> list[float]:
    model = LocalCompletionsAPI(
        base_url=f"{url}/v1/completions", model=ASK["model"], tokenizer=tokenizer, header=header
    )
    asked = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(PAIRS)]
    return [score[0] for score in model.loglikelihood(asked, disable_tqdm=True)]


def main() -> None:
    url, tokenizer = sys.argv[1:]
    kinds = {
        "log-likelihoods, unsteered": None,
        '`header={"X-Steering": ...}`, `"positions": "all"`': use(positions="all"),
        '`header={"X-Steering": ...}`, default positions': use(),
        "a vector that is not there, in the header": "nobody=1",
    }
    for what, value in kinds.items():
        row = {
            "client": f"lm-eval {importlib.metadata.version('lm_eval')}",
            "what": what,
            "route": "scores",
            "text": "",
            "receipt": "",
        }
        try:
            got = scores(url, tokenizer, {"X-Steering": value} if value else None)
        except Exception as error:  # noqa: BLE001 (what a client makes of it is what is seen)
            last = getattr(error, "last_attempt", None)
            why = (last.exception() if last is not None else None) or error
            status = getattr(why, "status", None) or getattr(
                getattr(why, "response", None), "status_code", "no status"
            )
            print(json.dumps({**row, "status": f"{status}, {type(why).__name__}"}), flush=True)
        else:
            print(json.dumps({**row, "status": "200", "text": json.dumps(got)}), flush=True)


if __name__ == "__main__":
    main()
