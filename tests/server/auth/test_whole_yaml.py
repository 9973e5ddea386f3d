"""A keys file that is cut short, wherever, gives nobody more than the whole one does."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from steersman.client.cli.app import run
from steersman.server.auth import keyfile as file
from steersman.server.auth.keyfile import Keys, KeysFileInvalid, Read, read
from steersman.server.auth.permissions import INFER, SCOPES, KeyPermissions
from tests.support.server.keys import entry, write

NAMES = ["team-a-calm", "team-b-calm", "x"]
LIMITS = ("max_relative_dose", "requests_per_minute", "max_concurrent_requests", "max_vectors",
          "max_jobs", "max_extract_rows")  # fmt: skip
RESTRICTED: dict[str, Any] = {
    "vectors": ["team-a-*"], "max_relative_dose": 0.5, "requests_per_minute": 60,
    "max_concurrent_requests": 8, "max_vectors": 100, "max_jobs": 0, "max_extract_rows": 500,
}  # fmt: skip
ENTRIES = [
    entry("alice", INFER, **RESTRICTED),
    entry("bob", *SCOPES),
    {**entry("carol", INFER), "vectors": ["team-b-*"], "requests_per_minute": 1},
]


def within(some: KeyPermissions, all_: KeyPermissions) -> bool:
    """Whether `some` may do nothing that `all_` may not."""
    limits = [(getattr(some, limit), getattr(all_, limit)) for limit in LIMITS]
    return (
        {scope for scope in SCOPES if some.may(scope)} <= {s for s in SCOPES if all_.may(s)}
        and all(all_.sees(name) for name in NAMES if some.sees(name))
        and all(b is None or (a is not None and a <= b) for a, b in limits)
    )


def gives_more(cut: Read, whole: Read) -> str | None:
    """Who may do more by `cut` than by `whole`."""
    permissions = {one.digest: one.permissions for one in whole.hashed}
    if not cut.public <= whole.public:
        return "everybody"
    return next(
        (
            one.permissions.name
            for one in cut.hashed
            if one.digest not in permissions
            or one.permissions.name != permissions[one.digest].name
            or not within(one.permissions, permissions[one.digest])
        ),
        None,
    )


def cuts(path: Path) -> list[bytes]:
    """All beginnings of the file at `path` that are accepted."""
    text = path.read_bytes()
    whole = read(path)
    accepted = []
    for end in range(len(text)):
        path.write_bytes(text[:end])
        try:
            cut = read(path)
        except KeysFileInvalid:
            continue
        assert (who := gives_more(cut, whole)) is None, (end, who)
        accepted.append(text[:end])
    path.write_bytes(text)
    return accepted


def made_by_the_tool(path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    narrow = ["--scope", "infer", "--vectors", "team-a-*"]
    assert run(["keys", "new", "alice", *narrow, "--file", str(path)]) == 0
    assert run(["keys", "new", "bob", "--scope", "admin", "--file", str(path)]) == 0
    assert run(["keys", "new", "carol", *narrow, "--file", str(path)]) == 0
    capsys.readouterr()
    return path


def test_cut_at_every_byte_as_the_tool_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made_by_the_tool(tmp_path / "keys.yaml", capsys)
    text = path.read_bytes()
    # All but its last line break is the same file.
    assert cuts(path) == [text.rstrip(b"\n")]


@pytest.mark.parametrize("style", ["block", "flow", "JSON", "by hand"])
def test_cut_at_every_byte_in_other_styles(tmp_path: Path, style: str) -> None:
    data = {"public": ["/metrics"], "keys": ENTRIES}
    texts = {
        "block": yaml.safe_dump(data, sort_keys=False, default_flow_style=False, explicit_end=True),
        "flow": yaml.safe_dump(data, sort_keys=False, default_flow_style=None, explicit_end=True),
        "JSON": json.dumps(data, indent=1) + "\n",
        "by hand": "%YAML 1.1\n---\n# of ours\nkeys:\n  - &a\n    name: alice\n    sha256: >-\n"
        f"      {ENTRIES[0]['sha256']}\n    scopes:\n    - infer\n    vectors:\n    - team-a-*\n"
        f"  - <<: *a\n    name: bob\n    sha256: '{ENTRIES[1]['sha256']}'\n    max_jobs: 10\n"
        "... \n# the end\n",
    }
    path = tmp_path / "keys.yaml"
    path.write_text(texts[style])
    # Only what is cut off behind the end is not missed.
    whole = texts[style].encode()
    assert all(len(whole) - len(text) <= len(" \n# the end\n") for text in cuts(path))


@pytest.mark.parametrize("entries", [ENTRIES, ENTRIES[:1], []])
def test_a_file_without_its_end_is_refused_with_the_remedy(
    tmp_path: Path, entries: list[dict[str, Any]]
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump({"keys": entries}, default_flow_style=False))
    with pytest.raises(KeysFileInvalid, match=r"no end mark.*printf .*>> FILE"):
        read(path)
    with path.open("a") as sink:
        sink.write("\n...\n")
    assert len(read(path).hashed) == len(entries)


def test_every_file_of_a_directory_has_its_own_end(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", entry("a"))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"keys": [entry("b")]}))
    with pytest.raises(KeysFileInvalid, match=r"b\.yaml has no end mark"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("keys:\n- name: a\n  sha256: {a}\n  scopes: [infer]\n  scopes: [admin]\n", 5),
        ("keys:\n- name: a\n  sha256: {a}\n  scopes: [infer]\n  sha256: {b}\n", 5),
        ("keys:\n- name: a\n  sha256: {a}\n  scopes: [infer]\n  'scopes': [admin]\n", 5),
        ("keys:\n- name: a\n  sha256: {a}\n  scopes: [infer]\nkeys: []\n", 5),
        ("keys:\n- {{name: a, name: b, sha256: {a}, scopes: [infer]}}\n", 2),
        ('{{"keys": [],\n "keys": []}}\n', 2),
        ("keys:\n- name: a\n  sha256: {a}\n  scopes: [infer]\n  max_jobs: 1\n  max_jobs: 9\n", 6),
    ],
)
def test_a_field_that_is_there_twice(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text.format(a="0" * 64, b="1" * 64) + "...\n")
    with pytest.raises(KeysFileInvalid, match=rf"twice \(line {line}\)"):
        read(path)


def test_the_last_good_one_stays_while_a_new_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "LOOK_EVERY_S", 0.0)
    path = write(tmp_path / "keys.yaml", *ENTRIES)
    keys = Keys(path)
    # The same keys in another order, so that each in turn is the last of what is there.
    fresh = yaml.safe_dump({"keys": ENTRIES[::-1]}, sort_keys=False, explicit_end=True)
    for end in range(0, len(fresh) + 1, 7):
        path.write_text(fresh[:end])
        keys.look()
        for one in ENTRIES:
            found = keys.find(one["name"])
            assert found is not None
            assert found.max_jobs == one.get("max_jobs")
            assert found.vectors == tuple(one.get("vectors", ["*"]))


def test_the_tool_marks_no_file_as_whole_that_may_be_cut_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump({"keys": ENTRIES}))
    before = path.read_text()
    assert run(["keys", "new", "dora", "--scope", "infer", "--file", str(path)]) == 2
    assert path.read_text() == before
    assert "end mark" in capsys.readouterr().err


async def test_a_disk_that_hangs_keeps_nobody_waiting_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(file, "LOOK_WITHIN_S", 0.02)
    path = write(tmp_path / "keys.yaml", entry("a"))
    keys = Keys(path)
    back, reads = threading.Event(), []
    real = file.read

    def hangs(path: Path) -> Read:
        reads.append(threading.get_ident())
        back.wait(30)
        return real(path)

    monkeypatch.setattr(file, "read", hangs)
    write(path, entry("b"))
    for _ in range(5):
        await keys.refresh()
        assert keys.find("a") is not None
        assert keys.find("b") is None
    assert len(reads) == 1
    assert reads[0] != threading.get_ident()
    back.set()
    monkeypatch.setattr(file, "LOOK_WITHIN_S", 30.0)
    await keys.refresh()
    await keys.refresh()
    assert keys.find("a") is None
    assert keys.find("b") is not None
