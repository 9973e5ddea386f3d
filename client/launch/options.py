"""Our own options of `steersman serve`: the parser, and the table of them in docs/operate.md.

`python -m steersman.client.launch.options` writes the table anew, and a test compares.
"""

import argparse
import json
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from steersman.client.launch.run import FORMATS
from steersman.steering.plan.settings import Settings

DEMO_NAME: Final = "smollm2"
SHUTDOWN_SECONDS: Final = 60
"""`--shutdown-timeout`: what runs when SIGTERM comes has so long to finish. vLLM's default is 0."""
NOT_SETTINGS: Final = frozenset({"demo", "verbose", "log_format"})
"""Our options that are not settings."""
PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "operate.md"
BEGIN: Final = "<!-- options:begin -->"
END: Final = "<!-- options:end -->"


def own_parser() -> argparse.ArgumentParser:
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="steersman serve",
        usage="steersman serve (MODEL | --demo) [options of ours] [options of vLLM's]",
        description="Serve a model behind the OpenAI API; each request may steer it.",
        epilog="Every other option is vLLM's, such as --host, --port, --max-model-len, --api-key: "
        f"--help=all lists them. --shutdown-timeout is {SHUTDOWN_SECONDS} here: what runs at "
        "SIGTERM may finish within so many seconds. On a CPU the defaults are float32, eager, and "
        "a KV cache of 2 GiB.",
        allow_abbrev=False,
        add_help=False,
    )
    add = parser.add_argument
    add("-v", "--verbose", action="store_true",
        help="log all that vLLM logs, and tracebacks of a failed start")  # fmt: skip
    add("--log-format", choices=FORMATS, default="text",
        help="text, json (an object a line), or vllm: as vLLM does (default: %(default)s)"
        )  # fmt: skip
    add("--demo", action="store_true", help=f"prepare and serve the demo model as `{DEMO_NAME}`")
    add("--library", default=defaults.library, type=_absolute, metavar="DIR",
        help="directory of the vector library (default: %(default)s)")  # fmt: skip
    add("--bank-rows", type=int, default=defaults.bank_rows, metavar="N",
        help="rows of the vector bank, each one vector at one site and layer "
        "(default: %(default)s)")  # fmt: skip
    add("--max-waiting", type=int, default=defaults.max_waiting, metavar="N",
        help="steered requests that may wait because others have the rows of the bank (or of the "
        "tables, for steps) that they need, or wait before them; the next is a 503 "
        "(default: %(default)s)")  # fmt: skip
    add("--max-terms", type=int, default=defaults.max_terms, metavar="K",
        help="vectors of one request that may meet at one site and layer "
        "(default: %(default)s)")  # fmt: skip
    add("--max-vectors", type=int, default=defaults.max_vectors, metavar="N",
        help="vectors that one request may name (default: %(default)s)")  # fmt: skip
    add("--max-segments", type=int, default=defaults.max_segments, metavar="N",
        help="stretches of a request with different sets of active vectors "
        "(default: %(default)s)")  # fmt: skip
    add("--calibrate", action=argparse.BooleanOptionalAction, default=defaults.calibrate,
        help="measure the model's median residual norms when they are not known yet; relative "
        "doses need them")  # fmt: skip
    add("--max-steps", type=int, default=defaults.max_steps, metavar="N",
        help="generation steps of a vector that has a tensor for each "
        "(default: %(default)s)")  # fmt: skip
    add("--max-schedule-total", type=int, default=defaults.max_schedule_total, metavar="N",
        help="coefficients that all schedules of one request may list together "
        "(default: %(default)s)")  # fmt: skip
    add("--max-plan-terms", type=int, default=defaults.max_plan_terms, metavar="N",
        help="terms of one request: its vectors times their layers, for each step or stretch of "
        "tokens anew (default: %(default)s)")  # fmt: skip
    add("--max-dynamic-requests", dest="max_dynamic", type=int, default=defaults.max_dynamic,
        metavar="N", help="dynamic requests that run at once in each engine, each answer with a "
        "companion sequence for every vector and one more; the next wait "
        "(default: %(default)s)")  # fmt: skip
    add("--max-coefficient", type=float, default=defaults.max_coefficient, metavar="C",
        help="largest absolute coefficient (default: %(default)s)")  # fmt: skip
    add("--max-relative-dose", type=float, default=None, metavar="D",
        help="largest ||c v|| / median ||h|| at a layer (default: no limit)")  # fmt: skip
    add("--max-total-dose", type=float, default=None, metavar="D",
        help="largest sum of these over all layers of a request (default: no limit)")  # fmt: skip
    add(
        "--enforce-safe-range",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="refuse coefficients outside a vector's safe range, which receipts mark otherwise",
    )
    add("--require-fingerprint", action=argparse.BooleanOptionalAction, default=False,
        help="refuse vectors whose file names another model's fingerprint, which uploads, lists "
        "and receipts mark otherwise")  # fmt: skip
    add("--max-upload-bytes", type=int, default=defaults.max_upload_bytes, metavar="BYTES",
        help="largest vector upload (default: %(default)s)")  # fmt: skip
    add("--max-extract-rows", type=int, default=defaults.max_extract_rows, metavar="N",
        help="texts of one extraction (default: %(default)s)")  # fmt: skip
    # Links are kept: a Secret's and a rotated log's point elsewhere tomorrow.
    add("--api-keys-file", default=None, type=os.path.abspath, metavar="PATH",
        help="keys, their scopes and limits: YAML, or a directory of it; read again when it "
        "changes; `steersman keys new` makes an entry (default: no keys)")  # fmt: skip
    add("--audit-log", default=None, type=os.path.abspath, metavar="FILE",
        help="a line of JSON for every change (default: standard output)")  # fmt: skip
    add("--max-library-vectors", type=int, default=defaults.max_library_vectors, metavar="N",
        help="vectors in the library (default: %(default)s)")  # fmt: skip
    add("--max-body-bytes", type=int, default=defaults.max_body_bytes, metavar="BYTES",
        help="largest body of any other request than an upload (default: %(default)s)")  # fmt: skip
    add("--max-body-containers", type=int, default=defaults.max_body_containers, metavar="N",
        help="lists and objects in the JSON of a request (default: %(default)s)")  # fmt: skip
    add("--max-body-depth", type=int, default=defaults.max_body_depth, metavar="N",
        help="lists and objects inside one another (default: %(default)s)")  # fmt: skip
    add("--max-body-values", type=int, default=defaults.max_body_values, metavar="N",
        help="members of all lists and objects; a token id is one "
        "(default: %(default)s)")  # fmt: skip
    add("--max-input-items", type=int, default=defaults.max_input_items, metavar="N",
        help="items of the `input` of a response, conversations of a batch; a quarter of that "
        "for the `tools` of a response "
        "(default: %(default)s)")  # fmt: skip
    add("--body-timeout", type=float, default=defaults.body_timeout, metavar="SECONDS",
        help="for a body to arrive; a slower one is a 408 (default: %(default)s)")  # fmt: skip
    add("--max-jobs", type=int, default=defaults.max_jobs, metavar="N",
        help="extractions that may run or wait, one running (default: %(default)s)")  # fmt: skip
    add("--extract-share", type=float, default=defaults.extract_share, metavar="S",
        help="share of the engine that an extraction takes, and gets, while clients of its API "
        "server use it; above 0, at most 1 (default: %(default)s)")  # fmt: skip
    return parser


def explicit_settings(argv: list[str]) -> dict[str, Any]:
    """Settings that the command line names, without those that are there by default."""
    parser = own_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return settings_of(parser.parse_known_args(argv)[0])


def option_of_setting() -> dict[str, str]:
    """The option of each setting that has one."""
    return {
        action.dest: action.option_strings[0]
        for action in own_parser()._actions
        if action.dest not in NOT_SETTINGS and action.option_strings
    }


def settings_of(ours: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(ours).items() if name not in NOT_SETTINGS}


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def table() -> str:
    """A row for each setting: its option, its key under "steersman", its default, what it does."""
    actions = {action.dest: action for action in own_parser()._actions}
    options = option_of_setting()
    rows = ["| option | key | default | what it does |", "| --- | --- | --- | --- |"]
    for setting in fields(Settings):
        name = setting.name
        action = actions.get(name)
        flag = f"`{options[name]}`" if action is not None else "-"
        help_text = _plain(action.help or "") if action is not None else DESCRIPTIONS[name]
        rows.append(f"| {flag} | `{name}` | {_default(name)} | {help_text} |")
    return "\n".join(rows)


DESCRIPTIONS: Final[dict[str, str]] = {}
"""Of settings without an option."""


def _default(name: str) -> str:
    if name == "library":
        return "`$STEERSMAN_HOME/library` (`~/.cache/steersman/library`)"
    value: Any = getattr(Settings(), name)
    return "none" if value is None else f"`{json.dumps(value)}`"


def _plain(text: str) -> str:
    return re.sub(r"\s*\(default: .*\)$", "", " ".join(text.split())).replace("|", "\\|")


def page(text: str) -> str:
    """`text` of the page with its table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
