"""The house keeps its order: files in a folder, lines in a file, and names that are retired."""

import io
import re
import statistics
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("client", "server", "steering", "vectors")
ORDERLY = (*ROOMS, "bench", "tools")
CODE = (*ORDERLY, "tests", "deploy", "examples")
MOST_FILES = 12
MOST_LINES = 500
MEDIAN_LINES = 150


def modules(names: str) -> str:
    """Matches an import of, or from, a module of such a name."""
    return rf"\. (?:{names}) (?:import|as|;)|as (?:{names})"


RETIRED = [
    # (folders, what is not found in their code, what it is called now)
    (CODE, r"TensorKey", "HookPoint"),
    (("steering", "vectors"), r"class Key", "HookPoint"),
    (ROOMS, r"Term", "HookPoint"),
    (("steering", "server"), r"class Row", "BankKey of the bank, Sample of an extraction"),
    (ROOMS, r"(?:token|table)_rows?", "token_entry, entry"),
    (
        ("steering/worker",),
        r"def (?:came|gone|batch|run|over|rest|minded|settle|fail|told|written)",
        "add_request, finish_requests, sync_batch, begin_step, end_forward, clear_marks, "
        "tracked_request_ids, mark_failed, num_choices_reported, entries_written",
    ),
    (CODE, r"RowQueue|row_queue", "AdmissionQueue, admission"),
    (("steering/scheduler",), r"def (?:arrive|may_run|leave)", "add, try_admit, remove"),
    (("steering",), r"class Streams", "CompanionScheduler"),
    (("steering/scheduler",), r"orphans|hopeless", "pop_orphaned_companions, infeasible"),
    (("steering/scheduler",), r"_alone|_turn", "exclusive_group, admissible"),
    (CODE, r"Captures|Capturer|Captured", "CaptureTracker, CaptureClient, CaptureResult"),
    (("steering", "server"), r"Piece", "CaptureChunk"),
    (("steering",), r"anatomy|examine", "residual_probe.probe_blocks"),
    (("steering",), r"class Gate", "hooks.ActiveSlots"),
    (("steering",), modules("orphan|ways"), "parent_watch, unsupported"),
    (("server",), modules("peek|guard|meter|gate"), "sse, refuse_ignored, rate_limit, auth"),
    (("server",), r"class Session", "SteeredRequest"),
    (("server",), r"class View", "LibraryView"),
    (CODE, r"Rights", "KeyPermissions"),
    (("server",), r"Bench", "ExtractionContext"),
    (CODE, r"DESK|CaptureDesk|ReceiptDesk", "RECEIPTS and CAPTURES of the module inbox"),
    (("vectors",), r"class (?:Found|Part|Rule|Place)", "Imported..., FormatRule, LayerConvention"),
    (("steering", "server"), r"strong", "coefficient; what multiplies it at a token is its gain"),
    (
        CODE,
        modules("exchange|anatomy|instrument|row_queue|seam_streams"),
        "formats, residual_probe, hooks, admission, companions",
    ),
]

WORDS = [
    # (what is not found in comments, docstrings and messages, what is written instead)
    (r"(?<!there )\b(?:is|are) no (?!longer|more|less|fewer)\w+", "is not a ..., such as ..."),
    (r"\bmend(?:s|ed)?\b", "fix"),
    (r"\btakes? note of\b", "record"),
    (r"\bfor want of\b", "because ... is missing"),
]


def sources(*folders: str) -> list[Path]:
    """The .py files of `folders`; an `__init__` is the table of contents of its folder."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if path.name != "__init__.py")


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@cache
def code(path: Path, root: Path = ROOT) -> str:
    """Names and operators of a file, without its comments and strings, behind its own name."""
    text = io.StringIO(path.read_text(encoding="utf-8"))
    kinds = {tokenize.NAME, tokenize.OP, tokenize.NUMBER}
    tokens = [t.string for t in tokenize.generate_tokens(text.readline) if t.type in kinds]
    name = " . ".join(path.relative_to(root).with_suffix("").parts)
    return " ".join([name, ";", *tokens])


@cache
def words(path: Path) -> str:
    """Comments and strings of a file, each on a line."""
    text = io.StringIO(path.read_text(encoding="utf-8"))
    kinds = {tokenize.COMMENT, tokenize.STRING}
    found = [t.string for t in tokenize.generate_tokens(text.readline) if t.type in kinds]
    return "\n".join(" ".join(each.split()) for each in found)


@pytest.mark.parametrize("room", ORDERLY)
def test_no_folder_has_many_files_and_no_file_is_long(room: str) -> None:
    found = sources(room)
    assert found
    counts = Counter(path.parent for path in found)
    assert {str(x): n for x, n in counts.items() if n > MOST_FILES} == {}
    assert {str(x): lines(x) for x in found if lines(x) > MOST_LINES} == {}


def test_the_sources_of_the_playground_keep_the_same_order() -> None:
    kinds = {".ts", ".tsx", ".css"}
    found = [x for x in (ROOT / "client/playground/src").rglob("*") if x.suffix in kinds]
    assert len(found) > 50
    counts = Counter(path.parent for path in found)
    assert {str(x): n for x, n in counts.items() if n > MOST_FILES} == {}
    assert {str(x): lines(x) for x in found if lines(x) > MOST_LINES} == {}
    assert statistics.median(map(lines, found)) < MEDIAN_LINES


@pytest.mark.parametrize("room", ROOMS)
def test_half_of_a_rooms_files_fit_on_three_screens(room: str) -> None:
    assert statistics.median(map(lines, sources(room))) < MEDIAN_LINES


def test_no_test_or_script_is_long() -> None:
    assert {str(x): lines(x) for x in sources(*CODE) if lines(x) > MOST_LINES} == {}


@pytest.mark.parametrize(("folders", "retired", "now"), RETIRED, ids=[x[2] for x in RETIRED])
def test_retired_names_are_gone(folders: tuple[str, ...], retired: str, now: str) -> None:
    pattern = re.compile(rf"(?<!\w)(?:{retired})(?!\w)")
    found = {
        f"{path.relative_to(ROOT)}: {match}"
        for path in sources(*folders)
        for match in pattern.findall(code(path))
        if path != Path(__file__)
    }
    assert sorted(found) == [], f"now called: {now}"


@pytest.mark.parametrize(("retired", "now"), WORDS, ids=[x[1] for x in WORDS])
def test_texts_are_plain(retired: str, now: str) -> None:
    pattern = re.compile(retired, re.IGNORECASE)
    found = {
        f"{path.relative_to(ROOT)}: {match}"
        for path in sources(*ORDERLY, "deploy", "examples")
        for match in pattern.findall(words(path))
    }
    assert sorted(found) == [], f"write: {now}"


def test_words_are_read_from_texts_and_not_from_names(tmp_path: Path) -> None:
    plain, odd = tmp_path / "plain.py", tmp_path / "odd.py"
    plain.write_text("mend = 1  # Somebody mends it; there is no other.\n")
    assert words(plain).count("mend") == 1
    odd.write_text('"""This is\n    no vector; there is no other, and it is no longer."""\n')
    assert re.findall(WORDS[0][0], words(odd)) == ["is no vector"]


def test_names_are_read_from_code_and_not_from_texts(tmp_path: Path) -> None:
    path = tmp_path / "peek.py"
    path.write_text('"""About a Guard."""\nfrom a.guard import b as meter  # Rights\n')
    assert code(path, tmp_path) == "peek ; from a . guard import b as meter"
    assert re.search(modules("guard"), code(path, tmp_path))
    assert re.search(modules("meter"), code(path, tmp_path))
    assert not re.search(modules("a|b"), code(path, tmp_path))
