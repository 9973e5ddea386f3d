"""Seam: vLLM's front end (`v1/engine/input_processor.py`, `v1/engine/output_processor.py`).

Every route and the offline `LLM` class pass through it, so limits hold for every plan.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steersman.steering.plan.capture import CAPTURE_KEY, STEP_KEY, Capture, CaptureChunk
from steersman.steering.plan.dynamic import STREAM_KEY
from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.inbox import CAPTURES, RECEIPTS, STEPS, WAITING
from steersman.steering.plan.intent import means_steering
from steersman.steering.plan.limits import Limits
from steersman.steering.plan.plan import PLAN_KEY, Plan
from steersman.steering.plan.receipt import WAITING_KEY, Refusal, Waiting, WorkerNote
from steersman.steering.plan.settings import Settings
from steersman.steering.plan.step_clock import Seen
from steersman.steering.vllm.config import limits_of
from steersman.steering.vllm.seam import Function, wrap
from steersman.steering.vllm.unsupported import no_captures, no_dynamic
from steersman.steering.vllm.worker.loading import object_path
from steersman.vectors.digest import short

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.output_processor import OutputProcessor


def install() -> None:
    """Wrap `InputProcessor.process_inputs` and `OutputProcessor.process_outputs`. Idempotent."""
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.output_processor import OutputProcessor

    wrap(InputProcessor, "process_inputs", _validating)
    wrap(OutputProcessor, "process_outputs", _collecting)


def _validating(original: Function) -> Function:
    def process_inputs(self: "InputProcessor", *args: Any, **kwargs: Any) -> "EngineCoreRequest":
        request: EngineCoreRequest = original(self, *args, **kwargs)
        params = request.sampling_params
        if params is not None and params.extra_args:
            _check_keys(params.extra_args)
            if STREAM_KEY in params.extra_args:
                raise refused(
                    PlanInvalid(
                        f"{STREAM_KEY!r} among the extra arguments is reserved; leave it out"
                    )
                )
            if PLAN_KEY in params.extra_args:
                _check(request, params, self.vllm_config)
            if CAPTURE_KEY in params.extra_args:
                _check_capture(request, params, self.vllm_config)
        return request

    return process_inputs


def _collecting(original: Function) -> Function:
    def process_outputs(
        self: "OutputProcessor",
        engine_core_outputs: "list[EngineCoreOutput]",
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        engine_core_outputs = _without_waiting(engine_core_outputs)
        seen: list[Seen] = []
        captured = (0, 0)
        for output in engine_core_outputs:
            noted = False
            if output.kv_transfer_params is not None:
                captured = tuple(output.kv_transfer_params.pop(STEP_KEY, captured))
                # What vLLM has ended already, at a stop string, it ignores: no client gets more of
                # it.
                noted = _collect(output, runs=output.request_id in self.request_states)
            name = output.request_id
            if not noted and RECEIPTS.counts(name) and name in self.request_states:
                RECEIPTS.advance(name, len(output.new_token_ids))
            if STEPS.watched:
                seen.append(Seen(output.request_id, output.finish_reason is not None))
        if seen:
            _note_step(seen, captured, *args, **kwargs)
        return original(self, engine_core_outputs, *args, **kwargs)

    return process_outputs


def _without_waiting(outputs: "list[EngineCoreOutput]") -> "list[EngineCoreOutput]":
    """The outputs of requests. Records the one that has how many wait."""
    rest = [output for output in outputs if output.request_id != WAITING_KEY]
    for output in outputs if len(rest) < len(outputs) else ():
        if output.request_id == WAITING_KEY and output.kv_transfer_params:
            WAITING.note(Waiting(*output.kv_transfer_params[WAITING_KEY]))
    return rest


def _check_keys(extra_args: Mapping[str, Any]) -> None:
    """Refuse extra arguments that mean steering but are not a plan: vLLM would ignore them."""
    for key, value in extra_args.items():
        if value is None or key in (PLAN_KEY, STREAM_KEY, CAPTURE_KEY):
            continue
        if isinstance(key, str) and means_steering(key):
            where = f"extra_args.{key[:128]}"
            raise refused(
                PlanInvalid(
                    f"{where} steers nothing: serve the model (`steersman serve`) and send the "
                    "`steering` field to a route that has it, or leave it out",
                    param=where,
                    code="misplaced_steering",
                )
            )


def _check(
    request: "EngineCoreRequest", params: "SamplingParams", vllm_config: "VllmConfig"
) -> None:
    """Validate a request's plan. Raises vLLM's validation error, which is a 400 on every route,
    with the `PlanInvalid` as its cause."""
    plan = None
    try:
        plan = Plan.of(params.extra_args)
        if plan is None:
            return
        if RECEIPTS.guarded and not RECEIPTS.is_open(plan.receipt):
            raise PlanInvalid(
                f"the extra argument {PLAN_KEY!r} is reserved; use the `steering` field of a route "
                "that has it"
            )
        if request.resumable:
            raise PlanInvalid("steering needs the whole prompt at once; send it in one request")
        limits: Limits = limits_of(vllm_config)
        limits.check(plan, _prompt_tokens(request), params.max_tokens)
        if plan.readouts:
            _check_readouts(plan, vllm_config)
            if any(readout.reads_prompt for readout in plan.readouts):
                params.skip_reading_prefix_cache = True
        if plan.dynamic is not None:
            _check_dynamic(request, len(plan.vectors) + 2, vllm_config)
        if request.prompt_embeds is not None:
            _check_has_tokens(plan)
        if any(gate.over == "prompt_mean" for gate in plan.gates.values()):
            params.skip_reading_prefix_cache = True  # All of the prompt must be computed.
        if RECEIPTS.guarded:
            return  # The server has resolved them, in a thread: a disk may hang.
        library = Path(Settings.read(vllm_config.additional_config).library)
        named = [(one.digest, "vectors") for one in plan.vectors]
        named += [(gate.digest, "vectors") for gate in plan.gates.values()]
        for digest, key in (*named, *((one.digest, "read") for one in plan.readouts)):
            if not object_path(library, digest).is_file():
                raise PlanInvalid(
                    f"no vector {short(digest)} in the library; upload it, or name another",
                    param=f"steering.{key}",
                )
    except PlanInvalid as error:
        if plan is not None:
            RECEIPTS.reject(plan.receipt, error)
        raise refused(error) from error


def _check_has_tokens(plan: Plan) -> None:
    """Refuse markers in a prompt of embeddings."""
    for n in plan.conditional:
        if plan.vectors[n].marker is not None:
            raise PlanInvalid(
                "a marker is looked for among tokens, and the prompt has embeddings; use other "
                "positions",
                param=f"steering.vectors[{n}].positions",
                code="not_supported",
            )


def _check_readouts(plan: Plan, vllm_config: "VllmConfig") -> None:
    """Refuse reads that this engine could not serve rightly."""
    if unsupported := no_captures(vllm_config):
        raise PlanInvalid(
            f"reads do not support {unsupported}; leave out `read`",
            param="steering.read",
            code="not_supported",
        )
    for n, readout in enumerate(plan.readouts):
        if vllm_config.speculative_config and readout.tokens == "answer":
            raise PlanInvalid(
                "with speculative decoding tokens of the answer cannot be read, because drafts may "
                "be rejected; read `prompt` or `last`",
                param=f"steering.read[{n}].tokens",
                code="not_supported",
            )


def _check_dynamic(request: "EngineCoreRequest", streams: int, vllm_config: "VllmConfig") -> None:
    """Refuse a dynamic request of `streams` sequences (the answer and its companions) that this
    engine could never run."""
    params = request.sampling_params
    assert params is not None
    prompt = None
    if request.prompt_embeds is not None:
        prompt = "prompts of embeddings"
    elif request.mm_features:
        prompt = "prompts with images, audio or video"
    if unsupported := no_dynamic(vllm_config) or prompt:
        raise PlanInvalid(
            f"dynamic composition does not support {unsupported}; leave out `dynamic`",
            param="steering.dynamic",
            code="not_supported",
        )
    scheduler = vllm_config.scheduler_config
    seats = scheduler.max_num_active_seqs or scheduler.max_num_seqs
    if streams > seats:
        raise PlanInvalid(
            f"the request needs {streams} sequences at once, this engine runs {seats} at most; "
            "name fewer vectors, or start the server with a higher --max-num-seqs",
            param="steering.vectors",
            code="too_many_terms",
        )
    cache = vllm_config.cache_config
    # vLLM has set `max_tokens` by now, where the client left it out.
    longest = _prompt_tokens(request) + (params.max_tokens or 0)
    if cache.kv_cache_size_tokens is not None:
        # One is the null block, and some are kept free for running requests.
        blocks = cache.kv_cache_size_tokens // cache.block_size
        blocks -= 1 + int(vllm_config.scheduler_config.watermark * blocks)
        room = blocks // streams * cache.block_size
        if longest > room:
            raise PlanInvalid(
                f"{streams} sequences of up to {longest} tokens do not fit into this engine's "
                f"cache, which has room for {room} tokens each; lower the request's token limit",
                param="max_tokens",
                code="too_many_tokens",
            )


def _prompt_tokens(request: "EngineCoreRequest") -> int:
    """How many tokens the prompt has; a prompt of embeddings has one token for each embedding."""
    if request.prompt_token_ids is not None:
        return len(request.prompt_token_ids)
    return 0 if request.prompt_embeds is None else len(request.prompt_embeds)


def refused(error: PlanInvalid) -> Exception:
    """Wrap `error` in vLLM's own validation error, which is a 400 wherever it is raised."""
    from vllm.exceptions import VLLMValidationError

    class PlanRefused(VLLMValidationError):
        def __str__(self) -> str:
            return str(self.args[0])

    return PlanRefused(error.message, parameter=error.param)


def _check_capture(
    request: "EngineCoreRequest", params: "SamplingParams", vllm_config: "VllmConfig"
) -> None:
    """Refuse captures that this server did not open, and those whose result would be wrong."""
    try:
        capture = Capture.of(params.extra_args)
        if capture is None or not CAPTURES.is_open(capture.receipt):
            raise PlanInvalid(f"the extra argument {CAPTURE_KEY!r} is reserved; leave it out")
        if unsupported := no_captures(vllm_config):
            raise PlanInvalid(f"captures do not support {unsupported}", code="not_supported")
        if vllm_config.speculative_config and capture.stop > _prompt_tokens(request):
            raise PlanInvalid(
                "with speculative decoding tokens of the answer cannot be captured, because drafts "
                "may be rejected; end the capture with the prompt"
            )
    except PlanInvalid as error:
        raise refused(error) from error


def _note_step(
    seen: list[Seen],
    captured: tuple[int, int],
    engine_core_timestamp: Any = None,
    *_: Any,
    **__: Any,
) -> None:
    """Record the outputs of a step in the step clock."""
    if engine_core_timestamp is not None:
        STEPS.note(engine_core_timestamp, seen, *captured)


def _collect(output: "EngineCoreOutput", *, runs: bool) -> bool:
    """Remove our keys from an engine output, and keep its note if the request `runs`. Returns
    whether there was a note."""
    fields = output.kv_transfer_params or {}
    chunk = fields.pop(CAPTURE_KEY, None)
    if chunk is not None:
        CAPTURES.deliver(CaptureChunk(*chunk))
    wire = fields.pop(PLAN_KEY, None)
    if wire is not None and runs:
        if isinstance(wire, dict):
            RECEIPTS.refuse(Refusal(**wire))
        else:
            RECEIPTS.deliver(output.request_id, WorkerNote.from_wire(wire))
    output.kv_transfer_params = fields or None
    return wire is not None
