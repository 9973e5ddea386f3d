"""schemathesis on the routes of this project, with the key of every scope: no 5xx, and all answers
are as the OpenAPI document says.

Not on vLLM's routes that steer (chat, completions, responses): their answers to hostile fields are
vLLM's. Of those `tests/http/test_bad_requests.py` asks what the field `steering` may do wrong.
"""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from bench.servers import Server

pytestmark = pytest.mark.engine
EXAMPLES = os.environ.get("STEERSMAN_SCHEMA_EXAMPLES", "8")
"""Of each route and key; `make schema` asks for 200."""


@pytest.mark.parametrize("name", ["admin", "infer", "read", "write", "team", "nobody"])
def test_the_projects_own_routes(servers: tuple[Server, Server], tmp_path: Path, name: str) -> None:
    # Beside a keys file the document needs a key; what it says is asked of everybody.
    document = tmp_path / "openapi.json"
    key = {"Authorization": "Bearer sk-admin"}
    document.write_bytes(httpx.get(f"{servers[0].url}/openapi.json", headers=key).content)
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("run", str(document), "--url", servers[0].url),
        *("--include-path-regex", "^/(v1/steering/|ready)"),
        *("--header", f"Authorization: Bearer sk-{name}"),
        *("--checks", "not_a_server_error,status_code_conformance"),
        *("--checks", "content_type_conformance,response_schema_conformance"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES),
        *("--seed", "1", "--request-timeout", "60", "--no-color"),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=3000
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert "Test cases" in done.stdout, done.stdout[-2000:]
