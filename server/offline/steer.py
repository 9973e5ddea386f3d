"""`steersman.offline(llm)`: vLLM's own `LLM`, steered by the field, the presets and the receipts of
the server."""

import json
import secrets
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from steersman.server.auth.permissions import OPEN
from steersman.server.chat.sse import LOST
from steersman.server.chat.steered_request import Origin, SteeredRequest, resolved
from steersman.server.chat.trace import Answers
from steersman.server.drain import Drain
from steersman.server.errors import Unsaid
from steersman.server.extraction.api import prepare
from steersman.server.extraction.context import make_context
from steersman.server.extraction.job import Job
from steersman.server.extraction.pipeline import run
from steersman.server.metrics import Outcome
from steersman.server.offline.engine import OfflineEngine, wait_for
from steersman.server.presets.choose import Chosen, choose
from steersman.server.start.opening import open_state
from steersman.steering.plan import PLAN_KEY, PlanInvalid
from steersman.vectors.digest import short
from steersman.vectors.errors import SteersmanError
from steersman.vectors.file.format import SteeringVector, read_vector, write_vector
from steersman.vectors.formats.load import load

_NOT_ON: Final = (
    "Steersman is not switched on in this engine: set the environment variable "
    "VLLM_PLUGINS=steersman before vllm is imported, as in os.environ['VLLM_PLUGINS'] = "
    "'steersman', and make the LLM after that"
)
_MODEL: Final = "model"
_OMITTED: Final[Any] = object()


def offline(llm: Any) -> "OfflineSteering":
    """Steer `llm`, a `vllm.LLM` of this process, without a server.

    Measures the model's residual norms if they are not known yet (once a model). Raises
    RuntimeError if the plugin is not on in this engine; the message says how it gets there.

        llm = LLM("Qwen/Qwen3-0.6B")
        steer = steersman.offline(llm)
        steer.add("glad.safetensors", name="glad")
        (answer,) = steer.chat(messages, steering={"vectors": {"glad": 1.5}})
        print(answer.outputs[0].text, answer.steering)
    """
    from vllm.v1.engine.input_processor import InputProcessor

    if not hasattr(InputProcessor.process_inputs, "__steersman__"):
        raise RuntimeError(_NOT_ON)
    return OfflineSteering(llm)


class OfflineSteering:
    """An `LLM` that is steered: `chat` and `generate` are its own, with one more argument,
    `steering`, which is the field of the server's requests, or the name of a preset, or vectors in
    the short form `cheerful@1.5,formal@-0.5`.

    Vectors and presets are in the library of the engine's settings (`additional_config`; default
    `~/.cache/steersman/library`), as a server's are. What is wrong with a `steering` is a
    `PlanInvalid` or `SteersmanError`, whose `param` is the key and whose message has the remedy.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._engine = OfflineEngine(llm)
        config = llm.llm_engine.vllm_config.model_config
        args = Namespace(model=config.model, served_model_name=None)
        self._state = wait_for(open_state(self._engine, args, Drain(), guarded=False))
        self._state.extraction = make_context(self._state, self._engine)
        self._library = self._state.library_for(OPEN)
        self._presets = self._state.presets_for(OPEN)

    def add(self, vector: "str | Path | SteeringVector", name: str | None = None) -> str:
        """Put a vector into the library: a file of ours or of another tool, or a vector. Returns
        its id, `name@<digest>`. Raises `VectorInvalid` and `VectorConflict`."""
        read = vector if isinstance(vector, SteeringVector) else load(vector, name=name)
        entry, _ = self._library.add(write_vector(read), name or read.name)
        return f"{entry.name}@{short(entry.digest)}"

    def vectors(self) -> list[str]:
        """The names of the library's vectors that fit the model."""
        return [entry.name for entry in self._library.list() if entry.misfit is None]

    def vector(self, vector_id: str) -> SteeringVector:
        """One vector. Raises `VectorNotFound`."""
        return read_vector(self._library.resolve(vector_id).path)

    def delete(self, name: str) -> None:
        """Delete a vector. Raises `VectorNotFound`, and `PresetConflict` where a preset needs
        it."""
        self._presets.check_unused(name)
        self._library.delete(name)

    def presets(self) -> dict[str, Mapping[str, Any]]:
        """The `steering` value of each preset, by name."""
        return {name: one.now.steering for name, one in sorted(self._presets.all().items())}

    def add_preset(
        self, name: str, steering: Any, *, follow: bool = False, description: str = ""
    ) -> None:
        """Name a `steering` value. `follow`: it uses what the names of its vectors stand for at
        each request. Raises `PresetConflict` for a name that stands for something else."""
        self._presets.add(name, steering, follow=follow, description=description)

    def delete_preset(self, name: str) -> None:
        """Delete a preset. Raises `PresetNotFound`."""
        self._presets.delete(name)

    def capabilities(self) -> dict[str, Any]:
        """What can be steered, and the limits, as `GET /v1/steering/capabilities` has it."""
        return self._state.capabilities_for(OPEN)

    def chat(
        self,
        messages: Any,
        sampling_params: Any = None,
        *,
        steering: Any = _OMITTED,
        **options: Any,
    ) -> list[Any]:
        """`LLM.chat` for one conversation or several. Each of the `RequestOutput`s has its receipt
        as `steering`, None where it is not steered. `options` go to `LLM.chat`."""
        several = bool(messages) and isinstance(messages[0], list)
        count = len(messages) if several else 1
        return self._answered(self._llm.chat, messages, count, sampling_params, steering, options)

    def generate(
        self,
        prompts: Any,
        sampling_params: Any = None,
        *,
        steering: Any = _OMITTED,
        **options: Any,
    ) -> list[Any]:
        """`LLM.generate` for one prompt or several, as `chat`."""
        one = isinstance(prompts, str | Mapping) or (bool(prompts) and isinstance(prompts[0], int))
        count = 1 if one else len(prompts)
        return self._answered(
            self._llm.generate, prompts, count, sampling_params, steering, options
        )

    def extract(self, *, method: str, name: str | None = None, **fields: Any) -> list[str]:
        """Make a vector on this model, as `POST /v1/steering/vectors/extract` does; `fields` are
        those of its body. Returns the ids of what was made: one, or one for each style.

            (glad,) = steer.extract(method="mean_difference", positive=[...], negative=[...])
        """
        name = name or f"{method}-{secrets.token_hex(4)}".replace("_", "-")
        body = json.dumps({"method": method, "name": name, **fields})
        context = replace(self._state.extraction, library=self._library)
        most = self._state.max_extract_rows_for(OPEN)
        wanted, samples = prepare(body, None, most, context)
        job = Job(secrets.token_hex(8), method, name)
        wait_for(run(job, wanted, samples, context))
        return job.result

    def _answered(
        self,
        ask: Callable[..., list[Any]],
        prompts: Any,
        count: int,
        sampling_params: Any,
        steering: Any,
        options: dict[str, Any],
    ) -> list[Any]:
        chosen = self._chosen(steering)
        if chosen.steering is None:
            outputs = ask(prompts, sampling_params, **options)
            for output in outputs:
                output.steering = None
            return outputs
        try:
            made = resolved(chosen.context, chosen.steering)
        except (PlanInvalid, SteersmanError) as error:
            raise chosen.explained(error) from None
        requests = []
        try:
            for params in self._params(sampling_params, count):
                own = replace(made, plan=replace(made.plan, receipt=secrets.token_hex(8)))
                params.extra_args = {**(params.extra_args or {}), PLAN_KEY: own.plan.to_json()}
                steered = SteeredRequest(
                    chosen.context, own, Answers(max(1, params.n)), params.max_tokens, chosen.origin
                )
                requests.append((steered, params))
            outputs = self._asked(ask, prompts, requests, options)
            for output, (steered, _) in zip(outputs, requests, strict=True):
                if (refusal := steered.refusal()) is not None:
                    raise refusal
                if not steered.was_steered():
                    raise Unsaid(LOST["error"]["message"])
                output.steering = steered.receipt()
                steered.close(Outcome.COMPLETED)
            return outputs
        finally:
            for steered, _ in requests:
                steered.close(Outcome.FAILED)

    def _asked(
        self,
        ask: Callable[..., list[Any]],
        prompts: Any,
        requests: Sequence[tuple[SteeredRequest, Any]],
        options: dict[str, Any],
    ) -> list[Any]:
        try:
            return ask(prompts, [params for _, params in requests], **options)
        except Exception as error:
            for steered, _ in requests:
                if (refusal := steered.refusal()) is not None:
                    raise refusal from None
            if isinstance(error.__cause__, PlanInvalid):
                raise error.__cause__ from None
            raise

    def _params(self, given: Any, count: int) -> list[Any]:
        """Sampling parameters of each prompt, which may be changed."""
        if given is None:
            given = self._llm.get_default_sampling_params()
        each = list(given) if isinstance(given, Sequence) else [given] * count
        if len(each) != count:
            raise ValueError(
                f"there are {len(each)} sampling parameters for {count} prompts; give one for each "
                "prompt, or one for all"
            )
        return [params.clone() for params in each]

    def _chosen(self, steering: Any) -> Chosen:
        """What `steering` says: the field's value, or a name."""
        named = isinstance(steering, str)
        given = steering is not _OMITTED and not named
        model = f"{_MODEL}:{steering}" if named else _MODEL
        try:
            chosen = wait_for(
                choose(
                    steering if given else None,
                    model,
                    given=given,
                    served={_MODEL},
                    presets=self._presets,
                )
            )
        except (PlanInvalid, SteersmanError) as error:
            error.param = "steering"
            raise
        if not named:
            return chosen
        return chosen._replace(origin=Origin("request", chosen.origin.preset))
