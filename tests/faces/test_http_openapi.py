"""The OpenAPI description: valid, and true in what can be compared with the code."""

import json
import re
from importlib.resources import files
from typing import Any

import pytest
from openapi_spec_validator import validate
from paths import ROOT

from kdht.client import MAX_LARGE
from kdht.faces.http import answers, members, target
from kdht.faces.http.caller_memory import CallerMemory
from kdht.faces.http.face import _routes
from kdht.wire.limits import MAX_TTL
from kdht.wire.sets import MAX_MEMBER_TTL, MAX_MEMBERS, MAX_PAYLOAD

DESCRIPTION: dict[str, Any] = json.loads(files("kdht.faces.http").joinpath("openapi.json").read_text())
COMPONENTS = DESCRIPTION["components"]


def parameters(operation: dict[str, Any], path: dict[str, Any], where: str) -> set[str]:
    named = [
        each["$ref"].rpartition("/")[2] for each in (*operation.get("parameters", []), *path["parameters"])
    ]
    return {found["name"] for name in named if (found := COMPONENTS["parameters"][name])["in"] == where}


def test_it_is_valid() -> None:
    validate(DESCRIPTION)


@pytest.mark.parametrize("room", ["kv", "sets"])
def test_it_has_all_methods_and_parameters(room: str) -> None:
    route = _routes(CallerMemory())[room]
    path = DESCRIPTION["paths"][f"/{room}/{{name}}"]
    assert {method.upper() for method in path if method != "parameters"} == set(route.handlers)
    operations = [path[method.lower()] for method in route.handlers]
    assert set().union(*(parameters(each, path, "query") for each in operations)) == {
        "scope",
        *route.parameters,
    }


def test_its_bounds_are_those_of_the_code() -> None:
    known = COMPONENTS["parameters"]
    assert known["name"]["schema"]["maxLength"] == target.MAX_NAME
    assert known["TTL"]["schema"]["maximum"] == MAX_TTL
    assert known["memberTTL"]["schema"]["maximum"] == MAX_MEMBER_TTL
    assert known["memberTTL"]["schema"]["default"] == members.DEFAULT_TTL
    assert COMPONENTS["schemas"]["Members"]["properties"]["members"]["maxItems"] == MAX_MEMBERS

    def body(room: str) -> int:
        put = DESCRIPTION["paths"][f"/{room}/{{name}}"]["put"]
        return put["requestBody"]["content"][answers.BYTES]["schema"]["maxLength"]

    assert (body("kv"), body("sets")) == (MAX_LARGE, MAX_PAYLOAD)


def test_every_status_that_an_error_becomes_is_described() -> None:
    described = {
        int(status)
        for path in DESCRIPTION["paths"].values()
        for name, operation in path.items()
        if name != "parameters"
        for status in operation["responses"]
    }
    kinds = {status for _, status, _ in answers._OF_KIND} | {
        status for status, _ in answers._OF_STATUS.values()
    }
    assert kinds <= described


def test_every_code_is_in_the_document() -> None:
    document = (ROOT / "docs/faces.md").read_text()
    told = {code for *_, code in answers._OF_KIND} | {code for _, code in answers._OF_STATUS.values()}
    for source in sorted((ROOT / "kdht/faces/http").glob("*.py")):
        told |= set(re.findall(r'(?:refused|problem)\(\s*\d{3}, "(\w+)"', source.read_text()))
    assert {code for code in told if f"`{code}`" not in document} == set()
