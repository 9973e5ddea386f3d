"""Steersman's settings inside vLLM: `--additional-config '{"steersman": {...}}'`.

vLLM carries `additional_config` to every process and into its compile-cache key. `Settings` is the
one definition: the options of `steersman serve`, their checks, the table of docs/settings.md and
the limits of `GET /v1/steering/capabilities` follow from it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from steersman.vectors.library.names import PATTERN
from steersman.vectors.operation import OPERATIONS

MEBI = 2**20


def default_home() -> Path:
    """`$STEERSMAN_HOME`, or `~/.cache/steersman` if that is not set."""
    return Path(os.environ.get("STEERSMAN_HOME") or Path.home() / ".cache" / "steersman")


class Option(NamedTuple):
    """How a setting appears on the command line and in capabilities."""

    metavar: str
    flag: str
    """The option; empty: the setting's name with dashes."""
    limit: bool
    """Whether clients need it: it is among the limits in capabilities, under the option's name."""
    unset: str
    """What None means."""


def setting(
    default: Any,
    what: str,
    metavar: str = "",
    *,
    flag: str = "",
    limit: bool = False,
    unset: str = "",
) -> Any:
    """A field of `Settings` with its default, its help text and its `Option`."""
    extra: Any = {"option": Option(metavar, flag, limit, unset)}
    if callable(default):
        return Field(default_factory=default, description=what, json_schema_extra=extra)
    return Field(default, description=what, json_schema_extra=extra)


Count = Annotated[int, Field(ge=1), "a whole number of at least 1"]
CountOrZero = Annotated[int, Field(ge=0), "a whole number, 0 or more"]
Positive = Annotated[float, Field(gt=0), "a positive number"]
Share = Annotated[float, Field(gt=0, le=1), "above 0 and at most 1"]
_PATH = "a path"
Place = Annotated[str, Field(min_length=1), _PATH]
PresetName = Annotated[str, Field(pattern=rf"^{PATTERN}$"), "the name of a preset"]
Switch = Annotated[bool, "true or false"]
_SITE = "(resid_post|attn_out|mlp_out|resid_mid)"
_OPERATION = f"({'|'.join(OPERATIONS)})"
Sites = Annotated[
    str,
    Field(pattern=f"^{_SITE}(,{_SITE})*$"),
    "names out of resid_post, attn_out, mlp_out and resid_mid, with commas between them",
]


Operations = Annotated[
    str,
    Field(pattern=f"^{_OPERATION}(,{_OPERATION})*$"),
    f"names out of {', '.join(OPERATIONS)}, with commas between them",
]


class Settings(BaseModel):
    """All that an operator can set. Each field is a key of `additional_config["steersman"]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    library: Place = setting(
        lambda: str(default_home() / "library"),
        "directory of the vector library; every worker must be able to read it",
        "DIR",
    )
    bank_rows: Count = setting(
        4096,
        "rows of the vector bank, each one vector at one site and layer",
        "N",
        limit=True,
    )
    sites: Sites | None = setting(
        None,
        "sites to steer at, besides resid_post and its aliases; each costs one operation a layer "
        "in compiled and captured graphs",
        "SITES",
        unset="in graphs the sites of the library's vectors at the start, otherwise all sites",
    )
    operations: Operations | None = setting(
        None,
        "what vectors may do to the stream, besides add; with any of these, compiled and captured "
        "graphs read the whole stream where they steer, so vLLM cannot fuse an all-reduce with the "
        "norm after it",
        "NAMES",
        unset="all; in graphs under tensor parallel, add alone",
    )
    graphs_without_steering: Switch = setting(
        False,
        "capture each full CUDA graph a second time without the operation, for steps in which "
        "nobody steers: twice their memory and time at the start; needs model runner V2, and was "
        "never run on a GPU",
    )
    max_waiting: CountOrZero = setting(
        256,
        "steered requests that may wait in each engine for bank rows, or for table entries of "
        "vectors with steps; the next one is refused with 503",
        "N",
        limit=True,
    )
    load_timeout: Positive = setting(
        30.0,
        "time for a vector to come out of the library into the bank; a request that waits longer "
        "is refused with 503",
        "SECONDS",
    )
    max_terms: Count = setting(
        8, "vectors of one request that may meet at one site and layer", "K", limit=True
    )
    max_vectors: Count = setting(32, "vectors that one request may name", "N", limit=True)
    max_segments: Count = setting(
        4, "stretches of a request with different sets of active vectors", "N", limit=True
    )
    calibrate: Switch = setting(
        True,
        "measure the model's median residual norms when they are not known yet; relative doses "
        "need them",
    )
    max_steps: Count = setting(
        64, "steps of a vector that has a tensor for each generation step", "N", limit=True
    )
    max_schedule_total: Count = setting(
        8192,
        "coefficients that all schedules of one request may list together",
        "N",
        limit=True,
    )
    max_plan_terms: Count = setting(
        16_384,
        "terms of one request: its vectors times their layers, counted again for each step or "
        "stretch of tokens",
        "N",
        limit=True,
    )
    max_read_values: Count = setting(
        65_536,
        "values that the reads of one answer may have, one for each token and hook point",
        "N",
        limit=True,
    )
    max_dynamic: Count = setting(
        8,
        "dynamic requests that run at once in each engine, each answer with one companion "
        "sequence for every vector and one more; further ones wait",
        "N",
        flag="--max-dynamic-requests",
        limit=True,
    )
    max_coefficient: Positive = setting(10_000.0, "largest absolute coefficient", "C", limit=True)
    max_relative_dose: Positive | None = setting(
        None,
        "largest ||c v|| / median ||h|| at a layer",
        "D",
        limit=True,
        unset="no limit",
    )
    max_total_dose: Positive | None = setting(
        None,
        "largest sum of ||c v|| / median ||h|| over all layers of a request",
        "D",
        limit=True,
        unset="no limit",
    )
    enforce_safe_range: Switch = setting(
        False, "refuse coefficients outside a vector's safe range; without this, receipts mark them"
    )
    require_fingerprint: Switch = setting(
        False,
        "refuse vectors whose file has the fingerprint of another model; without this, uploads, "
        "lists and receipts mark them",
    )
    default_preset: PresetName | None = setting(
        None,
        "preset of requests that do not say how they are steered, unless their key has one; "
        '`"steering": null` in a request turns it off',
        "NAME",
        unset="they are not steered",
    )
    inline_vectors: Switch = setting(
        True, "take vectors that requests bring with them; keys need the scope vectors:inline"
    )
    max_inline_bytes: Count = setting(
        4 * MEBI, "largest file of a vector in a request", "BYTES", limit=True
    )
    max_inline_cache_bytes: Count = setting(
        256 * MEBI,
        "room for vectors that requests have brought, in the library's directory; the one used "
        "longest ago is dropped first",
        "BYTES",
    )
    max_upload_bytes: Count = setting(64 * MEBI, "largest vector upload", "BYTES", limit=True)
    max_extract_rows: Count = setting(4096, "texts of one extraction", "N", limit=True)
    api_keys_file: Place | None = setting(
        None,
        "YAML file with keys, their scopes and limits, or a directory of such files; read again "
        "when it changes; `steersman keys new` makes an entry",
        "PATH",
        unset="no keys",
    )
    audit_log: Place | None = setting(
        None,
        "file for the audit log, a line of JSON for every change",
        "FILE",
        unset="standard output",
    )
    max_library_vectors: Count = setting(10_000, "vectors in the library", "N", limit=True)
    max_body_bytes: Count = setting(
        16 * MEBI,
        "largest body of a request that is not an upload",
        "BYTES",
        limit=True,
    )
    max_body_containers: Count = setting(
        10_000,
        "lists and objects in the JSON of a request; ten times as many keys are allowed",
        "N",
        limit=True,
    )
    max_body_depth: Count = setting(
        100, "levels of lists and objects inside one another", "N", limit=True
    )
    max_body_values: Count = setting(
        1_200_000,
        "values in the JSON of a request: members of lists and objects; a token id is one value",
        "N",
        limit=True,
    )
    max_input_items: Count = setting(
        1000,
        "items in the `input` of a response, or conversations of a batch; a quarter of that in "
        "the `tools` of a response",
        "N",
        limit=True,
    )
    body_timeout: Positive = setting(
        60.0, "time for a request's body to arrive; a slower one is refused with 408", "SECONDS"
    )
    allow_activations: Switch = setting(
        False,
        "give out the residual stream of texts (POST /v1/steering/activations); keys need the "
        "scope activations:read",
    )
    max_activation_bytes: Count = setting(
        64 * MEBI, "largest file of activations", "BYTES", limit=True
    )
    max_jobs: Count = setting(
        8, "extractions that may run or wait; one runs at a time", "N", limit=True
    )
    extract_share: Share = setting(
        0.25,
        "share of the engine's time that an extraction takes while clients of its API server use "
        "the engine; above 0, at most 1",
        "S",
        limit=True,
    )

    playground: Switch = setting(
        True,
        "serve a page at /playground, to try vectors in a browser; its files are public, and the "
        "routes that it calls need a key as always",
    )

    @property
    def most_segments(self) -> int:
        """Most table entries of one request."""
        return self.max_segments + self.max_steps

    @classmethod
    def read(cls, additional_config: object) -> Self:
        """Read the settings from vLLM's `additional_config`. Raises ValueError for an unknown key
        or a wrong value; the message names the key and the values that it may have."""
        section: Any = {}
        if isinstance(additional_config, Mapping):
            section = additional_config.get("steersman", {})
        if not isinstance(section, Mapping):
            raise ValueError('additional_config["steersman"] must be an object')
        try:
            return cls(**section)
        except ValidationError as error:
            name = str(error.errors(include_url=False)[0]["loc"][0])
        if name not in cls.model_fields:
            known = ", ".join(sorted(cls.model_fields))
            raise ValueError(f"unknown steersman setting {name!r}; known: {known}")
        raise ValueError(f"steersman setting {name} must be {_needs(cls.model_fields[name])}")

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `read` reads."""
        return self.model_dump()

    def limits(self) -> dict[str, Any]:
        """The settings that limit a request or an upload, by their names in capabilities."""
        return {
            flag_of(name).removeprefix("--").replace("-", "_"): getattr(self, name)
            for name, field in type(self).model_fields.items()
            if option_of(field).limit
        }


def option_of(field: FieldInfo) -> Option:
    """The `Option` of a setting."""
    extra: Any = field.json_schema_extra
    option: Option = extra["option"]
    return option


def flag_of(name: str) -> str:
    """The option that sets a setting."""
    return option_of(Settings.model_fields[name]).flag or f"--{name.replace('_', '-')}"


def kind_of(field: FieldInfo) -> type:
    """The type of a setting: bool, int, float or str; for `X | None` it is X."""
    kind: Any = next(iter(get_args(field.annotation)), field.annotation)
    found: type = get_args(kind)[0] if get_args(kind) else kind
    return found


def is_place(field: FieldInfo) -> bool:
    """Whether a setting is a path."""
    return _needs(field).startswith(_PATH)


def _needs(field: FieldInfo) -> str:
    """What a value must be, in words."""
    inside = [one for kind in get_args(field.annotation) for one in get_args(kind)]
    (words,) = [one for one in [*field.metadata, *inside] if isinstance(one, str)]
    return f"{words}, or null" if type(None) in get_args(field.annotation) else words
