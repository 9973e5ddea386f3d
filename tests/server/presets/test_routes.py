"""The REST of presets, and requests that use them by model name, without an engine."""

from pathlib import Path
from typing import Any

import pytest

from steersman.server.auth.permissions import ADMIN, OPEN
from steersman.server.presets.models import cards
from tests.support.server.host import PRESETS, VECTORS, Site, content
from tests.support.server.keys import entry, write

ANYBODY = ""
SUNNY = {"vectors": [{"id": "glad", "coefficient": 1.5}]}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path / "library", None)
    made.upload(ANYBODY, content(1, coefficient=0.5), "glad")
    made.upload(ANYBODY, content(2), "calm")
    return made


def create(site: Site, name: str, steering: Any, who: str = ANYBODY, **more: Any) -> Any:
    return site.call(who, "POST", PRESETS, json={"name": name, "steering": steering, **more})


def code(answer: Any) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def test_made_shown_changed_and_deleted(site: Site) -> None:
    answer = create(site, "sunny", {"vectors": {"glad": 1.5, "calm": None}}, description="warm")
    made = answer.json()
    assert answer.status_code == 201
    assert made["steering"]["vectors"] == [{"id": "glad", "coefficient": 1.5}, {"id": "calm"}]
    assert (made["follow"], len(made["pins"]), made["versions"]) == (False, 2, [made["digest"]])
    assert create(site, "sunny", {"vectors": {"glad": 1.5, "calm": None}}).status_code == 200
    assert code(create(site, "sunny", SUNNY)) == (409, "preset_exists", "name")
    assert site.call(ANYBODY, "GET", f"{PRESETS}/sunny").json() == made
    assert site.call(ANYBODY, "GET", PRESETS).json()["data"] == [made]
    path = f"{PRESETS}/sunny"
    changed = site.call(ANYBODY, "PATCH", path, json={"steering": SUNNY, "follow": True}).json()
    assert (changed["steering"], changed["pins"], changed["follow"]) == (SUNNY, [], True)
    assert changed["versions"] == [changed["digest"], made["digest"]]
    described = site.call(ANYBODY, "PATCH", path, json={"description": "cold"}).json()
    assert (described["description"], described["digest"]) == ("cold", changed["digest"])
    assert site.call(ANYBODY, "DELETE", path).json()["deleted"]
    assert code(site.call(ANYBODY, "GET", path)) == (404, "preset_not_found", "name")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"steering": SUNNY}, (400, "invalid_body", "name")),
        ({"name": "a"}, (400, "invalid_body", "steering")),
        ({"name": "a", "steering": None}, (400, "invalid_steering", "steering")),
        ({"name": "a", "steering": "glad"}, (400, "invalid_steering", "steering")),
        ({"name": "a", "steering": {"vectors": {"nobody": 1}}}, (400, "vector_not_found", None)),
        ({"name": "a", "steering": {"vectors": {"glad": 1e9}}}, (400, None, None)),
        *(
            ({"name": name, "steering": SUNNY}, (400, "invalid_name", "name"))
            for name in ("a:b", "a,b", "a@b", "gläd", "\N{SNOWMAN}", "", " a", "..", "a" * 129)
        ),
        ({"name": "a", "steering": SUNNY, "colour": 1}, (400, "unknown_field", "colour")),
        ([], (400, "invalid_body", "body")),
    ],
)
def test_what_is_refused(site: Site, body: Any, found: tuple[int, str, str]) -> None:
    answer = site.call(ANYBODY, "POST", PRESETS, json=body)
    for seen, wanted in zip(code(answer), found, strict=True):
        assert wanted in (None, seen)
    assert site.call(ANYBODY, "GET", PRESETS).json()["data"] == []


def test_a_model_name_uses_a_preset_and_a_request_of_its_own_replaces_it(site: Site) -> None:
    create(site, "sunny", SUNNY)
    used = site.ask(ANYBODY, model="m:sunny").json()
    assert (used["model"], used["source"], used["preset"]) == ("m", "model", "sunny")
    assert used["steering"][0]["coefficient"] == 1.5
    own = site.ask(ANYBODY, model="m:sunny", steering={"vectors": {"calm": 2.0}}).json()
    assert (own["model"], own["source"], own["preset"]) == ("m", "request", None)
    assert own["steering"][0]["id"] == "calm"
    off = site.ask(ANYBODY, model="m:sunny", steering=None).json()
    assert (off["model"], off["steering"]) == ("m", None)
    adapter = site.ask(ANYBODY, model="adapter:1:sunny").json()
    assert (adapter["model"], adapter["preset"]) == ("adapter:1", "sunny")
    plain = site.ask(ANYBODY, model="m").json()
    assert (plain["model"], plain["steering"]) == ("m", None)


def test_the_short_form(site: Site) -> None:
    found = site.ask(ANYBODY, model="m:glad,calm@-0.5").json()
    assert [(x["id"], x["coefficient"]) for x in found["steering"]] == [
        ("glad", 0.5),
        ("calm", -0.5),
    ]
    assert (found["source"], found["preset"]) == ("model", None)
    # A preset goes before a vector of its name.
    create(site, "glad", {"vectors": {"calm": 3.0}})
    assert site.ask(ANYBODY, model="m:glad").json()["preset"] == "glad"


@pytest.mark.parametrize(
    ("suffix", "found"),
    [
        ("gladd", (404, "model_not_found", "model")),
        ("glad@1,nobody@2", (404, "model_not_found", "model")),
        ("", (400, "invalid_model_name", "model")),
        ("glad@1e999", (400, "invalid_steering", "model")),
        ("glad@1,glad@x", (400, "invalid_model_name", "model")),
        (",".join(f"glad@{n}" for n in range(200)), (400, "too_many_terms", "model")),
        ("gläd", (404, "model_not_found", "model")),
        ("a/../b", (404, "model_not_found", "model")),
    ],
)
def test_suffixes_that_steer_nothing(site: Site, suffix: str, found: tuple[int, str, str]) -> None:
    assert code(site.ask(ANYBODY, model=f"m:{suffix}")) == found


def test_what_is_near_an_unknown_suffix_is_named(site: Site) -> None:
    create(site, "sunny", SUNNY)
    assert "near it are sunny" in site.ask(ANYBODY, model="m:sunnny").json()["error"]["message"]


def test_a_pinned_preset_keeps_what_its_vectors_were_and_another_follows(site: Site) -> None:
    create(site, "pinned", SUNNY)
    create(site, "follows", SUNNY, follow=True)
    before = site.ask(ANYBODY, model="m:pinned").json()["steering"][0]["digest"]
    changed = site.call(
        ANYBODY, "PATCH", f"{VECTORS}/glad", json={"layers": [1], "coefficient": 9.0}
    )
    after = changed.json()["digest"]
    assert before != after
    used = [site.ask(ANYBODY, model=f"m:{name}").json() for name in ("pinned", "follows")]
    assert [one["steering"][0]["digest"] for one in used] == [before, after]


def test_a_vector_that_a_preset_names_does_not_vanish_silently(site: Site) -> None:
    create(site, "sunny", SUNNY)
    refused = site.call(ANYBODY, "DELETE", f"{VECTORS}/glad")
    assert code(refused) == (409, "vector_in_use", "id")
    assert "sunny" in refused.json()["error"]["message"]
    assert site.ask(ANYBODY, model="m:sunny").status_code == 200
    assert code(site.call(ANYBODY, "DELETE", f"{VECTORS}/glad?force=yes"))[0] == 400
    assert site.call(ANYBODY, "DELETE", f"{VECTORS}/glad?force=true").status_code == 200
    broken = site.ask(ANYBODY, model="m:sunny")
    assert code(broken) == (404, "preset_broken", "model")
    assert "'glad'" in broken.json()["error"]["message"]
    assert site.call(ANYBODY, "DELETE", f"{VECTORS}/calm").status_code == 200


def test_presets_of_another_tenant_are_absent(tmp_path: Path) -> None:
    keys = write(
        tmp_path / "keys.yaml",
        entry("alice", vectors=["a-*"]),
        entry("bob", vectors=["b-*"]),
        entry("root", ADMIN),
    )
    site = Site(tmp_path / "library", keys)
    site.upload("alice", content(1), "a-glad")
    steering = {"vectors": {"a-glad": 1.0}}
    assert create(site, "a-sunny", steering, "alice").status_code == 201
    assert code(create(site, "b-sunny", steering, "alice")) == (403, "name_not_allowed", "name")
    for ask in (
        lambda name: site.call("bob", "GET", f"{PRESETS}/{name}"),
        lambda name: site.call("bob", "DELETE", f"{PRESETS}/{name}"),
        lambda name: site.call("bob", "PATCH", f"{PRESETS}/{name}", json={"description": "x"}),
        lambda name: site.ask("bob", model=f"m:{name}"),
    ):
        hidden, absent = ask("a-sunny"), ask("a-rainy")
        assert hidden.status_code == absent.status_code == 404
        assert hidden.text.replace("a-sunny", "a-rainy") == absent.text
    assert site.call("bob", "GET", PRESETS).json()["data"] == []
    assert [x["name"] for x in site.call("root", "GET", PRESETS).json()["data"]] == ["a-sunny"]
    assert site.ask("alice", model="m:a-sunny").status_code == 200
    # Who may delete the vector is told of presets that it sees, and how many more.
    assert create(site, "a-other", steering, "root").status_code == 201
    assert (
        "a-other, a-sunny"
        in site.call("alice", "DELETE", f"{VECTORS}/a-glad").json()["error"]["message"]
    )


def test_a_preset_over_the_dose_of_a_key_is_refused_to_it(tmp_path: Path) -> None:
    keys = write(tmp_path / "keys.yaml", entry("strong"), entry("careful", max_relative_dose=0.1))
    site = Site(tmp_path / "library", keys)
    site.upload("strong", content(1), "glad")
    assert create(site, "sunny", {"vectors": {"glad": 5.0}}, "strong").status_code == 201
    assert site.ask("strong", model="m:sunny").status_code == 200
    assert code(site.ask("careful", model="m:sunny")) == (400, "dose_over_limit", "model")
    refused = create(site, "mine", {"vectors": {"glad": 5.0}}, "careful")
    assert code(refused)[:2] == (400, "dose_over_limit")


def test_what_is_served_goes_before_a_preset_of_that_name(site: Site) -> None:
    for name in ("1", "m", "adapter"):
        assert create(site, name, SUNNY).status_code == 201
    assert site.ask(ANYBODY, model="adapter:1").json()["steering"] is None
    assert site.ask(ANYBODY, model="adapter:1:1").json()["preset"] == "1"
    assert site.ask(ANYBODY, model="m:m").json()["preset"] == "m"


def test_ten_thousand_presets_are_listed_once_each(tmp_path: Path) -> None:
    site = Site(tmp_path / "library", None)
    site.upload(ANYBODY, content(1), "glad")
    create(site, "first", SUNNY)
    template = (tmp_path / "library" / "presets" / "first.json").read_text()
    for n in range(9_999):
        path = tmp_path / "library" / "presets" / f"p{n}.json"
        path.write_text(template.replace('"first"', f'"p{n}"'))
    base = {"id": "m", "parent": None}
    listed = cards([base], site.state.presets_for(OPEN))
    assert len({card["id"] for card in listed}) == 10_000
    assert site.ask(ANYBODY, model="m:p9998").json()["preset"] == "p9998"
    assert code(create(site, "more", SUNNY)) == (403, "library_limit", "name")
