"""Make the demo vectors anew through a running server's own API, twice, and compare the bytes.

    python -m tools.demo.extract --server URL [--prefix api-]

Each is extracted from its contrast texts with its read, layers and unit dose; then its measured
defaults are set. Made one text at a time, so that both makings give the same bytes. Afterwards

    python -m tools.demo.vectors --server URL --prefix api-

checks what they do. Prints one JSON object last; exit status 1 if the bytes differ.
"""

import argparse
import hashlib
import json
import sys
import time
from typing import Any

import httpx

from bench.report import say
from bench.steering_api import ask, extract
from steersman.vectors.demo.activations import QUESTION
from steersman.vectors.demo.contrast import Contrast, contrasts
from steersman.vectors.demo.defaults import DemoDefaults, load_defaults
from steersman.vectors.demo.make import CREATED_AT, LAYERS


def make(http: httpx.Client, name: str, contrast: Contrast, defaults: DemoDefaults) -> bytes:
    """Make the vector `name`, set its defaults, and return its file. A vector with that name is
    deleted first."""
    http.delete(f"/v1/steering/vectors/{name}")
    request = {
        "method": "mean_difference",
        "name": name,
        "description": contrast.description,
        "positive": contrast.positive,
        "negative": contrast.negative,
        "prompt": QUESTION,
        "tokens": defaults.read,
        "layers": LAYERS,
        "unit_dose": defaults.unit_dose,
        "licence": "Apache-2.0",
        "created_at": CREATED_AT,
        "reproducible": True,
    }
    extract(http, request)
    low, high = defaults.safe_range
    patch = {
        "coefficient": defaults.coefficient,
        "layers": defaults.layers,
        "safe_range": [low, high],
    }
    ask(http, "PATCH", f"/v1/steering/vectors/{name}", json=patch)
    return http.get(f"/v1/steering/vectors/{name}/content").content


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", required=True, metavar="URL")
    parser.add_argument("--prefix", default="api-", help="of the vectors' names")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with httpx.Client(base_url=args.server, timeout=300, trust_env=False) as http:
        for name, defaults in load_defaults().items():
            began = time.monotonic()
            files = [
                make(http, f"{args.prefix}{name}", contrasts()[name], defaults) for _ in range(2)
            ]
            found[name] = {
                "sha256": hashlib.sha256(files[1]).hexdigest(),
                "same_twice": files[0] == files[1],
                "seconds": round((time.monotonic() - began) / 2, 1),
            }
            say(f"{name}: {found[name]}")
    print(json.dumps(found))
    return 0 if all(one["same_twice"] for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
