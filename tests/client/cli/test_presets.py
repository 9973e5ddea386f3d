"""`steersman presets` against our routes, over HTTP, with a key."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.cli.conftest import Done

Run = Callable[..., Done]


def test_made_listed_shown_changed_and_deleted(keyed: Run) -> None:
    made = keyed("presets", "create", "sunny", "glad=1.5", "calm", "--description", "[b]warm")
    assert made.status == 0
    for part in ("sunny", "glad 1.5", "pinned", "[b]warm"):
        assert part in made.out
    assert "[b]warm" in keyed("presets", "list").out
    shown = keyed("presets", "show", "sunny", "--json").json
    assert [use["id"] for use in shown["steering"]["vectors"]] == ["glad", "calm"]
    changed = keyed("presets", "set", "sunny", "glad=2", "--follow", "--json").json
    assert (changed["follow"], len(changed["versions"])) == (True, 2)
    refused = keyed("vectors", "delete", "glad")
    assert refused.status == 1
    assert "sunny" in refused.err
    assert "--force" in refused.err
    assert keyed("presets", "delete", "sunny").out == "sunny is deleted\n"
    gone = keyed("presets", "show", "sunny")
    assert gone.status == 1
    assert "steersman presets list" in gone.err
    assert "there are no presets" in keyed("presets", "list").err


def test_a_whole_value_out_of_a_file(keyed: Run, tmp_path: Path) -> None:
    file = tmp_path / "steering.json"
    steering = {"vectors": [{"id": "glad"}], "schedule": "start"}
    file.write_text(json.dumps(steering))
    made = keyed("presets", "create", "first", "--file", str(file), "--json").json
    assert made["steering"] == steering
    keyed("presets", "delete", "first")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("create", "a"), "name vectors"),
        (("set", "a"), "nothing to change"),
        (("create", "a", "nobody=1"), "no vector 'nobody'"),
        (("create", "a", "glad=1", "--file", "x"), "both say"),
        (("create", "a", "--file", "/nowhere"), "cannot be read"),
        (("create", "a:b", "glad"), "use 1 to 128 letters"),
        (("delete", "nobody"), "steersman presets list"),
    ],
)
def test_what_is_refused_says_what_to_do(keyed: Run, args: tuple[str, ...], said: str) -> None:
    done = keyed("presets", *args)
    assert done.status != 0
    assert said in done.err


def test_a_file_of_presets_is_applied_again_and_again(keyed: Run, tmp_path: Path) -> None:
    file = tmp_path / "presets.yaml"
    file.write_text(
        "one:\n  steering: {vectors: {glad: 1.5}}\ntwo:\n  steering: {vectors: {calm: 1}}\n"
    )
    assert keyed("presets", "apply", str(file)).out == "one is made\ntwo is made\n"
    file.write_text('{"one": {"steering": {"vectors": {"glad": 2}}, "description": "d"}}')
    (one,) = keyed("presets", "apply", str(file), "--json").json["data"]
    assert (one["steering"]["vectors"], one["description"]) == (
        [{"id": "glad", "coefficient": 2}],
        "d",
    )
    assert keyed("presets", "apply", str(file)).out == "one is changed\n"
    for text in ("[1]", "one: 3", "one: {vectors: {glad: 1}}", "{"):
        file.write_text(text)
        done = keyed("presets", "apply", str(file))
        assert done.status == 2
        assert "presets.yaml" in done.err
    for name in ("one", "two"):
        keyed("presets", "delete", name)
