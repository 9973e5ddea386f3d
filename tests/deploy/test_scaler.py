"""The autoscaler: what it asks for, when, and that it goes together with what it scales."""

import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.expressions import SCALER, as_rules, told_by_promtool, triggers, write_rules
from tests.deploy.promql import Matcher, reads
from tests.deploy.rendered import render
from tests.deploy.tools import DEPLOY, kustomizes

SPEC = yaml.safe_load(SCALER.read_text())["spec"]
THRESHOLD = {t["name"]: float(t["metadata"]["threshold"]) for t in SPEC["triggers"]}
BEHAVIOR = SPEC["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
TARGET = 'job="steersman", namespace="steersman"'
ON = ["overlays/cpu-demo", "overlays/gpu", "overlays/gpu + overlays/monitoring"]
KUSTOMIZES = pytest.mark.parametrize("command", kustomizes().values(), ids=kustomizes())


@KUSTOMIZES
@pytest.mark.parametrize("on", ON)
def test_it_goes_on_top(on: str, command: list[str]) -> None:
    found = {r["kind"]: r for r in render(f"{on} + overlays/autoscale", command)}
    target = found["Deployment"]
    assert found["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == target["metadata"]["name"]
    assert "replicas" not in target["spec"], "kubectl apply would undo what the autoscaler did"


@KUSTOMIZES
def test_a_prefix_reaches_the_target(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "deploy").symlink_to(DEPLOY)
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../deploy/overlays/gpu"],
        "components": ["../deploy/overlays/autoscale"],
        "namePrefix": "my-",
    }
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    said = subprocess.run([*command, str(mine)], capture_output=True, timeout=120, check=True)
    found = {r["kind"]: r for r in yaml.safe_load_all(said.stdout)}
    assert found["Deployment"]["metadata"]["name"] == "my-steersman"
    assert found["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == "my-steersman"


@pytest.mark.parametrize("trigger", SPEC["triggers"], ids=lambda trigger: trigger["name"])
def test_each_trigger_is_a_sum_to_be_divided(trigger: dict[str, Any]) -> None:
    """KEDA's fallback and the arithmetic below hold for AverageValue alone."""
    assert trigger["type"] == "prometheus"
    assert trigger["metricType"] == "AverageValue"
    metadata = trigger["metadata"]
    assert all(isinstance(value, str) for value in metadata.values()), "KEDA takes strings only"
    assert metadata["query"].startswith("sum(")
    assert metadata["ignoreNullValues"] == "false", "no answer would count as nothing to do"


def test_only_this_deployment_counts() -> None:
    for trigger in triggers():
        for selector in reads(trigger.text).selectors:
            assert Matcher("job", "=", "steersman") in selector.matchers, trigger.where
            assert Matcher("namespace", "=", "steersman") in selector.matchers, trigger.where


def test_it_scales_on_what_it_should() -> None:
    names = {selector.name for t in triggers() for selector in reads(t.text).selectors}
    assert {
        "vllm:num_requests_waiting", "steering_bank_rows_used", "steering_bank_rows_total",
    } <= names  # fmt: skip


def each(metric: str, *values: float, **labels: str) -> dict[str, float]:
    """Series of `metric`, one a replica."""
    more = "".join(f', {label}="{value}"' for label, value in labels.items())
    return {f'{metric}{{{TARGET}, instance="r{n}"{more}}}': v for n, v in enumerate(values)}


BANK = "steering_bank_rows_used", "steering_bank_rows_total"
CACHE, WAITING = "vllm:kv_cache_usage_perc", "vllm:num_requests_waiting"


@pytest.mark.parametrize(
    ("trigger", "series", "sum_of_all", "wanted"),
    [
        # Two replicas with three waiting each are enough; with five each a third is asked for.
        ("requests-waiting", each(WAITING, 3, 3, engine="0"), 6, 2),
        ("requests-waiting", each(WAITING, 5, 5, engine="0"), 10, 3),
        # Data parallel: every engine has a queue.
        ("requests-waiting", each(WAITING, 5, engine="0") | each(WAITING, 5, engine="1"), 10, 3),
        ("requests-waiting", each(WAITING, 0, 0, engine="0"), 0, 0),
        # Another server's queue in the same cluster.
        ("requests-waiting", each(WAITING, 0) | {'vllm:num_requests_waiting{job="x"}': 90}, 0, 0),
        ("bank-pressure", each(BANK[0], 32, 48) | each(BANK[1], 64, 64), 1.25, 2),
        ("bank-pressure", each(BANK[0], 60, 60) | each(BANK[1], 64, 64), 1.875, 3),
        # Requests that wait for rows count too.
        ("bank-pressure", each(BANK[0], 128) | each(BANK[1], 64), 2, 3),
        # Engines of one replica share its weight.
        ("cache-usage", each(CACHE, 0.5, 0.5, engine="0"), 1, 2),
        ("cache-usage", each(CACHE, 0.9, engine="0") | each(CACHE, 0.3, engine="1"), 0.6, 1),
        ("cache-usage", each(CACHE, 0.9, 0.9, 0.9, engine="0"), 2.7, 4),
    ],
)
def test_how_many_are_asked_for(
    trigger: str, series: dict[str, float], sum_of_all: float, wanted: int, tmp_path: Path
) -> None:
    """The autoscaler asks for the sum over the threshold, rounded up."""
    query = next(t.text for t in triggers() if t.where == f"trigger {trigger}")
    write_rules(tmp_path, as_rules([]))
    asked = {
        "eval_time": "5m",
        "expr": f"round({query}, 0.001)",
        "exp_samples": [{"labels": "{}", "value": sum_of_all}],
    }
    case = {
        "rule_files": ["rules.yaml"],
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": s, "values": f"{v}x30"} for s, v in series.items()],
                "promql_expr_test": [asked],
            }
        ],
    }
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case))
    status, said = told_by_promtool("test", "rules", "case.yaml", cwd=tmp_path)
    assert status == 0, said
    assert math.ceil(sum_of_all / THRESHOLD[trigger]) == wanted


def test_a_burst_of_seconds_starts_nobody() -> None:
    """Every gauge that comes and goes is averaged over more than one scrape."""
    for trigger in triggers():
        assert "avg_over_time(" in trigger.text, trigger.where
        assert "[1m]" in trigger.text, trigger.where


def test_limits_and_times_agree() -> None:
    assert 1 < SPEC["minReplicaCount"] < SPEC["maxReplicaCount"]
    fallback = SPEC["fallback"]
    assert SPEC["minReplicaCount"] <= fallback["replicas"] <= SPEC["maxReplicaCount"]
    assert fallback["behavior"] == "currentReplicasIfHigher"
    # Nobody is stopped sooner than another could have started.
    pod = yaml.safe_load((DEPLOY / "base" / "deployment.yaml").read_text())["spec"]["template"]
    probe = pod["spec"]["containers"][0]["startupProbe"]
    start = probe["periodSeconds"] * probe["failureThreshold"]
    assert SPEC["cooldownPeriod"] >= start
    assert BEHAVIOR["scaleDown"]["stabilizationWindowSeconds"] >= start
    assert BEHAVIOR["scaleUp"]["stabilizationWindowSeconds"] < 120
    # One at a time, and each has gone before the next goes.
    (policy,) = BEHAVIOR["scaleDown"]["policies"]
    assert policy["value"] == 1
    assert policy["periodSeconds"] > pod["spec"]["terminationGracePeriodSeconds"]


def test_it_acts_before_the_alert() -> None:
    assert THRESHOLD["bank-pressure"] < 0.9
    assert THRESHOLD["cache-usage"] < 0.9
