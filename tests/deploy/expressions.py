"""All PromQL of the overlays (rules, dashboard, scaler), and promtool, who reads it."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import DEPLOY, tool

OVERLAYS = DEPLOY / "overlays"
RULES = OVERLAYS / "monitoring" / "prometheusrule.yaml"
DASHBOARD = OVERLAYS / "monitoring" / "steersman.json"
SCALER = OVERLAYS / "autoscale" / "scaledobject.yaml"
KUBERNETES = "steersman.kubernetes"
"""The group of rules about metrics that are not our server's."""

ELSEWHERE = {
    "up": "Prometheus writes it for every target",
    "ALERTS": "Prometheus writes it for every alert",
    "kube_pod_container_status_restarts_total": "kube-state-metrics: restarts before any scrape",
    "kube_deployment_status_replicas_available": "kube-state-metrics: pods that never started",
    "kube_deployment_spec_replicas": "kube-state-metrics: how many there should be",
    "kube_horizontalpodautoscaler_status_desired_replicas": "kube-state-metrics: KEDA's autoscaler",
    "kube_horizontalpodautoscaler_spec_max_replicas": "kube-state-metrics: KEDA's autoscaler",
    "kubelet_volume_stats_available_bytes": "the kubelet: room on the library volume",
    "kubelet_volume_stats_capacity_bytes": "the kubelet: size of the library volume",
}
"""Metrics that no scrape of our server has, each with who has it and what it is needed for."""

TARGET_LABELS = frozenset({"job", "namespace", "instance"})
"""Labels that our expressions use and Prometheus adds, by servicemonitor.yaml."""

_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), *(?P<label>\w+)\)")


@dataclass(frozen=True)
class Expression:
    where: str
    text: str
    """PromQL, with values in place of Grafana's variables."""
    group: str = ""
    records: str | None = None
    alert: str | None = None


def groups() -> list[dict[str, Any]]:
    """Groups of rules, as Prometheus has them."""
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    return found


def rules() -> list[Expression]:
    return [
        Expression(
            f"{group['name']}: {rule.get('alert') or rule['record']}",
            rule["expr"],
            group["name"],
            rule.get("record"),
            rule.get("alert"),
        )
        for group in groups()
        for rule in group["rules"]
    ]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[Expression]:
    return [
        Expression(f"panel {panel['title']}: {target['refId']}", _plain(target["expr"]))
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    ]


def variables() -> list[Expression]:
    """What the dashboard's variables and annotations ask."""
    board = dashboard()
    found = []
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            asked = _LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert asked is not None, variable["query"]
            # The label has to be one of the metric's, as with a grouping.
            text = f"count by ({asked['label']}) ({_plain(asked['selector'])})"
            found.append(Expression(f"variable {variable['name']}", text))
    for annotation in board["annotations"]["list"]:
        found.append(Expression(f"annotation {annotation['name']}", _plain(annotation["expr"])))
    return found


def triggers() -> list[Expression]:
    spec = yaml.safe_load(SCALER.read_text())["spec"]
    return [
        Expression(f"trigger {trigger['name']}", trigger["metadata"]["query"])
        for trigger in spec["triggers"]
    ]


def everything() -> list[Expression]:
    return [*rules(), *panels(), *variables(), *triggers()]


def recorded() -> frozenset[str]:
    """Names of recording rules."""
    return frozenset(rule.records for rule in rules() if rule.records)


def _plain(text: str) -> str:
    return text.replace("$__rate_interval", "5m")


def told_by_promtool(*arguments: str, cwd: Path) -> tuple[int, str]:
    """Exit status and all that it said."""
    done = subprocess.run(
        [str(tool("promtool")), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def write_rules(folder: Path, content: list[dict[str, Any]]) -> Path:
    """`content`, groups of rules, as a file that promtool reads."""
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": content}, sort_keys=False))
    return path


def as_rules(expressions: Iterator[Expression] | list[Expression]) -> list[dict[str, Any]]:
    """Each expression as a recording rule, so that promtool parses it."""
    each = [{"record": f"e:{n}", "expr": e.text} for n, e in enumerate(expressions)]
    return [{"name": "expressions", "rules": each}]
