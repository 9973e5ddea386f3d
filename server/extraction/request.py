"""The body of `POST /v1/steering/vectors/extract`, read and checked."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from steersman.server.extraction.samples import MOST_SAMPLES, read_body
from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.library.names import check_name
from steersman.vectors.methods import METHODS, Method
from steersman.vectors.methods.per_step import MAX_STEPS
from steersman.vectors.validation import body_invalid

Text = StrictStr | list[Any]
"""A plain text, or a chat: a list of messages with role and content."""

_MOST_LAYERS: Final = 4096

_MANY: Final = 4096
"""Most of a setting that counts something."""

_LEAST, _MOST = 1e-6, 1e6
"""Of a setting that is a number, `c`: beyond, a probe is all penalty, or never converges."""


class ExtractRequest(BaseModel):
    """The vector to make, and its texts: inline, or as the lines of a JSONL file.

    A line is a pair, {"positive": TEXT, "negative": TEXT}, or one text, {"text": TEXT, "label":
    "positive", "negative" or a style}; either may have a "prompt" of its own. TEXT is a string or a
    list of chat messages.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: StrictStr = Field(description=f"One of {', '.join(METHODS)}.")
    name: StrictStr = Field(description="The vector's name; `style` makes <name>-<style> of each.")
    description: StrictStr = ""
    pairs: list[Any] | None = Field(None, description="[[positive, negative], ...], or lines.")
    positive: list[Any] | None = None
    negative: list[Any] | None = None
    styles: dict[str, list[Any]] | None = Field(None, description="Texts by style.")
    prompt: StrictStr | None = Field(
        None, description="Read plain texts as answers to this, in the chat template; null: raw."
    )
    site: StrictStr | None = Field(None, description="Where to read and add; the method's own.")
    layers: list[StrictInt] | None = Field(None, description="Which blocks; null: all.")
    tokens: StrictStr | None = Field(
        None,
        description="last, answer, mean, steps, prompt or template. null: the method's own; of "
        "mean_difference, repe and probe that is mean, and last where a text is a chat that ends "
        "with a question.",
    )
    steps: StrictInt = Field(
        MAX_STEPS, ge=1, le=512, description="For per_step: number of greedy steps."
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="The method's own.")
    unit_dose: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Scale each layer's tensor so that coefficient 1 has this relative dose there: "
        "||v|| / median ||h||. null: as the method makes it.",
    )
    seed: StrictInt = Field(0, description="Seed of the splits on which quality is measured.")
    created_at: StrictStr | None = Field(
        None, description="Written into the vector; null: the time when it is made."
    )
    licence: StrictStr | None = None
    reproducible: StrictBool = Field(
        False,
        description="Capture one text at a time: slower, and gives the same bytes each time "
        "on one machine.",
    )

    @property
    def how(self) -> Method:
        """What the method needs."""
        return METHODS[self.method]

    @property
    def token_rule(self) -> str:
        """Which tokens of a text are read. Call `settled` first: it chooses the rule if the request
        names none."""
        return self.tokens or self.how.token_rules[0]

    @property
    def capture_site(self) -> str:
        """The site at which texts are read. `per_step` reads the output of attention's output
        projection and not its input: the projection is linear, so the mean difference of the
        outputs is the projected mean difference of the inputs, and a bias cancels."""
        return self.site or self.how.sites[0]


def read_request(body: bytes | str, most_samples: int = MOST_SAMPLES) -> ExtractRequest:
    """Read and check the body. Raises `VectorInvalid` for all that cannot be done whatever the
    texts are. Takes long for a large body, so call it in a thread."""
    text = body.encode(errors="surrogatepass") if isinstance(body, str) else body
    data = read_body(text, most_samples)
    _check_shape(data)
    try:
        request = ExtractRequest.model_validate(data)
    except ValidationError as error:
        raise body_invalid(error) from None
    if request.method not in METHODS:
        _refuse("method", f"must be one of {', '.join(METHODS)}, not {shown(request.method)}")
    check_name(request.name)
    how = request.how
    if how.missing is not None:
        raise VectorInvalid(
            f"{request.method} needs {how.missing}, which is not installed beside this server: "
            f"pip install {how.missing} and start it again, or use mean_difference or caa",
            param="method",
            code="package_missing",
        )
    if request.token_rule not in how.token_rules:
        allowed = ", ".join(how.token_rules)
        _refuse("tokens", f"of {request.method} are {allowed}, not {shown(request.tokens)}")
    if request.site is not None and request.site not in how.sites:
        _refuse("site", f"of {request.method} is one of {', '.join(how.sites)}")
    if request.unit_dose is not None and how.gates:
        _refuse("unit_dose", f"scales what is added, and what {request.method} makes is measured")
    if request.unit_dose is not None and how.operation != "add":
        _refuse("unit_dose", f"scales what is added, and {request.method} is for `{how.operation}`")
    for key, value in request.settings.items():
        allowed_values = how.settings.get(key)
        if allowed_values is None:
            _refuse(f"settings.{key}", f"is not a setting of {request.method}")
        if isinstance(allowed_values, tuple):
            if value not in allowed_values:
                _refuse(f"settings.{key}", f"must be one of {', '.join(allowed_values)}")
        elif allowed_values is int:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MANY:
                _refuse(f"settings.{key}", f"must be a whole number from 1 to {_MANY}")
        elif not _is_number(value) or not _LEAST <= value <= _MOST:
            _refuse(f"settings.{key}", f"must be a number from {_LEAST:g} to {_MOST:g}")
    return request


def _check_shape(data: Any) -> None:
    """Check what pydantic would report with an error for each item: one is enough. Raises
    `VectorInvalid`."""
    if not isinstance(data, dict):
        _refuse("body", "must be a JSON object")
    for key in data:
        if key not in ExtractRequest.model_fields:
            name = shown(key)
            raise VectorInvalid(
                f"{name}: there is no such field", param=key[:128], code="unknown_field"
            )
    if isinstance(data.get("layers"), list) and len(data["layers"]) > _MOST_LAYERS:
        _refuse("layers", f"may be at most {_MOST_LAYERS}")
    styles = data.get("styles")
    if isinstance(styles, dict) and not all(isinstance(texts, list) for texts in styles.values()):
        _refuse("styles", "must be lists of texts, one of each style")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse(param: str, why: str) -> None:
    raise VectorInvalid(f"{param} {why}", param=param, code="invalid_body")
