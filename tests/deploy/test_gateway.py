"""The HTTPRoute of docs/presets.md: the Gateway API takes it, and it leads to what deploy/ has."""

import copy
import re
from typing import Any

import pytest
import yaml

from tests.deploy.rendered import Resource, resources, workloads
from tests.deploy.schemas import VERSIONS, problems
from tests.deploy.tools import ROOT

PAGE = ROOT / "docs" / "presets.md"


@pytest.fixture
def route() -> Resource:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if "kind: HTTPRoute" in block]
    made: Resource = yaml.safe_load(found)
    return made


def test_the_gateway_api_takes_it(route: Resource) -> None:
    assert problems([route], VERSIONS[0]) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec/rules/0/matches/0/headers/0/type", "Pattern"),
        ("spec/rules/0/matches/0/headers/0/name", "no header"),
        ("spec/rules/0/matches/0/headers/0/values", ["model"]),
        ("spec/rules/0/backendRefs/0/port", "8000"),
        ("spec/rules/0/timeouts/request", "600 seconds"),
        ("spec/parentRef", []),
    ],
)
def test_what_is_wrong_is_found(route: Resource, path: str, value: Any) -> None:
    wrong: Any = copy.deepcopy(route)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    target = wrong
    for part in parents:
        target = target[part]
    target[last] = value
    assert problems([wrong], VERSIONS[0])


def test_it_leads_to_the_service_by_the_served_name_and_what_is_behind_its_colon(
    route: Resource,
) -> None:
    (rule,) = route["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    services = {r["metadata"]["name"]: r for r in resources("base") if r["kind"] == "Service"}
    ports = [port["port"] for port in services[backend["name"]]["spec"]["ports"]]
    assert backend["port"] in ports
    ((_, arguments),) = [server for load in workloads("base") for server in load.servers]
    option = "--served-model-name="
    (served,) = [one.removeprefix(option) for one in arguments if one.startswith(option)]
    (match,) = rule["matches"]
    (header,) = match["headers"]
    assert header["type"] == "RegularExpression"
    for name in (served, f"{served}:sunny", f"{served}:cheerful@1.5,formal@-0.5"):
        assert re.fullmatch(header["value"], name)
    for name in (f"{served}s", f"other-{served}", f"other:{served}", ""):
        assert not re.fullmatch(header["value"], name)
