"""The keys file: what is wrong with it is told by place, and never by what stands there."""

import hmac
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from steersman.client.launch.options import own_parser
from steersman.server.auth import keyfile as file
from steersman.server.auth.keyfile import Hashed, Keys, KeysFileInvalid, hash_of, read
from steersman.server.auth.permissions import ADMIN, INFER, READ, SCOPES, KeyPermissions
from tests.support.server.keys import entry, write

SECRET = "sk-steersman-written-in-the-clear"
GOOD: dict[str, Any] = {"name": "a", "sha256": hash_of("a"), "scopes": ["infer"]}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the file whenever a key is looked for."""
    monkeypatch.setattr(file, "LOOK_EVERY_S", 0.0)


def hashed(path: Path) -> list[Hashed]:
    return read(path).hashed


def now(keys: Keys, key: str) -> KeyPermissions | None:
    """The permissions of `key`, by the file as it is now."""
    keys.look()
    return keys.find(key)


def stale() -> bool:
    return REGISTRY.get_sample_value("steering_keys_stale") == 1


def test_all_that_an_entry_may_say(tmp_path: Path) -> None:
    more = {
        "vectors": ["team-a-*", "shared"], "max_relative_dose": 1.5, "requests_per_minute": 60,
        "max_concurrent_requests": 8, "max_vectors": 100, "max_jobs": 1, "max_extract_rows": 500,
    }  # fmt: skip
    (found,) = hashed(write(tmp_path / "keys.yaml", entry("alice", INFER, READ, **more)))
    permissions = found.permissions
    assert permissions.name == "alice"
    assert permissions.scopes == {INFER, READ}
    assert permissions.vectors == ("team-a-*", "shared")
    assert {key: getattr(permissions, key) for key in more if key != "vectors"} == {
        key: value for key, value in more.items() if key != "vectors"
    }
    assert found.digest.hex() == hash_of("alice")


def test_an_entry_without_limits_has_none(tmp_path: Path) -> None:
    (found,) = hashed(write(tmp_path / "keys.yaml", entry("a", INFER)))
    assert found.permissions.sees_all
    assert not found.permissions.may(READ)
    limits = ("max_relative_dose", "max_total_dose", "requests_per_minute",
              "max_concurrent_requests", "max_vectors",
              "max_jobs", "max_extract_rows")  # fmt: skip
    assert [getattr(found.permissions, limit) for limit in limits] == [None] * len(limits)


def test_admin_contains_the_other_scopes_and_none_of_those_another(tmp_path: Path) -> None:
    for scope in SCOPES:
        (found,) = hashed(write(tmp_path / "keys.yaml", entry("a", scope)))
        allowed = {other for other in SCOPES if found.permissions.may(other)}
        assert allowed == (set(SCOPES) if scope == ADMIN else {scope})


LIMITS = sorted(file._Key.model_fields.keys() - {"name", "sha256", "scopes", "vectors"})


def test_every_field_has_words_for_what_it_should_be() -> None:
    assert file._Key.model_fields.keys() | file._File.model_fields.keys() == file._SHOULD_BE.keys()


BAD: dict[str, tuple[Any, str]] = {
    "empty": (None, "the file must be keys:"),
    "a list": ([GOOD], "the file must be keys:"),
    "a string": (SECRET, "the file must be keys:"),
    "no keys": ({"key": [GOOD]}, "keys is missing"),
    "keys by name": ({"keys": {SECRET: GOOD}}, "line 2: keys must be a list"),
    "more beside the keys": ({"keys": [GOOD], SECRET: 1}, "unknown field; fields are public, keys"),
    "an unknown field": ({"keys": [{**GOOD, SECRET: 1}]},
                         "key 'a': there is an unknown field; fields are name, sha256"),
    "no name": ({"keys": [GOOD, {k: v for k, v in GOOD.items() if k != "name"}]},
                "line 6: key number 2: name is missing"),
    "the key as its name": ({"keys": [{**GOOD, "name": f"{SECRET} "}]},
                            "line 2: key number 1: name must be 1 to 64 letters"),
    "the key as its name, whole": ({"keys": [{**GOOD, "name": SECRET, "scopes": []}]},
                                   "key number 1: scopes must be"),
    "an empty name": ({"keys": [{**GOOD, "name": ""}]}, "key number 1: name must be"),
    "a name like vLLM's": ({"keys": [{**GOOD, "name": "--api-key"}]}, "key number 1: name must be"),
    "a line in a name": ({"keys": [{**GOOD, "name": "a\n"}]}, "name must be"),
    "a key in the clear": ({"keys": [{**GOOD, "sha256": SECRET}]},
                           "line 3: key 'a': sha256 must be 64 hex digits"),
    "half a hash": ({"keys": [{**GOOD, "sha256": "0" * 63}]}, "key 'a': sha256 must be 64"),
    "capitals": ({"keys": [{**GOOD, "sha256": hash_of("x").upper()}]}, "sha256 must be 64"),
    "a line in a hash": ({"keys": [{**GOOD, "sha256": hash_of("x") + "\n"}]}, "sha256 must be"),
    "no hashes": ({"keys": [{**GOOD, "sha256": []}]}, "sha256 must be"),
    "a hash that is a number": ({"keys": [{**GOOD, "sha256": int("1" * 64)}]}, "sha256 must be"),
    "one hash of two": ({"keys": [{**GOOD, "sha256": [hash_of("a"), SECRET]}]}, "sha256 must be"),
    "the hash of nothing": ({"keys": [{**GOOD, "sha256": hash_of("")}]},
                            "key 'a': sha256 is the hash of an empty key"),
    "nothing beside a key": ({"keys": [{**GOOD, "sha256": [hash_of("a"), hash_of("")]}]},
                             "sha256 is the hash of an empty key"),
    "no scopes": ({"keys": [{**GOOD, "scopes": []}]}, "key 'a': scopes must be a list"),
    "no line of scopes": ({"keys": [{k: v for k, v in GOOD.items() if k != "scopes"}]},
                          "line 2: key 'a': scopes is missing, which must be a list"),
    "an unknown scope": ({"keys": [{**GOOD, "scopes": ["infer", "root"]}]},
                         "line 6: key 'a': scopes must be a list of one or more of infer"),
    "one scope": ({"keys": [{**GOOD, "scopes": "infer"}]}, "scopes must be a list"),
    "one pattern": ({"keys": [{**GOOD, "vectors": "team-*"}]}, "vectors must be a list"),
    "a pattern that is a number": ({"keys": [{**GOOD, "vectors": ["a", 1]}]}, "vectors must be"),
    "no patterns": ({"keys": [{**GOOD, "vectors": None}]}, "vectors must be a list"),
    "a dose without end": (
        {"keys": [{**GOOD, "max_relative_dose": float("inf")}]}, "max_relative_dose must be",
    ),
    "a dose of 0": ({"keys": [{**GOOD, "max_relative_dose": 0}]}, "max_relative_dose must be"),
    "no number": ({"keys": [{**GOOD, "max_relative_dose": float("nan")}]},
                  "max_relative_dose must be a number"),
    "a rate of 0": ({"keys": [{**GOOD, "requests_per_minute": 0}]}, "requests_per_minute must be"),
    "half a request": ({"keys": [{**GOOD, "requests_per_minute": 0.5}]},
                       "requests_per_minute must be a whole number"),
    "a rate in words": ({"keys": [{**GOOD, "requests_per_minute": "60"}]},
                        "requests_per_minute must be"),
    "true": ({"keys": [{**GOOD, "max_jobs": True}]}, "max_jobs must be"),
    "fewer than none": ({"keys": [{**GOOD, "max_vectors": -1}]}, "max_vectors must be"),
    **{f"{limit} without its number": ({"keys": [{**GOOD, limit: None}]}, f"{limit} must be")
       for limit in LIMITS},
    "twice": ({"keys": [GOOD, {**GOOD, "sha256": hash_of("b")}]},
              "line 6: key 'a': its name is used twice"),
    "one key of two": ({"keys": [GOOD, {**GOOD, "name": "b"}]}, "'a' and 'b' have the same sha256"),
    "a route that is not to be opened": ({"public": ["/metrics", "/v1/models"], "keys": [GOOD]},
                                         "public must be"),
    "a key that is a word": ({"keys": [SECRET]}, "key number 1: must have name"),
    "no list of public routes": ({"public": "/metrics", "keys": [GOOD]}, "public must be"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_names_the_place(tmp_path: Path, what: str) -> None:
    data, place = BAD[what]
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False, explicit_end=True))
    with pytest.raises(KeysFileInvalid) as refusal:
        read(path)
    said = str(refusal.value)
    assert said.startswith(str(path))
    assert place in said
    assert SECRET not in said
    assert hash_of("a") not in said
    # Nothing of pydantic's own words.
    assert "constrained" not in said
    assert "valid " not in said


@pytest.mark.parametrize(
    "text",
    ["keys: [", f"keys:\n- {SECRET}: [", f"\t{SECRET}", "keys: *nothing", "\x00" + SECRET,
     "keys: !!python/object/apply:os.system [true]", f"{{[a]: {SECRET}}}", "[" * 5000,
     f"keys:\n- name: 2026-13-45\n  sha256: {SECRET}", f"keys: !!int {SECRET}",
     f"keys: !!timestamp {SECRET}", f"keys: !!bool {SECRET}",
     "%YAML 9.9\n---\n", "keys: []\n---\nkeys: []\n", "keys: []\n...\nkeys: []\n",
     "- ".join(("keys:\n", f"name: a\n  {SECRET}: 1\n  {SECRET}: 2\n...\n"))],
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
    real = hmac.compare_digest

    def watching(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return bool(real(a, b))

    found = Keys(write(tmp_path / "keys.yaml", *(entry(n, INFER) for n in "abcd")), ("extra",))
    monkeypatch.setattr(hmac, "compare_digest", watching)
    for key in ("a", "d", "extra", "nobody"):
        compared.clear()
        found.find(key)
        assert len(compared) == 5


def test_a_key_is_changed_with_two_hashes(tmp_path: Path, at_once: None) -> None:
    path = write(tmp_path / "keys.yaml", entry("a", sha256=hash_of("old")))
    found = Keys(path)
    write(path, entry("a", sha256=[hash_of("old"), hash_of("new")]))
    assert now(found, "old") == now(found, "new") is not None
    write(path, entry("a", sha256=hash_of("new")))
    assert now(found, "old") is None
    assert now(found, "new") is not None


def test_a_revoked_key_is_refused_within_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    path = write(tmp_path / "keys.yaml", entry("a"), entry("b"))
    found = Keys(path)
    write(path, entry("b"))
    clock[0] += file.LOOK_EVERY_S
    assert now(found, "a") is None
    assert now(found, "b") is not None


def test_fewer_rights_from_the_next_look_on(tmp_path: Path, at_once: None) -> None:
    path = write(tmp_path / "keys.yaml", entry("a", ADMIN))
    found = Keys(path)
    write(path, entry("a", READ, vectors=["x"]))
    permissions = now(found, "a")
    assert permissions is not None
    assert not permissions.may(ADMIN)
    assert not permissions.sees("y")


@pytest.mark.parametrize("text", ["keys: [", "", "keys: []\nmore: 1", "keys:\n- name: 2026-13-45"])
def test_a_file_that_turns_bad_changes_nothing_and_is_told_once(
    tmp_path: Path, at_once: None, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = write(tmp_path / "keys.yaml", entry("a"))
    found = Keys(path)
    path.write_text(text)
    for _ in range(5):
        assert now(found, "a") is not None
    assert stale()
    told = [r for r in caplog.records if "previous keys stay" in r.message]
    assert len(told) == 1
    assert str(path) in told[0].message
    write(path, entry("b"))
    assert now(found, "b") is not None
    assert now(found, "a") is None
    assert not stale()


def test_a_file_that_goes_and_comes_back(tmp_path: Path, at_once: None) -> None:
    path = write(tmp_path / "keys.yaml", entry("a"))
    found = Keys(path)
    path.unlink()
    for _ in range(3):
        assert now(found, "a") is not None
    assert stale()
    write(path, entry("b"))
    assert now(found, "b") is not None
    assert now(found, "a") is None
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
    assert now(found, "a") is not None
    monkeypatch.setattr(Path, "read_text", real)
    path.chmod(0o400)
    assert now(found, "b") is not None
    assert now(found, "a") is None


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
    ours, _ = own_parser().parse_known_args(["model", "--api-keys-file", str(given)])
    found = Keys(Path(ours.api_keys_file))
    for name in "bcd":
        secret.put(entry(name))
        assert now(found, name) is not None
        assert now(found, "a") is None
        assert not stale()
