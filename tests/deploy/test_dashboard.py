"""The dashboard's structure: what Grafana would refuse, or show wrongly, without a word."""

from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from tests.deploy.expressions import dashboard, rules
from tests.deploy.promql import Matcher, reads

BOARD = dashboard()
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
ROWS = [panel for panel in BOARD["panels"] if panel["type"] == "row"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def test_it_is_about_what_it_should_be() -> None:
    assert [row["title"] for row in ROWS] == [
        "Now", "Traffic", "Latency", "Steering", "Queue and cache", "Keys", "Replicas",
    ]  # fmt: skip
    # Grafana makes room for the next import's version of a dashboard by its uid, never by its id.
    assert "id" not in BOARD
    assert BOARD["uid"] == "steersman"
    assert BOARD["schemaVersion"] >= 36, "before, data sources were named and not referred to"


def test_ids_and_titles_are_unique() -> None:
    for key in ("id", "title"):
        counted = Counter(panel[key] for panel in BOARD["panels"])
        assert not [value for value, times in counted.items() if times > 1]


def test_panels_do_not_overlap() -> None:
    for one, other in combinations(BOARD["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (one["title"], other["title"])


@pytest.mark.parametrize("panel", BOARD["panels"], ids=lambda panel: panel["title"])
def test_panels_lie_on_the_grid(panel: dict[str, Any]) -> None:
    at = panel["gridPos"]
    assert set(at) == {"x", "y", "w", "h"}
    assert at["x"] >= 0
    assert at["w"] > 0
    assert at["h"] > 0
    assert at["x"] + at["w"] <= WIDTH


def test_rows_stand_above_their_panels_in_the_file_too() -> None:
    """Grafana folds up what follows a row in the list."""
    tops = [panel["gridPos"]["y"] for panel in BOARD["panels"]]
    assert tops == sorted(tops)
    assert all(row["panels"] == [] and not row["collapsed"] for row in ROWS)


@each_panel
def test_every_panel_asks_the_chosen_data_source(panel: dict[str, Any]) -> None:
    assert panel["datasource"] == SOURCE
    assert panel["targets"]
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)
    for target in panel["targets"]:
        assert target["datasource"] == SOURCE
        assert target["expr"].strip()
        assert target["range"] != target["instant"]


@each_panel
def test_every_panel_is_explained_and_has_a_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]


@each_panel
def test_every_panel_heeds_the_variables(panel: dict[str, Any]) -> None:
    """Namespace and replica everywhere; the model wherever the metric has it."""
    chosen = [Matcher("namespace", "=~", "$namespace"), Matcher("instance", "=~", "$instance")]
    model = Matcher("model_name", "=~", "$model")
    for target in panel["targets"]:
        for selector in reads(target["expr"].replace("$__rate_interval", "5m")).selectors:
            assert set(chosen) <= set(selector.matchers)
            assert (model in selector.matchers) == selector.name.startswith("vllm:")


@each_panel
def test_several_lines_have_names(panel: dict[str, Any]) -> None:
    if panel["type"] == "timeseries":
        assert all(target["legendFormat"] for target in panel["targets"])
    names = [target["legendFormat"] for target in panel["targets"]]
    assert len(set(names)) == len(names)
    for override in panel["fieldConfig"]["overrides"]:
        assert override["matcher"]["options"] in names


def test_variables() -> None:
    listed = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert list(listed) == ["datasource", "namespace", "instance", "model"]
    assert (listed["datasource"]["type"], listed["datasource"]["query"]) == (
        "datasource",
        "prometheus",
    )
    for name in ("namespace", "instance", "model"):
        assert listed[name]["datasource"] == SOURCE
        assert listed[name]["multi"]
        # Everything, also what has no such label (a Prometheus outside of Kubernetes).
        assert listed[name]["allValue"] == ".*"


def test_alerts_that_panels_speak_of_exist() -> None:
    texts = " ".join(panel["description"] for panel in PANELS).replace(".", " ").split()
    named = {word for word in texts if word.startswith("Steersman")}
    assert named
    assert named <= {rule.alert for rule in rules()}
