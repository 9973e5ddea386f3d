"""A key's own limits: doses, vectors, jobs, rows; and what its jobs tell others."""

import time
from pathlib import Path
from typing import Any

import pytest

from steersman.server.auth.permissions import ADMIN, INFER, READ
from tests.support.server.host import JOBS, VECTORS, Site, content
from tests.support.server.keys import entry, write

PAIRS = [[f"good {n}", f"bad {n}"] for n in range(4)]


def site(tmp_path: Path, *entries: dict[str, Any], **settings: Any) -> Site:
    keys = write(tmp_path / "keys.yaml", *entries, entry("boss", ADMIN))
    return Site(tmp_path / "library", keys, **settings)


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture
def dosed(tmp_path: Path) -> Site:
    """`v` has a relative dose of 1 at coefficient 1; careful may give 1.5, bold 3, boss 2."""
    made = site(
        tmp_path,
        entry("careful", INFER, READ, max_relative_dose=1.5),
        entry("bold", INFER, READ, max_relative_dose=3),
        max_relative_dose=2.0,
    )
    for n in range(4):
        assert made.upload("boss", content(n, 10.0), f"v{n}").status_code == 201
    assert made.upload("boss", content(9, 10.0, coefficient=1.6), "strong").status_code == 201
    return made


@pytest.mark.parametrize(
    "field",
    [
        {"vectors": {"v0": 1.6}}, {"vectors": {"v0": -1.6}}, {"vectors": {"v0": 0.8, "v1": 0.8}},
        {"vectors": {"v0": 0.8, "v1": -0.8}}, {"vectors": {f"v{n}": 0.4 for n in range(4)}},
        {"vectors": [{"id": "strong"}]}, {"vectors": [{"id": "v0", "coefficient": 1.6}]},
        {"vectors": [{"id": "v0", "schedule": [0, 0, -1.6]}]},
        {"vectors": [{"id": "v0", "schedule": "start", "coefficient": 1.6}]},
        {"vectors": [{"id": "v0", "schedule": "diminishing", "coefficient": 1.6, "over": 4}]},
        {"vectors": [{"id": "v0", "schedule": [1.6], "positions": "generation"},
                     {"id": "v1", "coefficient": 0.1, "positions": "prompt"}]},
        {"vectors": [{"id": "v0"}], "dynamic": {"max": 1.6}},
        {"vectors": [{"id": "v0"}, {"id": "v1"}], "dynamic": {"max": 0.8}},
        {"vectors": [{"id": "v0", "coefficient": 1.6}], "dynamic": {"max": 0.1}},
        {"vectors": [{"id": "v0", "coefficient": 0.8}, {"id": "v0", "coefficient": 0.8}]},
    ],
)  # fmt: skip
def test_no_way_of_asking_gives_more_than_the_keys_dose(dosed: Site, field: Any) -> None:
    assert code(dosed.steer("careful", field)) == (400, "dose_over_limit")
    assert dosed.steer("boss", field).status_code == 200


def test_the_lower_of_two_doses_counts(dosed: Site) -> None:
    within: Any = {"vectors": {"v0": 1.5}}
    assert dosed.steer("careful", within).status_code == 200
    for who in ("bold", "boss"):
        assert dosed.steer(who, {"vectors": {"v0": 2.0}}).status_code == 200
        assert code(dosed.steer(who, {"vectors": {"v0": 2.1}})) == (400, "dose_over_limit")
    # One key's limit does not stick to the next.
    assert code(dosed.steer("careful", {"vectors": {"v0": 1.6}})) == (400, "dose_over_limit")
    limits = {
        who: dosed.call(who, "GET", "/v1/steering/capabilities").json()["limits"]
        for who in ("careful", "bold", "boss")
    }
    assert {who: said["max_relative_dose"] for who, said in limits.items()} == {
        "careful": 1.5, "bold": 2.0, "boss": 2.0,
    }  # fmt: skip


def test_a_keys_total_dose(tmp_path: Path) -> None:
    """Its message says that the key has the limit, so that nobody looks for an option."""
    made = site(tmp_path, entry("careful", INFER, READ, max_total_dose=1.5))
    made.upload("boss", content(0, 10.0), "v")
    answer = made.steer("careful", {"vectors": {"v": 1.6}})
    assert code(answer) == (400, "dose_over_limit")
    assert "this key's limit of 1.5 (max_total_dose" in answer.json()["error"]["message"]
    assert made.steer("careful", {"vectors": {"v": 1.5}}).status_code == 200
    assert made.steer("boss", {"vectors": {"v": 1.6}}).status_code == 200
    limits = made.call("careful", "GET", "/v1/steering/capabilities").json()["limits"]
    assert limits["max_total_dose"] == 1.5


def test_a_keys_dose_binds_the_start_of_a_dynamic_request(tmp_path: Path) -> None:
    made = site(tmp_path, entry("careful", INFER, READ, max_relative_dose=1))
    made.upload("boss", content(0, 10.0), "v")
    field: Any = {"vectors": [{"id": "v"}], "dynamic": {"start": 9999, "max": 0.5}}
    answer = made.steer("careful", field)
    assert code(answer) == (400, "dose_over_limit")
    assert answer.json()["error"]["param"] == "steering.dynamic.start"
    assert made.steer("boss", field).status_code == 200
    field["dynamic"]["start"] = 1.0
    assert made.steer("careful", field).status_code == 200


def test_a_key_with_a_dose_on_a_model_without_doses(tmp_path: Path) -> None:
    made = site(tmp_path, entry("careful", max_relative_dose=1.5))
    made.state.all_doses.medians = None
    made.upload("boss", content(1), "v")
    assert code(made.steer("careful", {"vectors": {"v": 0.1}})) == (400, "dose_unknown")
    assert made.steer("boss", {"vectors": {"v": 0.1}}).status_code == 200


def test_vectors_of_a_key_over_two_servers(tmp_path: Path) -> None:
    entries = entry("few", max_vectors=3), entry("other")
    one, two = site(tmp_path, *entries), site(tmp_path, *entries)
    assert one.upload("other", content(50), "others").status_code == 201
    done = [(one, two)[n % 2].upload("few", content(n), f"v{n}") for n in range(5)]
    assert [answer.status_code for answer in done] == [201, 201, 201, 403, 403]
    assert code(done[-1]) == (403, "too_many_vectors")
    # Neither the same once more nor a change is a vector more.
    assert two.upload("few", content(0), "v0").status_code == 200
    assert code(two.upload("few", content(9), "v0")) == (409, "vector_exists")
    assert two.call("few", "PATCH", f"{VECTORS}/v0", json={"coefficient": 2.0}).status_code == 200
    assert code(one.upload("few", content(9), "v9")) == (403, "too_many_vectors")
    assert one.upload("other", content(51), "more").status_code == 201
    assert one.call("other", "DELETE", f"{VECTORS}/v1").status_code == 200
    assert two.upload("few", content(9), "v9").status_code == 201


def test_vectors_of_all(tmp_path: Path) -> None:
    made = site(tmp_path, entry("a"), max_library_vectors=2)
    assert made.upload("a", content(1), "v1").status_code == 201
    assert made.upload("boss", content(2), "v2").status_code == 201
    for who in ("a", "boss"):
        assert code(made.upload(who, content(3), "v3")) == (403, "library_limit")
    assert made.upload("a", content(1), "v1").status_code == 200
    assert made.call("a", "DELETE", f"{VECTORS}/v2").status_code == 200
    assert made.upload("a", content(3), "v3").status_code == 201


def extract(made: Site, who: str, name: str, **more: Any) -> Any:
    wanted = {"method": "mean_difference", "name": name, "pairs": PAIRS, **more}
    return made.call(who, "POST", f"{VECTORS}/extract", json=wanted)


def ended(made: Site, who: str, job: str) -> dict[str, Any]:
    for _ in range(500):
        said: dict[str, Any] = made.call(who, "GET", f"{JOBS}/{job}").json()
        if said["status"] not in ("queued", "running", "cancelling"):
            return said
        time.sleep(0.01)
    raise AssertionError(said)


def test_jobs_of_a_key(tmp_path: Path) -> None:
    made = site(tmp_path, entry("one", max_jobs=1), entry("none", max_jobs=0), entry("free"))
    made.engine._slow = ("good 0",)
    with made.client:
        first = extract(made, "one", "v1")
        assert first.status_code == 202
        assert code(extract(made, "one", "v2")) == (429, "too_many_jobs")
        # None at all: to try again later would not help.
        assert code(extract(made, "none", "v3")) == (403, "not_allowed")
        other = extract(made, "free", "v4")
        assert other.status_code == 202
        job = first.json()["id"]
        assert made.call("one", "DELETE", f"{JOBS}/{job}").status_code == 200
        assert ended(made, "one", job)["status"] == "cancelled"
        assert extract(made, "one", "v5").status_code == 202
        assert made.client.portal is not None
        made.client.portal.call(made.engine.go.set)
        assert ended(made, "free", other.json()["id"])["status"] == "succeeded"


def test_a_job_makes_its_vector_with_its_keys_rights(tmp_path: Path) -> None:
    made = site(tmp_path, entry("a", vectors=["a-*"], max_vectors=1), entry("b", vectors=["b-*"]))
    with made.client:
        assert code(extract(made, "a", "b-1")) == (403, "name_not_allowed")
        first = ended(made, "a", extract(made, "a", "a-1").json()["id"])
        assert first["status"] == "succeeded"
        assert [v.partition("@")[0] for v in first["vectors"]] == ["a-1"]
        # Counted against the key that asked, also behind its back.
        late = ended(made, "a", extract(made, "a", "a-2").json()["id"])
        assert late["error"]["code"] == "too_many_vectors"
    assert made.state.whole_library._names.all()["a-1"].owner == "a"


def test_jobs_of_names_that_are_hidden_are_not_there(tmp_path: Path) -> None:
    made = site(tmp_path, entry("a", vectors=["a-*"]), entry("b", vectors=["b-*"]))
    with made.client:
        job = extract(made, "b", "b-1").json()["id"]
        ended(made, "b", job)
    absent = "job-" + "0" * 16
    for method in ("GET", "DELETE"):
        refused = made.call("a", method, f"{JOBS}/{job}")
        nothing = made.call("a", method, f"{JOBS}/{absent}")
        assert code(refused) == (404, "job_not_found")
        assert refused.text.replace(job, absent) == nothing.text
    assert made.call("a", "GET", JOBS).json()["data"] == []
    assert [j["id"] for j in made.call("boss", "GET", JOBS).json()["data"]] == [job]
    assert "owner" not in made.call("b", "GET", f"{JOBS}/{job}").json()


STYLES = {label: [f"{label} {n}" for n in range(4)] for label in ("formal", "casual")}
STYLES["casual"].append("")


def styled(made: Site, who: str, name: str) -> Any:
    wanted = {"method": "style", "name": name, "styles": STYLES}
    return made.call(who, "POST", f"{VECTORS}/extract", json=wanted)


def test_whoever_may_start_styles_may_watch_them(tmp_path: Path) -> None:
    made = site(
        tmp_path, entry("all", vectors=["x", "x-*"]), entry("parts", vectors=["x-*"]),
        entry("bare", vectors=["x"]), entry("one", vectors=["x", "x-formal"]),
    )  # fmt: skip
    others = ("parts", "bare", "one")
    made.engine._slow = ("formal 0",)

    def nobody_else_is_told(job: str) -> None:
        for who in others:
            told = made.call(who, "GET", JOBS).text + made.call(who, "GET", f"{JOBS}/{job}").text
            for label in STYLES:
                assert label not in told, who

    with made.client:
        for who in others:
            assert code(styled(made, who, "x")) == (403, "name_not_allowed")
        started = styled(made, "all", "x")
        assert started.status_code == 202, started.text
        job = started.json()["id"]
        assert made.client.portal is not None
        made.client.portal.call(made.engine.waits.wait)
        running = made.call("all", "GET", f"{JOBS}/{job}").json()
        # Its label is part of a name, and there before the name is.
        assert [bad["label"] for bad in running["bad_rows"]] == ["casual"]
        nobody_else_is_told(job)
        assert made.client.portal is not None
        made.client.portal.call(made.engine.go.set)
        assert ended(made, "all", job)["status"] == "succeeded"
    nobody_else_is_told(job)


@pytest.mark.parametrize(("most", "status"), [(8, 202), (7, 400), (0, 400)])
def test_rows_of_a_keys_extraction(tmp_path: Path, most: int, status: int) -> None:
    made = site(tmp_path, entry("a", max_extract_rows=most))
    with made.client:
        answer = extract(made, "a", "v")
        assert answer.status_code == status
        if status == 400:
            assert answer.json()["error"]["code"] == "too_many_rows"
        assert extract(made, "boss", "w").status_code == 202
        said = made.call("a", "GET", "/v1/steering/capabilities").json()
        assert said["limits"]["max_extract_rows"] == most
