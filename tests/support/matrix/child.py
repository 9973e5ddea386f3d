"""One engine in a process of its own: reads what to start and ask, writes what it answered.

python -m tests.support.matrix.child ORDER.json ANSWERS.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from steersman.steering.plan import Plan
from tests.support.engine.engine import Ask, Engine


def main(order: Path, answers: Path) -> None:
    from vllm import LLM

    from tests.support.matrix import exams, exams_special

    wanted: dict[str, Any] = json.loads(order.read_text())
    asks = [
        Ask(tuple(prompt), None if plan is None else Plan.from_json(plan), tokens)
        for prompt, plan, tokens in wanted["asks"]
    ]
    engine = Engine(LLM(**wanted["options"]))
    exams.load(engine, asks)
    found = {}
    for name, extra in wanted["exams"].items():
        exam = getattr(exams, name, None) or getattr(exams_special, name)
        found[name] = exam(engine, asks, **extra)
    answers.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
