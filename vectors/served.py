"""The model that a server serves, and whether it can be steered with a vector."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.hook_names import as_steered, steered_place
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import HookPoint, is_nothing, tensor_name
from steersman.vectors.vector import BaseModel, SteeringVector


class Described(Protocol):
    """The part of a vector that is compared with the served model."""

    @property
    def hidden_size(self) -> int:
        """Length of one vector."""

    @property
    def tensors(self) -> Mapping[HookPoint, tuple[int, ...]]:
        """Shapes, [hidden] or [steps, hidden]."""

    @property
    def operation(self) -> Operation:
        """What it does to the stream."""

    @property
    def base_model(self) -> BaseModel | None:
        """The model that it was made on; None if its file does not name one."""


@dataclass(frozen=True)
class ServedModel:
    """What a vector must match. A field of None is not checked, so `ServedModel()` accepts every
    vector."""

    hidden_size: int | None = None
    num_layers: int | None = None
    """Number of blocks."""
    sites: tuple[str, ...] | None = None
    """Sites of its blocks that can be steered."""
    max_steps: int | None = None
    """Most generation steps of one tensor."""
    fingerprint: str | None = None
    require_fingerprint: bool = False
    """Whether a vector that names another fingerprint is refused."""
    most_added: float | None = None
    """Most that may be added to one element of the stream (`steersman.steering.plan.limits`). With
    it, values are checked: `unfit_values`."""
    operations: tuple[str, ...] | None = None
    """What vectors may do to the stream there."""
    reading_sites: tuple[str, ...] | None = None
    """Those of `sites` for vectors whose operation reads the stream."""

    def matches(self, vector: Described) -> bool | None:
        """Whether `vector` was made on this model. False if its width or base model differs; None
        if it, or this model, has no fingerprint."""
        base = vector.base_model or BaseModel()
        for said, known in (
            (vector.hidden_size, self.hidden_size),
            (base.num_layers, self.num_layers),
            (base.fingerprint, self.fingerprint),
        ):
            if said is not None and known is not None and said != known:
                return False
        return None if base.fingerprint is None or self.fingerprint is None else True

    def misfit(self, vector: Described) -> VectorInvalid | None:
        """Why this model cannot be steered with `vector`; None if it can. `param` is "file", a
        tensor's name or the metadata field."""
        wrong = self._wrong_sizes(vector) or self._wrong_base(vector.base_model)
        wrong = wrong or self._wrong_operation(vector)
        for key, shape in vector.tensors.items():
            wrong = wrong or self._wrong_tensor(key, shape)
        return wrong

    def unfit_values(self, vector: SteeringVector) -> VectorInvalid | None:
        """Why the values of `vector` steer nothing, or cannot be added, at its default layers and
        coefficient; None if they can. `param` is a tensor's name or "coefficient"."""
        if self.most_added is None or vector.operation.name not in ("add", "replace"):
            return None  # Others are bounded by the stream, or by nothing that is known here.
        used = {key: t for key, t in vector.tensors.items() if key[1] in vector.layers}
        if all(is_nothing(tensor) for tensor in used.values()):
            return VectorInvalid(
                f"{tensor_name(next(iter(used)))} is all zeros, or as good as zero, and so is all "
                "that the vector adds by default: it would steer nothing. Check how it was made; "
                "to see what a model does unsteered, use any vector at coefficient 0",
                param=tensor_name(next(iter(used))),
                code="all_zero",
            )
        largest = {key: float(tensor.abs().max()) for key, tensor in used.items()}
        size = sum(largest.values())
        added = abs(vector.coefficient) * size
        if added <= self.most_added:
            return None
        worst = tensor_name(max(largest, key=lambda key: largest[key]))
        remedy = (
            "divide its tensors by a number that makes their norms like the stream's"
            if size > self.most_added
            else f"lower its coefficient, to {self.most_added / size:.3g} at most"
        )
        return VectorInvalid(
            f"at its default coefficient, {vector.coefficient:g}, the vector adds up to "
            f"{added:.3g} to one element of the residual stream, over the {self.most_added:.3g} "
            f"that this model's dtype bears, so that every request with it is refused; {remedy}",
            param=worst if size > self.most_added else "coefficient",
            code="addition_too_large",
        )

    def canonical(self, vector: SteeringVector) -> SteeringVector:
        """`vector` as this model is steered with it: tensors at `resid_pre.L` are moved to
        `resid_post.(L-1)`, which is the same stream. Returns `vector` itself where there is nothing
        to move. Raises `VectorInvalid` as `as_steered` does, and for sizes that are not this
        model's."""
        if self.sites is None or "resid_pre" in self.sites or "resid_post" not in self.sites:
            return vector
        if wrong := self._wrong_sizes(vector):
            raise wrong
        return as_steered(vector)

    def _wrong_sizes(self, vector: Described | SteeringVector) -> VectorInvalid | None:
        if self.hidden_size is not None and vector.hidden_size != self.hidden_size:
            return VectorInvalid(
                f"the vector has hidden size {vector.hidden_size} and the served model has "
                f"{self.hidden_size}; use a vector made on that model",
                param="file",
                code="wrong_hidden_size",
            )
        last = max(layer for _, layer in vector.tensors)
        if self.num_layers is not None and last >= self.num_layers:
            return VectorInvalid(
                f"the vector has a tensor for layer {last} and the served model has layers "
                f"0..{self.num_layers - 1}; use a vector made on that model",
                param="file",
                code="layer_out_of_range",
            )
        return None

    def _wrong_base(self, base: BaseModel | None) -> VectorInvalid | None:
        if base is None:
            return None
        if None not in (base.num_layers, self.num_layers) and base.num_layers != self.num_layers:
            return VectorInvalid(
                f"the vector was made on a model of {base.num_layers} layers and the served model "
                f"has {self.num_layers}; use a vector made on that model",
                param="base_model.num_layers",
                code="wrong_num_layers",
            )
        if (
            self.require_fingerprint
            and base.fingerprint is not None
            and base.fingerprint != self.fingerprint
        ):
            return VectorInvalid(
                "the vector was made on the model with fingerprint "
                f"{shown(base.fingerprint)} and the served model's is {shown(self.fingerprint)}; "
                "make it again on this model, or have the server started without "
                "--require-fingerprint",
                param="base_model.fingerprint",
                code="wrong_base_model",
            )
        return None

    def _wrong_operation(self, vector: Described) -> VectorInvalid | None:
        name = vector.operation.name
        if self.operations is not None and name not in self.operations:
            return VectorInvalid(
                f"the vector is for the operation `{name}`, and this server does "
                f"{', '.join(self.operations)}; have it started with --operations {name}",
                param="operation",
                code="operation_not_served",
            )
        if vector.operation.adds or self.reading_sites is None:
            return None
        for point in vector.tensors:
            if point.site not in self.reading_sites and point.site in (self.sites or ()):
                return VectorInvalid(
                    f"additions at {point.site} are made at resid_post here, where an operation "
                    "that reads the stream would read the wrong place; have the server started "
                    f"with --sites {point.site}",
                    param=tensor_name(point),
                    code="site_not_supported",
                )
        return None

    def _wrong_tensor(self, key: HookPoint, shape: tuple[int, ...]) -> VectorInvalid | None:
        name = tensor_name(key)
        if self.sites is not None and key[0] not in self.sites:
            return VectorInvalid(
                f"tensor {name!r} is for a hook point at which the served model cannot be steered; "
                f"it can at {', '.join(self.sites)}. {_remedy(key)}",
                param=name,
                code="site_not_supported",
            )
        steps = shape[0] if len(shape) > 1 else 1
        if self.max_steps is not None and steps > self.max_steps:
            return VectorInvalid(
                f"tensor {name!r} has {steps} steps, at most {self.max_steps} are allowed here; "
                f"upload its first {self.max_steps} rows, or have the server started with a higher "
                "--max-steps",
                param=name,
                code="too_many_steps",
            )
        return None


def _remedy(key: HookPoint) -> str:
    if key[0] == "resid_pre" and key[1] > 0:
        return f"Name it {tensor_name(steered_place(key))!r}, which is the same stream"
    return f"Make the vector for one of these, or leave this tensor out{switched_on(key[0])}"


def switched_on(site: str) -> str:
    """The end of a message about a site that is off: how to switch it on; "" if that is not
    possible."""
    if site in ("attn_out", "mlp_out", "resid_mid"):
        return f"; if the model has {site}, have the server started with --sites {site}"
    return ""
