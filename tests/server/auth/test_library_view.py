"""What a key may not see is not there: over every route, and by any way of asking."""

import random
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steersman.server.auth.library_view import LibraryView
from steersman.server.auth.permissions import ADMIN, INFER, READ, WRITE, KeyPermissions
from steersman.vectors.errors import SteersmanError
from steersman.vectors.file.format import read_vector
from steersman.vectors.library.library import Library
from tests.support.server.host import JOBS, VECTORS, Site, content
from tests.support.server.keys import entry, permissions, write

TIMES = re.compile(r'"(created_at|updated_at)":\d+')
HIDDEN_NAMES = ["b-1", "b-2", "aa", "c.d", "A-1"]
"""Not in `a-*`, though some begin alike."""


def keys_file(tmp_path: Path) -> Path:
    return write(
        tmp_path / "keys.yaml",
        entry("alice", INFER, READ, WRITE, vectors=["a-*"]),
        entry("bob", INFER, READ, WRITE, vectors=["b-*", "aa", "c.?"]),
        entry("blind", INFER, READ, WRITE, vectors=[]),
        entry("boss", ADMIN),
    )


def fill(site: Site, names: list[str]) -> None:
    for name in names:
        data = content(seed_of(name), description=f"of {name}", method="caa")
        assert site.upload("boss", data, name).status_code == 201


def seed_of(name: str) -> int:
    return zlib.crc32(name.encode())


def digest(name: str) -> str:
    return read_vector(content(seed_of(name))).digest


Call = Callable[[Site, str], Any]


def calls() -> dict[str, Call]:
    """Every way to ask about one name."""

    def at(method: str, end: str = "", **more: Any) -> Call:
        return lambda site, name: site.call("alice", method, f"{VECTORS}/{name}{end}", **more)

    def steered(**more: Any) -> Call:
        return lambda site, name: site.steer("alice", {"vectors": {name: 1.0}, **more})

    return {
        "get": at("GET"), "content": at("GET", "/content"), "inspect": at("GET", "/inspect"),
        "known": at("GET", "/content", params={"a": "b"}), "delete": at("DELETE"),
        "a version": at("GET", "@0123456789ab"), "delete a version": at("DELETE", "@0123456789ab"),
        "patch a version": at("PATCH", "@0123456789ab", json={"coefficient": 1.0}),
        "describe": at("PATCH", json={"description": "x"}),
        "scale": at("PATCH", json={"coefficient": 2.0}),
        "layers": at("PATCH", json={"layers": [99]}),
        "swap": at("PATCH", json={"digest": "0" * 12}),
        "a bad patch": at("PATCH", json={"nothing": 1}),
        "infer": steered(), "dynamic": steered(dynamic={"max": 2.0}),
        "the second": lambda site, name: site.steer("alice", {"vectors": {"a-1": 1.0, name: 1.0}}),
        "infer a version": lambda site, name: site.steer(
            "alice", {"vectors": {f"{name}@0123456789ab": 1.0}}
        ),
    }  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path / "library", keys_file(tmp_path))
    fill(made, ["a-1", "a-2", *HIDDEN_NAMES])
    return made


def told(answer: Any, name: str) -> tuple[int, str, dict[str, str]]:
    """An answer with `name` put out of it."""
    headers = {k: v for k, v in answer.headers.items() if k != "content-length"}
    return answer.status_code, answer.text.replace(name, "NAME"), headers


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One server for tests that change nothing."""
    root = tmp_path_factory.mktemp("lasting")
    made = Site(root / "library", keys_file(root))
    fill(made, ["a-1", "a-2", *HIDDEN_NAMES])
    return made


@pytest.mark.parametrize("how", calls())
def test_a_hidden_name_is_as_one_that_is_not_there(lasting: Site, how: str) -> None:
    ask = calls()[how]
    answers = [told(ask(lasting, name), name) for name in ("a-9", "b-9", *HIDDEN_NAMES)]
    assert answers[0][0] in (400, 404)
    assert all(answer == answers[0] for answer in answers)
    assert len(lasting.names("boss")) == 2 + len(HIDDEN_NAMES)


def test_lists_and_pages_of_what_may_be_seen(lasting: Site) -> None:
    site = lasting
    assert site.names("alice") == ["a-1", "a-2"]
    assert site.names("bob") == ["aa", "b-1", "b-2", "c.d"]
    assert site.names("blind") == []
    assert site.names("boss") == sorted(["a-1", "a-2", *HIDDEN_NAMES])
    first = site.call("alice", "GET", f"{VECTORS}?limit=1").json()
    assert (first["last_id"], first["has_more"]) == ("a-1", True)
    second = site.call("alice", "GET", f"{VECTORS}?limit=1&after=a-1").json()
    assert (second["last_id"], second["has_more"]) == ("a-2", False)
    # What follows is hidden: nothing more.
    for after in ("a-2", "b-1", "aa"):
        page = site.call("alice", "GET", f"{VECTORS}?limit=1&after={after}").json()
        assert (page["data"], page["has_more"], page["last_id"]) == ([], False, None)


def test_an_inspection_compares_with_what_may_be_seen(lasting: Site) -> None:
    site = lasting
    found = site.call("alice", "GET", f"{VECTORS}/a-1/inspect").json()
    assert found["similarity"]["vectors"] == ["a-2"]
    assert found["not_compared"] == 0
    assert [s["id"] for s in found["tensors"][0]["similar"]] == ["a-2"]


def test_a_name_outside_the_patterns_is_refused_whether_it_is_taken(site: Site) -> None:
    said = set()
    for name in ("b-1", "b-9"):
        for data in (content(seed_of(name)), content(77), b"", b"junk"):
            answer = site.upload("alice", data, name)
            if len(data) > 10:
                assert answer.status_code == 403
                assert answer.json()["error"]["code"] == "name_not_allowed"
                said.add(answer.text.replace(name, "NAME"))
    assert len(said) == 1
    # The name in the file counts where none is sent.
    assert site.upload("alice", content(5, name="b-3")).status_code == 403
    assert site.upload("alice", content(5, name="b-3"), "a-3").status_code == 201
    assert "b-3" not in site.names("boss")


@pytest.mark.parametrize("length", [12, 13, 63, 64])
def test_content_of_hidden_names_cannot_be_taken_by_its_digest(site: Site, length: int) -> None:
    def swap(who: str, wanted: str) -> Any:
        path = f"{VECTORS}/{'a-1' if who == 'alice' else 'b-1'}"
        return site.call(who, "PATCH", path, json={"digest": wanted})

    hidden, nothing = digest("b-1").removeprefix("sha256:")[:length], "f" * length
    refused, absent = swap("alice", hidden), swap("alice", nothing)
    assert refused.status_code == absent.status_code == 404
    assert refused.text.replace(hidden, "D") == absent.text.replace(nothing, "D")
    own = digest("a-2").removeprefix("sha256:")[:length]
    assert swap("alice", own).json()["digest"] == digest("a-2")
    # Versions of before are still the name's own.
    back = digest("a-1").removeprefix("sha256:")[:length]
    assert swap("alice", back).json()["digest"] == digest("a-1")


def test_a_deleted_vectors_content_is_nobodys(site: Site) -> None:
    assert site.call("bob", "DELETE", f"{VECTORS}/b-1").status_code == 200
    for who, name in (("alice", "a-1"), ("bob", "b-2")):
        answer = site.call(who, "PATCH", f"{VECTORS}/{name}", json={"digest": digest("b-1")})
        assert answer.status_code == 404


def pools() -> list[str]:
    """Ids to ask for: there, hidden, absent, of a version, and no ids at all."""
    versions = [f"{name}@{digest(name)[7:19]}" for name in ("a-1", "b-1", "aa")]
    return [
        "a-1",
        "a-2",
        "a-9",
        *HIDDEN_NAMES,
        "b-9",
        *versions,
        "b-1@" + "0" * 12,
        "a b",
        "@",
        "é",
    ]


def step(dice: random.Random) -> Callable[[Site], Any]:
    """One call, any."""
    name, other = dice.choice(pools()), dice.choice(pools())
    wanted = dice.choice([digest("b-1"), digest("a-1"), digest("aa")[7:19], "0" * 64, "junk"])
    patch = dice.choice([{"digest": wanted}, {"coefficient": 1.5}, {"description": "d"}, {}])
    query = f"?limit={dice.choice([1, 2, 1000])}&after={dice.choice(['', 'a', 'a-1', 'b-1', 'z'])}"
    data = content(dice.randrange(900, 905))
    field: Any = {"vectors": {name: 1.0, other: -1.0}}
    pairs = [["good day", "bad day"], ["good sun", "bad sun"]]
    taken = dice.choice(["a-1", *HIDDEN_NAMES, "b-9"])
    job = {"method": "mean_difference", "name": taken, "pairs": pairs}
    return dice.choice([
        lambda s: s.call("alice", "GET", f"{VECTORS}/{name}"),
        lambda s: s.call("alice", "GET", f"{VECTORS}/{name}/content"),
        lambda s: s.call("alice", "GET", f"{VECTORS}/{name}/inspect"),
        lambda s: s.call("alice", "PATCH", f"{VECTORS}/{name}", json=patch),
        lambda s: s.call("alice", "DELETE", f"{VECTORS}/{name}"),
        lambda s: s.call("alice", "GET", f"{VECTORS}{query}"),
        lambda s: s.upload("alice", data, name),
        lambda s: s.steer("alice", field),
        lambda s: s.call("alice", "POST", f"{VECTORS}/extract", json=job),
        lambda s: s.call("alice", "GET", JOBS),
        lambda s: s.call("alice", "GET", "/v1/steering/capabilities"),
    ])  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_nothing_that_is_hidden_changes_any_answer(tmp_path: Path, seed: int) -> None:
    """The same calls to two servers, of which one has vectors that the caller may not see."""
    keys = keys_file(tmp_path)
    full, bare = (Site(tmp_path / which, keys) for which in ("full", "bare"))
    for site in (full, bare):
        fill(site, ["a-1", "a-2"])
    fill(full, HIDDEN_NAMES)
    dice = random.Random(seed)
    for n in range(40):
        ask = step(dice)
        one, two = ask(full), ask(bare)
        if "/extract" in str(one.request.url) and one.status_code == 202:
            continue
        texts = [TIMES.sub("", answer.text) for answer in (one, two)]
        assert texts[0] == texts[1], (n, one.request)
        assert one.status_code == two.status_code
        assert one.headers.get("etag") == two.headers.get("etag")
    assert set(HIDDEN_NAMES) <= set(full.names("boss"))


WORDS = ["a", "a-1", "a-b", "A-1", "b", "b-1", "ab", "a.1", "a_1", "team-a-x", "team-b"]
PATTERNS = [
    "a*",
    "a-*",
    "[ab]",
    "?",
    "*",
    "a-?",
    "[!a]*",
    "team-a-*",
    "*-1",
    "",
    "**",
    "A*",
    "[",
    "a",
]


@pytest.mark.parametrize("seed", range(20))
def test_any_patterns_over_any_names(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    library = Library(tmp_path)
    there = dice.sample(WORDS, 7)
    for name in there:
        library.add(content(len(name)), name)
    who = permissions(vectors=tuple(dice.sample(PATTERNS, 2)))
    view = LibraryView(library, who, 100)
    seen = [entry.name for entry in view.list()]
    assert seen == sorted(name for name in there if who.sees(name))
    paged: list[str] = []
    while True:
        page, more = view.page(paged[-1] if paged else None, 2)
        paged += [entry.name for entry in page]
        if not more:
            break
    assert paged == seen
    for name in WORDS:
        if name in seen:
            assert view.resolve(name).name == name
            continue
        for call in (view.resolve, view.delete, lambda n: view.update(n, description="x")):
            with pytest.raises(SteersmanError) as refusal:
                call(name)
            with pytest.raises(SteersmanError) as absent:
                LibraryView(Library(tmp_path / "empty"), who, 100).resolve(name)
            assert type(refusal.value) is type(absent.value)
            assert vars(refusal.value) == vars(absent.value)
    assert library.count() == len(there)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("team-a-*", ["team-a-", "team-a-x"], ["team-a", "Team-a-x", "team-b-x", "xteam-a-x"]),
        ("a?", ["ab", "a."], ["a", "abc"]), ("[ab]*", ["a", "bx"], ["c", "-a"]),
        ("a.b", ["a.b"], ["axb"]), ("*", ["x", "x.y-z"], []), ("", [], ["x"]),
    ],
)  # fmt: skip
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    who = KeyPermissions("x", frozenset(), (pattern,))
    assert all(map(who.sees, yes))
    assert not any(map(who.sees, no))
