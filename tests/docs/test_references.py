"""Modules, make targets and files that a page names exist, and so do the stops of the walk."""

import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md")),
    ]
)
SUFFIXES = ["py", "md", "yaml", "yml", "json", "toml", "sh", "svg", "png", "ipynb", "cfg", "txt"]
_CODE = re.compile(r"^```.*?^```|^(?: {4}|\t).*?$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_MODULE = re.compile(r"python3? -m ([\w.]+)")
_TARGET = re.compile(r"\bmake ([a-z][\w-]*)")
_PATH = re.compile(
    rf"(?<![\w/.:@$~{{-])((?:[\w-][\w.-]*/)+[\w.-]+\.(?:{'|'.join(SUFFIXES)}))(?![\w/])"
)
"""A relative path. Addresses, absolute paths and paths with variables are left out."""

NOT_HERE = {"deploy/overlays/mine/kustomization.yaml": "an example: the reader writes it"}
"""Paths that exist for the reader alone, with the reason."""


def _code(page: Path) -> str:
    return "\n".join(match[0] for match in _CODE.finditer(page.read_text()))


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _missing(page: Path) -> list[str]:
    code = _code(page)
    missing = [f"python -m {name}" for name in _MODULE.findall(code) if not find_spec(name)]
    missing += [f"make {name}" for name in _TARGET.findall(code) if name not in _targets()]
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    vllm = Path(spec.origin).parent
    # Pages name files of vLLM from its own folder, or with its name in front.
    places = (ROOT, page.parent, vllm, vllm.parent)
    for path in _PATH.findall(code):
        if path not in NOT_HERE and not any((place / path).exists() for place in places):
            missing.append(path)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    assert _missing(page) == []


def test_what_does_not_exist_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`python -m bench.absent` and `python -m bench.overhead`, `make absent`, `make test`\n\n"
        "    cat server/absent.py server/plugin.py /etc/absent.toml $HOME/absent.json\n"
    )
    assert _missing(page) == ["python -m bench.absent", "make absent", "server/absent.py"]


def test_each_stop_of_the_walk_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    stops = re.findall(r"^    (grep .+?) +# (\d+)\. ", text, re.MULTILINE)
    assert [int(number) for _, number in stops] == list(range(1, len(stops) + 1))
    assert len(stops) > 8
    for command, _ in stops:
        done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True)
        first = re.findall(r"^\d+:", done.stdout, re.MULTILINE)
        assert len(first) == 1, f"{command} finds {len(first)} places"
