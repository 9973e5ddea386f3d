"""The OpenAPI document and the server agree, both ways."""

import re
from typing import Any

import jsonschema
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.testclient import TestClient

from steersman.server.chat import routes
from steersman.server.chat.field import (
    AnswerRange,
    DynamicComposition,
    PositionRange,
    PropertyComposition,
    SteeringField,
    VectorUse,
)
from steersman.server.chat.when.gates import GateUse
from steersman.server.chat.when.markers import MarkerRule
from steersman.server.extraction.request import ExtractRequest
from steersman.server.library.examples import EXAMPLES
from steersman.server.library.schemas import VectorPatch
from steersman.server.middleware.refuse_ignored import STEERED_PATHS
from steersman.server.openapi import TITLE, describe
from steersman.server.presets.schemas import PresetCreate, PresetPatch
from steersman.steering.plan import PlanInvalid

USE = {"id": "a"}


def one(**fields: Any) -> dict[str, Any]:
    return {"vectors": [{**USE, **fields}]}


FIELDS: list[tuple[Any, bool]] = [
    ({"vectors": {"a": 1.5}}, True),
    ({"vectors": {"a": 1}}, True),
    ({"vectors": {"a": None}}, True),
    ({"vectors": {"a": "1"}}, False),
    ({"vectors": {"a": True}}, False),
    ({"vectors": {}}, False),
    ({"vectors": []}, False),
    ({"vectors": None}, False),
    ({"vectors": "a"}, False),
    ({"vectors": ["a"]}, False),
    ({}, False),
    ([], False),
    ("a", False),
    (one(), True),
    (one(coefficient=2), True),
    (one(coefficient=None), True),
    (one(coefficient=[1]), False),
    (one(scale=2), True),
    (one(scale=None), True),
    (one(scale="2"), False),
    ({"vectors": [{"data": "AAAA"}]}, True),
    (one(data="AAAA"), False),
    (one(data=None), True),
    ({"vectors": [{"id": None, "data": "AAAA"}]}, True),
    ({"vectors": [{"coefficient": 1}]}, False),
    (one(scale=2, coefficient=2), False),
    (one(weight=2), False),
    (one(layers=[1, 2]), True),
    (one(layers=None), True),
    (one(layers=[]), False),
    (one(layers=["1"]), False),
    (one(layers=3), False),
    (one(layers=[1] * 5000), False),
    (one(positions="all"), True),
    (one(positions="some"), False),
    (one(positions={"start": 1, "stop": 2}), True),
    (one(positions={"start": 1}), False),
    (one(positions={"start": 1, "stop": 2, "step": 1}), False),
    (one(schedule="start"), True),
    (one(schedule=[1, 0.5]), True),
    (one(schedule=[]), False),
    (one(schedule=[1] * 5000), False),
    (one(schedule="never"), False),
    (one(schedule="diminishing", over=3), True),
    (one(over=0), False),
    (one(after="hold"), True),
    (one(after="go"), False),
    ({"vectors": [{"id": ""}]}, False),
    ({"vectors": [{"id": 1}]}, False),
    ({"vectors": [{}]}, False),
    ({"vectors": [USE] * 5000}, False),
    ({"vectors": {"a": 1}, "dynamic": None}, True),
    ({"vectors": {"a": 1}, "dynamic": {}}, True),
    ({"vectors": {"a": 1}, "dynamic": {"start": 1, "max": 3, "top_p": 0.5, "kl": "sum"}}, True),
    ({"vectors": {"a": 1}, "dynamic": {"start": -1}}, False),
    ({"vectors": {"a": 1}, "dynamic": {"top_p": 0}}, False),
    ({"vectors": {"a": 1}, "dynamic": {"kl": "max"}}, False),
    ({"vectors": {"a": 1}, "dynamic": True}, False),
    ({"vectors": {"a": 1}, "schedule": "constant", "over": None, "after": "stop"}, True),
    ({"vectors": {"a": 1}, "strength": 1}, False),
]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    app = FastAPI()
    app.include_router(routes.router)
    app.get("/health")(routes.create_completion)
    describe(app, STEERED_PATHS, keys=True)
    said: dict[str, Any] = TestClient(app).get("/openapi.json").json()
    return said


@pytest.mark.parametrize(("field", "valid"), FIELDS)
def test_the_schema_and_the_server_take_the_same(
    document: dict[str, Any], field: Any, valid: bool
) -> None:
    schema = {**document, "$ref": "#/components/schemas/SteeringField"}
    assert jsonschema.Draft202012Validator(schema).is_valid(field) == valid
    try:
        SteeringField.read(field)
        taken = True
    except PlanInvalid:
        taken = False
    assert taken == valid


def test_the_receipt_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert {"steered_tokens", "digest", "relative_dose"} <= set(
        schemas["VectorReceipt"]["properties"]
    )
    for path in STEERED_PATHS:
        said = document["paths"][path]["post"]
        answer = said["responses"]["200"]
        name = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert "Receipt" in str(schemas[name]["properties"]["steering"])
        assert "text/event-stream" in answer["content"]
        assert "Steering-Receipt" in answer["headers"]
        assert "X-Steering" in [parameter["name"] for parameter in said["parameters"]]
        assert {"400", "401", "403", "408", "413", "429", "503"} <= set(said["responses"])


def test_the_server_has_a_name_and_its_routes_a_key(document: dict[str, Any]) -> None:
    assert document["info"]["title"] == TITLE
    (scheme,) = document["components"]["securitySchemes"]
    assert document["paths"]["/v1/completions"]["post"]["security"] == [{scheme: []}]
    assert document["paths"]["/health"]["get"]["security"] == []


def test_every_reference_is_there(document: dict[str, Any]) -> None:
    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(reference := part.get("$ref"), str):
                found: Any = document
                for key in reference.removeprefix("#/").split("/"):
                    found = found[key]
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(document)


@pytest.mark.parametrize(
    "model",
    [
        SteeringField,
        VectorUse,
        PositionRange,
        AnswerRange,
        GateUse,
        MarkerRule,
        DynamicComposition,
        PropertyComposition,
        PresetCreate,
        PresetPatch,
        VectorPatch,
        ExtractRequest,
    ],
)
def test_every_field_has_an_example_that_is_valid(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    examples = EXAMPLES[model.__name__]
    assert examples.keys() == schema["properties"].keys()
    for name, given in examples.items():
        assert given
        for example in given:
            part = {**schema["properties"][name], "$defs": schema.get("$defs", {})}
            jsonschema.validate(example, part)


def test_the_document_has_them(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for title in ("SteeringField", "VectorUse", "DynamicComposition"):
        for name, field in schemas[title]["properties"].items():
            assert field["examples"] == EXAMPLES[title][name]


def test_no_two_schemas_have_one_name(document: dict[str, Any]) -> None:
    """Of two, generators of clients leave out all routes that need one of them."""
    schemas = document["components"]["schemas"]
    titles = [re.sub("[^A-Za-z0-9]", "", x.get("title", k)).lower() for k, x in schemas.items()]
    assert sorted(set(titles)) == sorted(titles)


def test_every_part_of_a_path_is_described(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            known = {x["name"] for x in operation.get("parameters", ()) if x["in"] == "path"}
            assert known == set(re.findall(r"\{([^}]+)\}", path)), path
