"""The store of presets: what is kept, what is refused, and what other processes see."""

import json
from pathlib import Path

import pytest

from steersman.vectors.errors import PresetConflict, PresetNotFound, VectorInvalid
from steersman.vectors.library.presets import HISTORY, PresetStore, Version

GLAD = Version({"vectors": [{"id": "glad", "coefficient": 1.5}]})
PINNED = Version(
    {"vectors": [{"id": "glad"}, {"id": "calm"}]}, (f"sha256:{'a' * 64}", f"sha256:{'b' * 64}")
)


@pytest.fixture
def store(tmp_path: Path) -> PresetStore:
    return PresetStore(tmp_path)


def test_what_is_kept_is_what_another_process_reads(store: PresetStore, tmp_path: Path) -> None:
    made, new = store.add("sunny", PINNED, "warm", owner="alice")
    assert new
    other = PresetStore(tmp_path)
    assert other.get("sunny") == made
    assert dict(other.all()) == {"sunny": made}
    assert (made.digest, made.follow, made.owner) == (PINNED.digest, False, "alice")
    assert made.now.vectors == ("glad", "calm")


def test_pinned_vectors_are_asked_for_by_digest_and_others_by_name() -> None:
    uses = PINNED.as_asked()["vectors"]
    assert [use["id"] for use in uses] == [f"glad@{'a' * 32}", f"calm@{'b' * 32}"]
    assert GLAD.as_asked() == {"vectors": [{"id": "glad", "coefficient": 1.5}]}
    assert PINNED.steering["vectors"][0] == {"id": "glad"}


def test_the_same_again_is_not_new_and_something_else_is_a_conflict(store: PresetStore) -> None:
    made, _ = store.add("sunny", GLAD)
    assert store.add("sunny", GLAD) == (made, False)
    with pytest.raises(PresetConflict, match="stands for something else"):
        store.add("sunny", PINNED)
    assert store.get("sunny") == made


def test_a_change_keeps_what_it_stood_for(store: PresetStore) -> None:
    store.add("sunny", GLAD)
    store.update("sunny", PINNED)
    changed = store.update("sunny", description="cold")
    assert [one.digest for one in changed.versions] == [PINNED.digest, GLAD.digest]
    assert changed.description == "cold"
    back = store.update("sunny", GLAD)
    assert [one.digest for one in back.versions] == [GLAD.digest, PINNED.digest]
    for n in range(2 * HISTORY):
        store.update("sunny", Version({"vectors": [{"id": "glad", "coefficient": n}]}))
    assert len(store.get("sunny").versions) == HISTORY


def test_gone_is_gone(store: PresetStore) -> None:
    store.add("sunny", GLAD)
    store.delete("sunny")
    assert not store.all()
    for call in (store.get, store.delete, lambda name: store.update(name, GLAD)):
        with pytest.raises(PresetNotFound):
            call("sunny")


def test_which_presets_name_a_vector(store: PresetStore) -> None:
    store.add("b", PINNED)
    store.add("a", GLAD)
    assert store.naming("glad") == ["a", "b"]
    assert store.naming("calm") == ["b"]
    assert store.naming("sad") == []


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a,b", "a@1", "../a", "a/b", "ä", "a" * 129])
def test_names_that_cannot_be(store: PresetStore, name: str) -> None:
    with pytest.raises(VectorInvalid, match="use 1 to 128 letters"):
        store.add(name, GLAD)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"name": "sunny"}',
        json.dumps({"name": "sunny", "versions": []}).encode(),
    ],
)
def test_a_damaged_record_is_said_to_be_one_and_can_be_deleted(
    store: PresetStore, tmp_path: Path, content: bytes
) -> None:
    store.add("sunny", GLAD)
    store.add("other", GLAD)
    (tmp_path / "presets" / "sunny.json").write_bytes(content)
    with pytest.raises(VectorInvalid, match="damaged"):
        store.get("sunny")
    assert list(store.all()) == ["other"]
    store.delete("sunny")
    store.add("sunny", GLAD)


def test_a_directory_without_presets_has_none(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        assert PresetStore(tmp_path).all() == {}
    finally:
        tmp_path.chmod(0o755)
