"""lm-eval's log-likelihoods, through the model name of a preset, and with a header."""

import json
import sys

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from say import ASK, URL, Say, Seen

TOKENIZER = sys.argv[2]
USE = {"id": ASK["vector"], "coefficient": ASK["coefficient"], "positions": "all"}
HEADER = {"X-Steering": json.dumps({"vectors": [USE]})}


def scores(model: str, header: dict[str, str] | None = None) -> Seen:
    api = LocalCompletionsAPI(
        base_url=f"{URL}/v1/completions", model=model, tokenizer=TOKENIZER, header=header
    )
    pairs = [(context, continuation) for context, continuation in ASK["pairs"]]
    asked = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]
    return json.dumps([found[0] for found in api.loglikelihood(asked, disable_tqdm=True)]), None


say = Say("lm-eval, log-likelihoods", "lm_eval", "scores")
say.cell("plain", "", lambda: scores(ASK["model"]))
say.cell("field", '`header={"X-Steering": ...}`', lambda: scores(ASK["model"], HEADER))
say.without("stream", "scores do not stream")
say.without("receipt", "it reads the scores alone")
say.cell("name", "a preset with `positions: all`", lambda: scores(f"{ASK['model']}:everywhere"))
