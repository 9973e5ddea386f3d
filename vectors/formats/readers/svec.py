"""`.svec`, the JSON of IBM's activation-steering (`SteeringVector.save`).

`{"model_type": text, "directions": {"N": [numbers]}, "explained_variances": {"N": number}}`.
"""

import json
import math
from pathlib import Path
from typing import Any, Final

import torch

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.operation import check_operations
from steersman.vectors.formats.conventions import ACTIVATION_STEERING
from steersman.vectors.formats.imported import (
    ImportedFile,
    ImportedTensor,
    imported_tensor,
    layer_number,
)

_NUMBERS: Final = ("directions", "explained_variances")


def read_svec(path: Path) -> ImportedFile:
    """Read a `.svec` file; raises `VectorInvalid`."""
    try:
        data = json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise VectorInvalid(
            f"this is not a whole JSON file ({shown(str(error))}), as .svec files are",
            param="file",
            code="not_svec",
        ) from error
    directions = data.get("directions") if isinstance(data, dict) else None
    if not isinstance(directions, dict) or not directions:
        raise VectorInvalid(
            'this JSON file is not a .svec: it has no object "directions" of layers and vectors',
            param="directions",
            code="not_svec",
        )
    check_operations({key: value for key, value in data.items() if key not in _NUMBERS})
    details = {"model_type": data.get("model_type"), "explained_variances": _variances(data)}
    return ImportedFile(
        ACTIVATION_STEERING,
        tuple(_part(number, values) for number, values in directions.items()),
        {key: value for key, value in details.items() if value},
    )


def _part(number: str, values: object) -> ImportedTensor:
    name = f"directions.{number}"
    try:
        # float64, as JSON has it; `part` rounds to float32, from which these were written.
        tensor = torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise VectorInvalid(
            f"tensor {shown(name)} is not a list of numbers", param=name[:128], code="bad_tensor"
        ) from error
    return imported_tensor(layer_number(name, number), name, tensor)


def _variances(data: dict[str, Any]) -> dict[str, float]:
    given = data.get("explained_variances")
    if not isinstance(given, dict):
        return {}
    return {
        number: float(value)
        for number, value in given.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
