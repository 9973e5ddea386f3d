"""The table of every touch of vLLM: what, what we rely on, why, in which process.

Data, not code; `seam_check` reads it. At start-up each process checks its own part before it
installs anything. docs/seams.md is written from it (`python -m tests.compat.seams_page`), and a
test looks for imports of vLLM that are not here.
"""

from typing import Final

from steering.seam_check import Seam, lacking

EVERY: Final = "every process"
WORKER: Final = "worker"
CPU_WORKER: Final = "worker on a CPU"
V1_WORKER: Final = "worker with model runner V1"
V2_WORKER: Final = "worker with model runner V2"
API_SERVER: Final = "API server"
LAUNCHER: Final = "launcher"
PROCESSES: Final = (EVERY, WORKER, CPU_WORKER, V1_WORKER, V2_WORKER, API_SERVER, LAUNCHER)
"""`EVERY`: what is installed everywhere, because front end, engine core and workers may each have a
process or share one."""

_CONFIG: Final = "steering/seam_config.py"
_FRONTEND: Final = "steering/seam_frontend.py"
_SCHEDULER: Final = "steering/seam_scheduler.py"
_KEYS: Final = "steering/seam_prefix_cache.py"
_WORKER: Final = "steering/seam_worker.py"
_V1: Final = "steering/seam_runner_v1.py"
_V2: Final = "steering/seam_runner_v2.py"
_DUMMY: Final = "steering/seam_dummy_run.py"
_OPENAI: Final = "vllm.entrypoints.openai"

SEAMS: Final = (
    Seam("steering/plugin.py", EVERY, "vllm", ("__version__",),
         "versions that nobody has read are refused"),
    Seam("steering/seams.py", EVERY, "vllm", ("__version__",), "named where a seam is missing"),
    Seam("steering/plugin.py", EVERY, "vllm.plugins",
         ("load_general_plugins", "load_endpoint_plugins"),
         "calls `steering.plugin:register` everywhere, loads `server.plugin` in the API server"),
    # Configuration
    Seam(_CONFIG, EVERY, "vllm.envs", ("VLLM_USE_RUST_FRONTEND", "VLLM_USE_V2_MODEL_RUNNER"),
         "the Rust front end ignores the field; which model runner"),
    Seam(_CONFIG, EVERY, "vllm.config:VllmConfig",
         ("compute_hash", "additional_config", "model_config", "scheduler_config",
          "parallel_config", "compilation_config", "speculative_config"),
         "compiled graphs are filed under our sources too; settings and sizes"),
    Seam(_CONFIG, EVERY, "vllm.config:ModelConfig",
         ("get_hidden_size", "hf_text_config", "runner_type", "dtype"), "sizes of the tables"),
    Seam(_CONFIG, EVERY, "vllm.config:SchedulerConfig", ("max_num_seqs", "async_scheduling"),
         "rows of the tables; ways of running that are refused"),
    Seam(_CONFIG, EVERY, "vllm.config:CompilationConfig", ("mode", "cudagraph_mode"),
         "whether Python runs in every forward pass"),
    Seam(_CONFIG, EVERY, "vllm.config:CompilationMode", ("NONE",), "as above"),
    Seam(_CONFIG, EVERY, "vllm.config:CUDAGraphMode", ("NONE",), "as above"),
    # Front end
    Seam(_FRONTEND, EVERY, "vllm.v1.engine.input_processor:InputProcessor", ("vllm_config",),
         "limits"),
    Seam(_FRONTEND, EVERY, "vllm.v1.engine.input_processor:InputProcessor.process_inputs", (),
         "every plan is validated, whoever wrote it"),
    Seam(_FRONTEND, EVERY, "vllm.v1.engine.output_processor:OutputProcessor.process_outputs",
         ("engine_core_outputs",), "notes come off the outputs"),
    Seam(_FRONTEND, EVERY, "vllm.v1.engine.output_processor:OutputProcessor", ("request_states",),
         "what has ended takes no more notes"),
    Seam(_FRONTEND, EVERY, "vllm.v1.engine:EngineCoreRequest",
         ("sampling_params", "prompt_token_ids", "resumable"), "what a plan is checked against"),
    Seam(_FRONTEND, EVERY, "vllm.exceptions:VLLMValidationError", ("parameter",),
         "a refused plan is a 400 on every route"),
    Seam(_FRONTEND, EVERY, "vllm.sampling_params:SamplingParams", ("extra_args",),
         "carries the plan"),
    # Engine core
    Seam("steering/seam_request.py", EVERY, "vllm.v1.request:Request",
         ("request_id", "sampling_params", "num_prompt_tokens", "num_computed_tokens",
          "client_index", "trace_headers", "take_events", "get_finished_reason"),
         "the plan of a request; how it ends"),
    Seam(_KEYS, EVERY, "vllm.v1.core.kv_cache_utils:generate_block_hash_extra_keys",
         ("request", "start_token_idx", "end_token_idx", "start_mm_idx"),
         "a block's key names the steering of its tokens"),
    Seam(_KEYS, EVERY, "vllm.v1.core.block_pool", (),
         "imports that function by name; a reference to it is replaced where there is one"),
    Seam(_SCHEDULER, EVERY, "vllm.v1.core.sched.scheduler:Scheduler",
         ("vllm_config", "running", "requests", "current_step", "kv_cache_manager", "block_size"),
         "who runs, and in which blocks"),
    Seam(_SCHEDULER, EVERY, "vllm.v1.core.sched.scheduler:Scheduler.add_request", ("request",),
         "a steered request queues for bank rows"),
    Seam(_SCHEDULER, EVERY,
         "vllm.v1.core.sched.scheduler:Scheduler._handle_blocked_waiting_request", ("request",),
         "a request waits until its bank rows are free, and others pass it meanwhile"),
    Seam(_SCHEDULER, EVERY, "vllm.v1.core.sched.scheduler:Scheduler._free_request", ("request",),
         "bank rows come back however a request ends"),
    Seam(_SCHEDULER, EVERY, "vllm.v1.core.sched.scheduler:Scheduler.update_from_output",
         ("scheduler_output", "model_runner_output"),
         "notes leave with outputs; what could not be steered ends before its token is seen"),
    Seam(_SCHEDULER, EVERY, "vllm.v1.core.sched.scheduler:Scheduler.finish_requests",
         ("request_ids", "finished_status"), "ends what cannot be steered"),
    Seam(_SCHEDULER, EVERY, "vllm.v1.core.kv_cache_manager:KVCacheManager",
         ("evict_blocks", "get_block_ids", "block_pool"),
         "blocks that a failed request computed are nobody's"),
    Seam(_SCHEDULER, EVERY, "vllm.v1.core.block_pool:BlockPool", ("null_block",),
         "stands for no block, in many requests at once"),
    Seam(_SCHEDULER, EVERY, "vllm.v1.engine:EngineCoreOutput",
         ("request_id", "new_token_ids", "finish_reason", "events", "trace_headers",
          "kv_transfer_params"), "the last of them carries notes and refusals to the front end"),
    Seam(_SCHEDULER, EVERY, "vllm.v1.engine:EngineCoreOutputs", ("outputs",),
         "last outputs of requests that were ended"),
    Seam(_SCHEDULER, EVERY, "vllm.v1.request:RequestStatus", ("FINISHED_ABORTED", "FINISHED_ERROR"),
         "how they end"),
    # Worker
    Seam(_WORKER, EVERY, "vllm.v1.worker.worker_base:WorkerWrapperBase",
         ("__getattr__", "worker", "vllm_config"),
         "tables before the profile run, self-check after warm-up, methods for `collective_rpc`"),
    Seam(_WORKER, EVERY, "vllm.v1.worker.worker_base:WorkerBase",
         ("load_model", "compile_or_warm_up_model", "model_runner"), "what it forwards to"),
    Seam(_WORKER, WORKER, "vllm.distributed:get_tp_group", (),
         "all tensor-parallel ranks steer a request, or none"),
    Seam("steering/ways.py", WORKER, "vllm.config:VllmConfig",
         ("parallel_config", "cache_config", "kv_transfer_config"),
         "ways of running that are refused"),
    Seam("steering/ways.py", WORKER, "vllm.config:ParallelConfig",
         ("pipeline_parallel_size", "use_ubatching", "prefill_context_parallel_size"), "as above"),
    Seam("steering/ways.py", WORKER, "vllm.config:CacheConfig", ("kv_sharing_fast_prefill",),
         "as above"),
    Seam("steering/ways.py", WORKER, "vllm.config:KVTransferConfig", ("kv_connector",),
         "as above: it could hand blocks of steered requests to others"),
    Seam("steering/blocks.py", WORKER,
         "vllm.model_executor.layers.attention_layer_base:AttentionLayerBase", (),
         "a block is what holds an attention or state-space layer"),
    Seam("steering/blocks.py", WORKER, "vllm.model_executor.layers.linear:LinearBase", (),
         "an MLP is what holds a matrix besides"),
    Seam("steering/seam_mamba.py", WORKER,
         "vllm.model_executor.layers.mamba.mamba_mixer:MambaMixer.forward_impl",
         ("hidden_states", "output"), "zeros in dummy runs, where it leaves memory uninitialised"),
    Seam("steering/seam_mamba.py", WORKER,
         "vllm.model_executor.layers.mamba.mamba_mixer2:MambaMixer2.conv_ssm_forward",
         ("projected_states", "output"), "as above"),
    Seam("steering/seam_mamba.py", WORKER, "vllm.forward_context:get_forward_context", (),
         "whether it is such a run"),
    Seam("steering/seam_model.py", WORKER, "vllm.forward_context:set_forward_context",
         ("attn_metadata", "vllm_config", "num_tokens", "skip_compiled"),
         "a few passes of the model when it is loaded tell what its blocks return"),
    Seam("steering/seam_model.py", WORKER,
         "vllm.v1.worker.lora_model_runner_mixin:LoRAModelRunnerMixin.maybe_select_dummy_loras",
         ("lora_config", "num_scheduled_tokens"), "no adapter in such a pass"),
    Seam("steering/seam_model.py", WORKER, "vllm.forward_context:ForwardContext",
         ("skip_compiled", "cudagraph_runtime_mode"),
         "a step that is listened to runs the model's Python"),
    Seam("steering/seam_model.py", WORKER, "vllm.forward_context:get_forward_context", (),
         "that step's context"),
    Seam("steering/seam_model.py", WORKER, "vllm.config:CUDAGraphMode", ("NONE",), "as above"),
    Seam("steering/seam_model.py", WORKER, "vllm.config:ModelConfig",
         ("get_vocab_size", "uses_mrope", "is_multimodal_model", "is_encoder_decoder"),
         "what such a pass is given; encoder-decoders are refused"),
    Seam("steering/seam_lens.py", WORKER,
         "vllm.model_executor.models.interfaces_base:VllmModelForTextGeneration.compute_logits",
         ("hidden_states",), "the logit lens: what the unembedding makes of a vector"),
    Seam("steering/seam_lens.py", WORKER,
         "vllm.v1.worker.lora_model_runner_mixin:LoRAModelRunnerMixin.maybe_select_dummy_loras",
         ("lora_config", "num_scheduled_tokens"), "no adapter in it"),
    Seam("steering/seam_cpu_attention.py", CPU_WORKER,
         "vllm.v1.attention.backends.cpu_attn:CPUAttentionBackendImpl.forward",
         ("layer", "query", "key", "value", "kv_cache", "attn_metadata", "output"),
         "zeros in dummy runs, where the CPU backend leaves memory uninitialised"),
    # Model runner V1
    Seam(_V1, V1_WORKER, "vllm.v1.worker.gpu_model_runner:GPUModelRunner",
         ("requests", "input_batch", "query_start_loc", "positions", "max_num_tokens", "device",
          "get_model", "use_async_spec_decode"),
         "the batch of a step"),
    Seam(_V1, V1_WORKER, "vllm.v1.worker.gpu_model_runner:GPUModelRunner._update_states",
         ("scheduler_output",), "requests come and go"),
    Seam(_V1, V1_WORKER, "vllm.v1.worker.gpu_model_runner:GPUModelRunner._prepare_inputs",
         ("scheduler_output", "num_scheduled_tokens"), "this step's tokens are marked"),
    Seam(_V1, V1_WORKER, "vllm.v1.worker.gpu_model_runner:GPUModelRunner.sample_tokens",
         ("grammar_output",), "the step's output takes our report along"),
    Seam(_V1, V1_WORKER, "vllm.v1.worker.gpu_model_runner:GPUModelRunner._model_forward", (),
         "the gate is open for it alone"),
    Seam(_DUMMY, V1_WORKER, "vllm.v1.worker.gpu_model_runner:GPUModelRunner._dummy_run",
         ("num_tokens", "skip_eplb"), "no token is marked in dummy runs; the self-check's probe"),
    Seam(_V1, V1_WORKER, "vllm.v1.worker.gpu_model_runner:AsyncGPUModelRunnerOutput",
         ("_model_runner_output",), "asynchronous outputs carry the report inside"),
    Seam(_V1, V1_WORKER, "vllm.v1.worker.gpu_input_batch:InputBatch",
         ("req_id_to_index", "num_computed_tokens_cpu"), "which token is whose"),
    Seam(_V1, V1_WORKER, "vllm.v1.worker.gpu_input_batch:CachedRequestState",
         ("num_prompt_tokens",), "position rules count from the end of the prompt"),
    Seam(_V1, V1_WORKER, "vllm.v1.core.sched.output:SchedulerOutput",
         ("total_num_scheduled_tokens", "scheduled_new_reqs", "finished_req_ids"),
         "what a step computes, who came and who ended"),
    Seam(_V1, V1_WORKER, "vllm.v1.core.sched.output:NewRequestData",
         ("req_id", "sampling_params"), "a new request's plan"),
    # Model runner V2
    Seam(_V2, V2_WORKER, "vllm.v1.worker.gpu.model_runner:GPUModelRunner",
         ("model_state", "req_states", "input_buffers", "num_speculative_steps", "max_num_reqs",
          "max_num_tokens", "device", "get_model"), "the batch of a step"),
    Seam(_V2, V2_WORKER, "vllm.v1.worker.gpu.model_runner:GPUModelRunner.finish_requests",
         ("scheduler_output",), "requests go; `remove_request` does not tell who was preempted"),
    Seam(_V2, V2_WORKER, "vllm.v1.worker.gpu.model_runner:GPUModelRunner.sample_tokens",
         ("grammar_output",), "the step's output takes our report along"),
    Seam(_DUMMY, V2_WORKER, "vllm.v1.worker.gpu.model_runner:GPUModelRunner._dummy_run",
         ("num_tokens", "skip_eplb"), "no token is marked in dummy runs; the self-check's probe"),
    Seam(_V2, V2_WORKER, "vllm.v1.worker.gpu.model_states.interface:ModelState",
         ("num_new_sampled_tokens_per_step",), "diffusion models are refused"),
    Seam(_V2, V2_WORKER, "vllm.v1.worker.gpu.model_states.interface:ModelState.add_request",
         ("req_index", "new_req_data"), "requests come"),
    Seam(_V2, V2_WORKER, "vllm.v1.worker.gpu.model_states.interface:ModelState.preprocess_state",
         ("input_batch",), "this step's tokens are marked; a full CUDA graph may replay after it"),
    Seam(_V2, V2_WORKER, "vllm.v1.worker.gpu.async_utils:AsyncOutput",
         ("model_runner_output",), "asynchronous outputs carry the report inside"),
    Seam(_V2, V2_WORKER, "vllm.v1.worker.gpu.states:RequestState", ("req_id_to_index",),
         "who is in the batch"),
    Seam(_V2, V2_WORKER, "vllm.v1.worker.gpu.input_batch:InputBatch",
         ("req_ids", "num_tokens", "query_start_loc_np", "num_scheduled_tokens",
          "num_computed_tokens_np"), "which token is whose"),
    Seam(_V2, V2_WORKER, "vllm.v1.worker.gpu.input_batch:InputBuffers", ("positions",),
         "calibration leaves the first token out"),
    Seam(_V2, V2_WORKER, "vllm.v1.core.sched.output:SchedulerOutput", ("finished_req_ids",),
         "who ended"),
    Seam(_V2, V2_WORKER, "vllm.v1.core.sched.output:NewRequestData",
         ("req_id", "sampling_params", "prompt_len"), "a new request's plan"),
    Seam(_V2, V2_WORKER, "vllm.config:SpeculativeConfig", ("enable_adaptive_verification",),
         "refused"),
    # API server
    Seam("server/plugin.py", API_SERVER, "vllm.plugins.endpoint_plugins.interface:EndpointPlugin",
         ("name", "required_tasks", "attach_router", "init_state"), "our routes and their state"),
    Seam("server/extract/capture.py", API_SERVER, "vllm.sampling_params:SamplingParams",
         ("skip_reading_prefix_cache", "output_kind", "detokenize"),
         "a token from the prefix cache is not computed, and could not be captured"),
    Seam("server/extract/capture.py", API_SERVER, "vllm.sampling_params:RequestOutputKind",
         ("FINAL_ONLY",), "nobody reads the text"),
    Seam("server/extract/capture.py", API_SERVER,
         "vllm.v1.engine.output_processor:OutputProcessor.get_num_unfinished_requests", (),
         "making vectors yields to those who are served"),
    Seam("server/plugin.py", API_SERVER, "vllm.engine.protocol:EngineClient",
         ("vllm_config", "renderer"), "limits; the tokenizer of the calibration"),
    Seam("server/plugin.py", API_SERVER, "vllm.engine.protocol:EngineClient.collective_rpc",
         ("method",), "what the workers can steer"),
    Seam("server/calibrate.py", API_SERVER, "vllm.engine.protocol:EngineClient.generate",
         ("prompt", "sampling_params", "request_id", "data_parallel_rank"),
         "texts whose residual norms are measured"),
    Seam("server/calibrate.py", API_SERVER, "vllm.sampling_params:SamplingParams",
         ("max_tokens", "temperature"), "as above"),
    Seam("server/requests.py", API_SERVER,
         f"{_OPENAI}.chat_completion.protocol:ChatCompletionRequest",
         ("to_sampling_params",), "the request with one more field; its parameters take the plan"),
    Seam("server/requests.py", API_SERVER,
         f"{_OPENAI}.chat_completion.protocol:BatchChatCompletionRequest",
         ("to_chat_completion_request",), "several chats under one steering"),
    Seam("server/requests.py", API_SERVER, f"{_OPENAI}.completion.protocol:CompletionRequest",
         ("to_sampling_params",), "as for chats"),
    Seam("server/requests.py", API_SERVER, f"{_OPENAI}.responses.protocol:ResponsesRequest",
         ("to_sampling_params",), "as for chats"),
    Seam("server/routes.py", API_SERVER, f"{_OPENAI}.chat_completion.api_router",
         ("create_chat_completion", "create_batch_chat_completion"), "vLLM's own handlers answer"),
    Seam("server/routes.py", API_SERVER, f"{_OPENAI}.completion.api_router",
         ("create_completion",), "as above"),
    Seam("server/routes.py", API_SERVER, f"{_OPENAI}.responses.api_router",
         ("create_responses",), "as above"),
    Seam("server/routes.py", API_SERVER, "vllm.entrypoints.serve.engine.protocol:ErrorResponse", (),
         "shape of errors in the OpenAPI page"),
    Seam("server/routes.py", API_SERVER, "vllm.entrypoints.serve.utils.api_utils",
         ("validate_json_request", "with_cancellation"), "as on vLLM's routes"),
    # Launcher: whoever starts `vllm serve` needs none of these.
    Seam("server/launcher.py", LAUNCHER, "vllm.plugins:load_general_plugins", (),
         "a version that is not supported is refused before the rest is imported"),
    Seam("server/launcher.py", LAUNCHER, "vllm.entrypoints.cli.serve:ServeSubcommand", ("cmd",),
         "starts the server from Python"),
    Seam("server/launcher.py", LAUNCHER, "vllm.entrypoints.launchers.cli_args",
         ("make_arg_parser", "validate_parsed_serve_args"), "vLLM's own options"),
    Seam("server/launcher.py", LAUNCHER, "vllm.utils.argparse_utils:FlexibleArgumentParser", (),
         "as above"),
    Seam("server/launcher.py", LAUNCHER, "vllm.platforms:current_platform", (),
         "other defaults on a CPU"),
)  # fmt: skip


def check(*processes: str) -> None:
    """Raise RuntimeError, naming version and seam, unless all seams of `processes` are there.

    Imports what it checks; call it where that is imported anyway.
    """
    missing = lacking(seam for seam in SEAMS if seam.process in processes)
    if missing:
        import vllm

        raise RuntimeError(
            f"Steersman cannot attach to vLLM {vllm.__version__}: {'; '.join(missing)}. Install a "
            "vLLM that Steersman supports (docs/seams.md), or take steersman out of VLLM_PLUGINS."
        )
