"""The keys file: what is wrong with it is told by place, and never by what stands there."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from server.keys import file
from server.keys.file import Keys, KeysFileInvalid, hash_of, read
from server.keys.rights import ADMIN, INFER, READ, SCOPES
from server.launcher import _own_parser
from tests.server.keys.make import entry, write

SECRET = "sk-steersman-written-in-the-clear"
GOOD: dict[str, Any] = {"name": "a", "sha256": hash_of("a"), "scopes": ["infer"]}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the file whenever a key is looked for."""
    monkeypatch.setattr(file, "LOOK_EVERY_S", 0.0)


def stale() -> bool:
    return REGISTRY.get_sample_value("steering_keys_stale") == 1


def test_all_that_an_entry_may_say(tmp_path: Path) -> None:
    more = {
        "vectors": ["team-a-*", "shared"], "max_relative_dose": 1.5, "requests_per_minute": 60,
        "max_concurrent_requests": 8, "max_vectors": 100, "max_jobs": 1, "max_extract_rows": 500,
    }  # fmt: skip
    (found,) = read(write(tmp_path / "keys.yaml", entry("alice", INFER, READ, **more)))
    rights = found.rights
    assert rights.name == "alice"
    assert rights.scopes == {INFER, READ}
    assert rights.vectors == ("team-a-*", "shared")
    assert {key: getattr(rights, key) for key in more if key != "vectors"} == {
        key: value for key, value in more.items() if key != "vectors"
    }
    assert found.digest.hex() == hash_of("alice")


def test_an_entry_without_limits_has_none(tmp_path: Path) -> None:
    (found,) = read(write(tmp_path / "keys.yaml", entry("a", INFER)))
    assert found.rights.sees_all
    assert not found.rights.may(READ)
    limits = ("max_relative_dose", "max_total_dose", "requests_per_minute",
              "max_concurrent_requests", "max_vectors",
              "max_jobs", "max_extract_rows")  # fmt: skip
    assert [getattr(found.rights, limit) for limit in limits] == [None] * len(limits)


def test_admin_contains_the_other_scopes_and_none_of_those_another(tmp_path: Path) -> None:
    for scope in SCOPES:
        (found,) = read(write(tmp_path / "keys.yaml", entry("a", scope)))
        allowed = {other for other in SCOPES if found.rights.may(other)}
        assert allowed == (set(SCOPES) if scope == ADMIN else {scope})


BAD: dict[str, tuple[Any, str]] = {
    "empty": (None, ""),
    "a list": ([GOOD], ""),
    "a string": (SECRET, ""),
    "no keys": ({"key": [GOOD]}, "keys"),
    "keys by name": ({"keys": {SECRET: GOOD}}, "keys"),
    "more beside the keys": ({"keys": [GOOD], SECRET: 1}, ""),
    "an unknown field": ({"keys": [{**GOOD, SECRET: 1}]}, "keys.0"),
    "no name": ({"keys": [GOOD, {k: v for k, v in GOOD.items() if k != "name"}]}, "keys.1.name"),
    "the key as its name": ({"keys": [{**GOOD, "name": f"{SECRET} "}]}, "keys.0.name"),
    "an empty name": ({"keys": [{**GOOD, "name": ""}]}, "keys.0.name"),
    "a name like vLLM's": ({"keys": [{**GOOD, "name": "--api-key"}]}, "keys.0.name"),
    "a line in a name": ({"keys": [{**GOOD, "name": "a\n"}]}, "keys.0.name"),
    "a key in the clear": ({"keys": [{**GOOD, "sha256": SECRET}]}, "keys.0.sha256"),
    "half a hash": ({"keys": [{**GOOD, "sha256": "0" * 63}]}, "keys.0.sha256"),
    "capitals": ({"keys": [{**GOOD, "sha256": hash_of("x").upper()}]}, "keys.0.sha256"),
    "a line in a hash": ({"keys": [{**GOOD, "sha256": hash_of("x") + "\n"}]}, "keys.0.sha256"),
    "no hashes": ({"keys": [{**GOOD, "sha256": []}]}, "keys.0.sha256"),
    "a hash that is a number": ({"keys": [{**GOOD, "sha256": int("1" * 64)}]}, "keys.0.sha256"),
    "the hash of nothing": ({"keys": [{**GOOD, "sha256": hash_of("")}]}, "keys.0.sha256"),
    "nothing beside a key": ({"keys": [{**GOOD, "sha256": [hash_of("a"), hash_of("")]}]},
                             "keys.0.sha256"),
    "no scopes": ({"keys": [{**GOOD, "scopes": []}]}, "keys.0.scopes"),
    "an unknown scope": ({"keys": [{**GOOD, "scopes": ["infer", "root"]}]}, "keys.0.scopes"),
    "one scope": ({"keys": [{**GOOD, "scopes": "infer"}]}, "keys.0.scopes"),
    "one pattern": ({"keys": [{**GOOD, "vectors": "team-*"}]}, "keys.0.vectors"),
    "no patterns": ({"keys": [{**GOOD, "vectors": None}]}, "keys.0.vectors"),
    "a dose of 0": ({"keys": [{**GOOD, "max_relative_dose": 0}]}, "keys.0.max_relative_dose"),
    "no number": ({"keys": [{**GOOD, "max_relative_dose": float("nan")}]},
                  "keys.0.max_relative_dose"),
    "a rate of 0": ({"keys": [{**GOOD, "requests_per_minute": 0}]}, "keys.0.requests_per_minute"),
    "half a request": ({"keys": [{**GOOD, "requests_per_minute": 0.5}]},
                       "keys.0.requests_per_minute"),
    "a rate in words": ({"keys": [{**GOOD, "requests_per_minute": "60"}]},
                        "keys.0.requests_per_minute"),
    "true": ({"keys": [{**GOOD, "max_jobs": True}]}, "keys.0.max_jobs"),
    "fewer than none": ({"keys": [{**GOOD, "max_vectors": -1}]}, "keys.0.max_vectors"),
    "twice": ({"keys": [GOOD, {**GOOD, "sha256": hash_of("b")}]}, "keys.1.name"),
    "one key of two": ({"keys": [GOOD, {**GOOD, "name": "b"}]}, ""),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_names_the_place(tmp_path: Path, what: str) -> None:
    data, place = BAD[what]
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(KeysFileInvalid) as refusal:
        read(path)
    said = str(refusal.value)
    assert said.startswith(str(path))
    assert place in said
    assert SECRET not in said
    assert hash_of("a") not in said


@pytest.mark.parametrize(
    "text",
    ["keys: [", f"keys:\n- {SECRET}: [", f"\t{SECRET}", "keys: *nothing", "\x00" + SECRET,
     "keys: !!python/object/apply:os.system [true]", f"{{[a]: {SECRET}}}", "[" * 5000,
     f"keys:\n- name: 2026-13-45\n  sha256: {SECRET}", f"keys: !!int {SECRET}",
     f"keys: !!timestamp {SECRET}", f"keys: !!bool {SECRET}",
     "%YAML 9.9\n---\n", "keys: []\n---\nkeys: []\n"],
)  # fmt: skip
def test_what_is_no_yaml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(KeysFileInvalid) as refusal:
        read(path)
    assert SECRET not in str(refusal.value)
    # Nor behind it, where a traceback would show it.
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KeysFileInvalid, match="not YAML"):
        read(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeysFileInvalid, match="No such file"):
        Keys(tmp_path / "keys.yaml")
    with pytest.raises(KeysFileInvalid, match=r"no \*\.yaml"):
        Keys(tmp_path)


def test_a_directory_is_its_files(tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", entry("bob", INFER))
    write(tmp_path / "a.yml", entry("alice", READ))
    (tmp_path / "README").write_text("not ours")
    (tmp_path / "c.yaml").mkdir()
    found = Keys(tmp_path)
    assert found.names == ["alice", "bob"]
    assert (found.find("alice"), found.find("bob")) != (None, None)
    write(tmp_path / "d.yaml", entry("alice", INFER, sha256=hash_of("another")))
    with pytest.raises(KeysFileInvalid, match=r"d\.yaml: 'alice' is in another file"):
        read(tmp_path)
    write(tmp_path / "d.yaml", entry("dora", INFER, sha256=hash_of("bob")))
    with pytest.raises(KeysFileInvalid, match="the same sha256"):
        read(tmp_path)


def test_what_presents_no_key_finds_none(tmp_path: Path) -> None:
    found = Keys(write(tmp_path / "keys.yaml", entry("a", INFER)), ("extra",))
    for key in ("", " ", "A", "a ", "aa", hash_of("a"), "\udcff", "é", "a\0"):
        assert found.find(key) is None
    assert found.find("a") is not None
    extra = found.find("extra")
    assert extra is not None
    assert extra.name == "--api-key"
    assert extra.scopes == set(SCOPES)
    assert extra.sees_all


def test_every_hash_is_compared_whichever_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []
    real = file.hmac.compare_digest

    def watching(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return real(a, b)

    found = Keys(write(tmp_path / "keys.yaml", *(entry(n, INFER) for n in "abcd")), ("extra",))
    monkeypatch.setattr(file.hmac, "compare_digest", watching)
    for key in ("a", "d", "extra", "nobody"):
        compared.clear()
        found.find(key)
        assert len(compared) == 5


def test_a_key_is_changed_with_two_hashes(tmp_path: Path, at_once: None) -> None:
    path = write(tmp_path / "keys.yaml", entry("a", sha256=hash_of("old")))
    found = Keys(path)
    write(path, entry("a", sha256=[hash_of("old"), hash_of("new")]))
    assert found.find("old") == found.find("new") is not None
    write(path, entry("a", sha256=hash_of("new")))
    assert found.find("old") is None
    assert found.find("new") is not None


def test_a_revoked_key_is_refused_within_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(file.time, "monotonic", lambda: now[0])
    path = write(tmp_path / "keys.yaml", entry("a"), entry("b"))
    found = Keys(path)
    write(path, entry("b"))
    now[0] += file.LOOK_EVERY_S
    assert found.find("a") is None
    assert found.find("b") is not None


def test_fewer_rights_from_the_next_look_on(tmp_path: Path, at_once: None) -> None:
    path = write(tmp_path / "keys.yaml", entry("a", ADMIN))
    found = Keys(path)
    write(path, entry("a", READ, vectors=["x"]))
    rights = found.find("a")
    assert rights is not None
    assert not rights.may(ADMIN)
    assert not rights.sees("y")


@pytest.mark.parametrize("text", ["keys: [", "", "keys: []\nmore: 1", "keys:\n- name: 2026-13-45"])
def test_a_file_that_turns_bad_changes_nothing_and_is_told_once(
    tmp_path: Path, at_once: None, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = write(tmp_path / "keys.yaml", entry("a"))
    found = Keys(path)
    path.write_text(text)
    for _ in range(5):
        assert found.find("a") is not None
    assert stale()
    told = [r for r in caplog.records if "keys of before stay" in r.message]
    assert len(told) == 1
    assert str(path) in told[0].message
    write(path, entry("b"))
    assert found.find("b") is not None
    assert found.find("a") is None
    assert not stale()


def test_a_file_that_goes_and_comes_back(tmp_path: Path, at_once: None) -> None:
    path = write(tmp_path / "keys.yaml", entry("a"))
    found = Keys(path)
    path.unlink()
    for _ in range(3):
        assert found.find("a") is not None
    assert stale()
    write(path, entry("b"))
    assert found.find("b") is not None
    assert found.find("a") is None
    assert not stale()


def test_a_file_that_may_be_read_again(
    tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "keys.yaml", entry("a"))
    found = Keys(path)
    write(path, entry("b"))
    real = Path.read_text

    def refused(self: Path, *args: Any, **more: Any) -> str:
        raise PermissionError(13, "Permission denied")

    # Tests may run as root, whom no mode keeps from reading.
    monkeypatch.setattr(Path, "read_text", refused)
    path.chmod(0)
    assert found.find("a") is not None
    monkeypatch.setattr(Path, "read_text", real)
    path.chmod(0o400)
    assert found.find("b") is not None
    assert found.find("a") is None


class Secret:
    """A volume with files of a Kubernetes Secret, as the kubelet makes and changes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.version = 0

    def put(self, *entries: dict[str, Any]) -> None:
        self.version += 1
        fresh = self.root / f"..2026_{self.version}"
        fresh.mkdir()
        write(fresh / "keys.yaml", *entries)
        (self.root / "..data_tmp").symlink_to(fresh.name)
        os.replace(self.root / "..data_tmp", self.root / "..data")
        if self.version == 1:
            (self.root / "keys.yaml").symlink_to("..data/keys.yaml")
        else:
            shutil.rmtree(self.root / f"..2026_{self.version - 1}")


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_mounted_secret(tmp_path: Path, at_once: None, what: str) -> None:
    secret = Secret(tmp_path)
    secret.put(entry("a"))
    given = tmp_path / "keys.yaml" if what == "file" else tmp_path
    # As it comes from the command line, which must not follow the links once and for all.
    ours, _ = _own_parser().parse_known_args(["model", "--api-keys-file", str(given)])
    found = Keys(Path(ours.api_keys_file))
    for name in "bcd":
        secret.put(entry(name))
        assert found.find(name) is not None
        assert found.find("a") is None
        assert not stale()
