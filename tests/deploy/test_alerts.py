"""Every alert: whole, true to the deployment, firing when it should and only then."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.expressions import OVERLAYS, dashboard, groups, told_by_promtool, write_rules
from tests.deploy.promql import Matcher, reads

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("test_alerts_*.yaml"))
ALERTS = [rule for group in groups() for rule in group["rules"] if "alert" in rule]
BASE = OVERLAYS.parent / "base" / "deployment.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the rules as Prometheus takes them, and all cases."""
    write_rules(tmp_path, groups())
    for case in CASES:
        shutil.copy(case, tmp_path)
    return tmp_path


def test_promtool_has_nothing_against_the_rules(folder: Path) -> None:
    status, said = told_by_promtool(
        "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml", cwd=folder
    )
    assert status == 0, said


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_alerts_fire_when_they_should(folder: Path, case: Path) -> None:
    status, said = told_by_promtool("test", "rules", case.name, cwd=folder)
    assert status == 0, said


def firing(alert: str) -> list[list[dict[str, Any]]]:
    """For each time that the cases ask whether `alert` fires: the samples that they expect."""
    found = []
    for case in CASES:
        for test in yaml.safe_load(case.read_text())["tests"]:
            for asked in test["promql_expr_test"]:
                if f'ALERTS{{alertname="{alert}"' in asked["expr"]:
                    found.append(asked.get("exp_samples", []))
    return found


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_is_seen_to_fire_and_to_keep_still(rule: dict[str, Any]) -> None:
    expected = firing(rule["alert"])
    assert any(expected), "no case in which it fires"
    assert not all(expected), "no case in which it does not"


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert all(text.strip() for text in rule["annotations"].values())
    assert len(rule["annotations"]["summary"]) < 130


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_texts_use_labels_that_the_alert_has(rule: dict[str, Any]) -> None:
    """A label that is not there is an empty word, which no tool complains of."""
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    samples = [sample for asked in firing(rule["alert"]) for sample in asked]
    had = [{m.label for m in _matchers(sample["labels"])} for sample in samples]
    assert any(named <= labels for labels in had), (named, had)


def _matchers(series: str) -> tuple[Matcher, ...]:
    (selector,) = reads(series).selectors
    return selector.matchers


def test_panels_that_texts_send_to_are_there() -> None:
    texts = " ".join(" ".join(rule["annotations"].values()) for rule in ALERTS)
    named = set(re.findall(r'panel\s+"([^"]+)"', texts, re.IGNORECASE))
    assert named
    assert named <= {panel["title"] for panel in dashboard()["panels"]}


def test_options_that_texts_advise_are_there() -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from steersman.client.launch.options import own_parser

    kubectl = {"--previous", "--force"}
    texts = " ".join(" ".join(rule["annotations"].values()) for rule in ALERTS)
    named = set(re.findall(r"--[a-z][a-z-]+", texts)) - kubectl
    assert named
    theirs = make_arg_parser(FlexibleArgumentParser())
    known = {*theirs._option_string_actions, *own_parser()._option_string_actions}
    assert named <= known


def alert(name: str) -> dict[str, Any]:
    return next(rule for rule in ALERTS if rule["alert"] == name)


def minutes(text: str) -> int:
    return int(text.removesuffix("m"))


def test_times_fit_the_deployment() -> None:
    """A replica that starts, or goes, as long as it may is no alarm."""
    pod = yaml.safe_load(BASE.read_text())["spec"]["template"]["spec"]
    probe = pod["containers"][0]["startupProbe"]
    start = probe["periodSeconds"] * probe["failureThreshold"]
    assert minutes(alert("SteersmanReplicaNotReady")["for"]) * 60 > start
    going = minutes(alert("SteersmanDrainingTooLong")["for"]) * 60
    assert going > pod["terminationGracePeriodSeconds"]
