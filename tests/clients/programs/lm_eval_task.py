"""lm-eval as a user runs it: a task of one's own, of two choices each, out of a local file."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from say import ASK, EVERYWHERE, URL, Say, Seen

TOKENIZER = sys.argv[2]
FOLDER = Path(tempfile.mkdtemp())
TASK = "steersman_moods"
HEADER = {"X-Steering": json.dumps({"vectors": [{**EVERYWHERE, "positions": "all"}]})}
(FOLDER / "moods.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in ASK["task"]))
# JSON is YAML.
(FOLDER / "moods.yaml").write_text(
    json.dumps(
        {
            "task": TASK,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(FOLDER / "moods.jsonl")}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc"}],
        }
    )
)


def scores(model: str, header: dict[str, str] | None = None) -> Seen:
    """The log-likelihoods of every choice, in the order of the file."""
    at: dict[str, Any] = {"base_url": f"{URL}/v1/completions", "model": model}
    found: Any = simple_evaluate(
        model="local-completions",
        model_args={**at, "tokenizer": TOKENIZER, "header": header},
        tasks=[TASK],
        task_manager=TaskManager(include_path=str(FOLDER), include_defaults=False),
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"][TASK], key=lambda sample: sample["doc_id"])
    assert found["results"][TASK]["acc,none"] == sum(s["acc"] for s in samples) / len(samples)
    return json.dumps([float(one[0]) for s in samples for one in s["filtered_resps"]]), None


say = Say("lm-eval, a task", "lm_eval", "task")
say.cell("plain", "", lambda: scores(ASK["model"]))
say.cell("field", '`header={"X-Steering": ...}`', lambda: scores(ASK["model"], HEADER))
name = f"{ASK['model']}:{EVERYWHERE['id']}@{EVERYWHERE['coefficient']}"
say.cell("name", "a vector whose `positions` are `all`", lambda: scores(name))
say.without("stream", "scores do not stream")
say.without("receipt", "it reads the scores alone")
