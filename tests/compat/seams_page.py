"""docs/seams.md, written from `steering/vllm/seams.py` and what `make compat` found.

python -m tests.compat.seams_page
"""

import json
from pathlib import Path
from typing import Any

from steersman.steering.vllm.seam import Seam
from steersman.steering.vllm.seams import SEAMS
from steersman.steering.vllm.unsupported import SUPPORTED_VLLM
from tests.compat.run import RESULTS, ROOT

PAGE = ROOT / "docs" / "seams.md"

HEAD = """\
# Where Steersman touches vLLM

Written by `python -m tests.compat.seams_page`; change `steering/vllm/seams.py`. Each seam is one
small module, and a new vLLM release means reading these places again, adding it to `SUPPORTED_VLLM`
in `steering/vllm/unsupported.py` and running `make compat`. Supported: {supported}.

Each process checks its part of the table before it installs anything, and refuses to start where a
name, a parameter or an attribute is missing (the launcher's part is checked by tests only). A
version that was not read is refused even where nothing is missing: a thing may look the same and do
something else.

## Versions

Tried by `make compat`: `engine` is parity with Hugging Face, neighbours bit for bit, prefix cache,
waiting for bank rows, dynamic composition, refusals (`tests/compat/engine.py`), with model runners
V1 and V2; `server` is the four routes, streams, a client that leaves, calibration
(`tests/compat/http.py`). Of a version whose row says so PyPI has no CPU wheel: its Python sources
ran over the kernels and the torch of an older one (`tests/compat/environment.py`), and its own
kernels were not seen.

"""


def page() -> str:
    """The whole text."""
    head = HEAD.format(supported=", ".join(f"vLLM {prefix}*" for prefix in SUPPORTED_VLLM))
    versions = ["| vLLM | what came of it | |", "| --- | --- | --- |"]
    for version, found in tried().items():
        versions.append(f"| {version} | {found['status']} | {_details(found)} |")
    if len(versions) == 2:
        versions = ["Not run yet with these sources."]
    seams = ["| module | touches in vLLM | why | where |", "| --- | --- | --- | --- |"]
    seams += [f"| `{s.ours}` | `{_touch(s)}` | {s.why} | {s.process} |" for s in SEAMS]
    return head + "\n".join(versions) + "\n\n## Seams\n\n" + "\n".join(seams) + "\n"


def tried() -> dict[str, Any]:
    """What `make compat` found, by version."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def _details(found: dict[str, Any]) -> str:
    if "reason" in found:
        return str(found["reason"]).replace("|", "\\|")
    runs = [name for name, ran in found.items() if isinstance(ran, dict) and "seconds" in ran]
    told = f"Python sources over the kernels of {found['over']}: " if "over" in found else ""
    told += f"{', '.join(runs)}; parity within {found['engine']['parity']}"
    for name, ran in found.items():
        if isinstance(ran, dict) and "not_run" in ran:
            told += f"; {name}: {ran['not_run']}".replace("|", "\\|")
    return told


def _touch(seam: Seam) -> str:
    place = seam.target.removeprefix("vllm.").replace(":", ": ")
    return f"{place}({', '.join(seam.needs)})" if seam.needs else place


if __name__ == "__main__":
    Path(PAGE).write_text(page())
