"""The families of models in the matrix.

`docs/models.md` is written from this list (`python -m tests.support.models.table`) and
`test_models.py` proves each entry on a real engine.
"""

from tests.support.models.family import LAYERS, SIZES, STREAM_ONLY, VOCABULARY, Family

NO_SIZES = dict.fromkeys(
    set(SIZES) - {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}
)
GPT = NO_SIZES | {"n_embd": 64, "n_layer": LAYERS, "n_head": 2, "n_positions": 128}
OPT = {
    "intermediate_size": None,
    "num_key_value_heads": None,
    "ffn_dim": 96,
    "word_embed_proj_dim": 64,
}
# It would be believed by vLLM's Transformers backend, and not by the model.
NEOX = {"num_key_value_heads": None}
HEADS = {"head_dim": 32}
MOE = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
SMALL_EXPERTS = MOE | {"moe_intermediate_size": 32}
SHARED_EXPERT = SMALL_EXPERTS | {"shared_expert_intermediate_size": 48}
DEEPSEEK = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
# The one size that vLLM's CPU attention has for it: 512 + 64.
MLA = {
    "num_key_value_heads": 2,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 16,
    "v_head_dim": 32,
}
SLIDING = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
PER_LAYER = SLIDING | {
    "head_dim": 32,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": VOCABULARY,
    "num_kv_shared_layers": 0,
}
MAMBA2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
IMAGE_TOKENS = {
    "image_token_id": 300,
    "video_token_id": 301,
    "vision_start_token_id": 302,
    "vision_end_token_id": 303,
}
NO_IMAGES = {"limit_mm_per_prompt": {"image": 0, "video": 0}}

POST_ATTENTION, BEFORE_MLP = "post_attention_layernorm", "pre_feedforward_layernorm"
NORMED = "norms after the branches"
SCALED = "scaled branches"

FAMILIES = (
    Family("Llama", "LlamaConfig", mid=POST_ATTENTION, quick=True),
    Family("Mistral", "MistralConfig"),
    Family("Qwen2", "Qwen2Config"),
    Family("Qwen3", "Qwen3Config", HEADS),
    Family("Gemma", "GemmaConfig", HEADS),
    Family("Gemma-2", "Gemma2Config", HEADS, STREAM_ONLY, mid=BEFORE_MLP, note=NORMED),
    Family(
        "Gemma-3",
        "Gemma3TextConfig",
        HEADS,
        STREAM_ONLY,
        mid=BEFORE_MLP,
        note=NORMED,
        quick=True,
    ),
    Family(
        "Gemma-4", "Gemma4TextConfig", PER_LAYER | {"global_head_dim": 32}, STREAM_ONLY, note=NORMED
    ),
    Family(
        "Gemma-3n",
        "Gemma3nTextConfig",
        PER_LAYER
        | {
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.0] * 3,
            "intermediate_size": [96] * 3,
        },
        refused="and returned 0",
        note="four streams at once (AltUp)",
    ),
    Family("Phi", "PhiConfig", {"partial_rotary_factor": 0.5}),
    Family("Phi-3", "Phi3Config"),
    Family(
        "GPT-2",
        "GPT2Config",
        GPT,
        blocks="transformer.h",
        attn=("attn",),
        mid="ln_2",
        quick=True,
    ),
    Family("GPT-J", "GPTJConfig", GPT | {"rotary_dim": 16}, blocks="transformer.h", attn=("attn",)),
    Family("GPT-BigCode", "GPTBigCodeConfig", GPT, blocks="transformer.h", attn=("attn",)),
    Family("GPT-NeoX", "GPTNeoXConfig", NEOX, blocks="gpt_neox.layers", attn=("attention",)),
    Family(
        "GPT-NeoX, sequential",
        "GPTNeoXConfig",
        NEOX | {"use_parallel_residual": False},
        blocks="gpt_neox.layers",
        attn=("attention",),
    ),
    Family(
        "OPT", "OPTConfig", OPT, STREAM_ONLY, blocks="model.decoder.layers", note="no MLP module"
    ),
    Family(
        "OPT, post-norm",
        "OPTConfig",
        OPT | {"do_layer_norm_before": False},
        STREAM_ONLY,
        blocks="model.decoder.layers",
        note="norms after the branches",
    ),
    Family(
        "BLOOM",
        "BloomConfig",
        NO_SIZES | {"hidden_size": 64, "n_layer": LAYERS, "n_head": 2},
        blocks="transformer.h",
        attn=("self_attention",),
        activation=("mlp.gelu_impl", "gelu"),
        note="vLLM has the exact GELU, and so has the reference here",
    ),
    Family(
        "Falcon",
        "FalconConfig",
        {"intermediate_size": None, "num_key_value_heads": None},
        blocks="transformer.h",
        attn=("self_attention",),
    ),
    Family("StarCoder2", "Starcoder2Config"),
    Family("StableLM", "StableLmConfig"),
    Family("OLMo", "OlmoConfig"),
    Family("OLMo-2", "Olmo2Config", {}, STREAM_ONLY, note=NORMED),
    Family("OLMo-3", "Olmo3Config", {}, STREAM_ONLY, note=NORMED),
    Family("OLMoE", "OlmoeConfig", SMALL_EXPERTS),
    Family("Granite", "GraniteConfig", {"residual_multiplier": 0.5}, STREAM_ONLY, note=SCALED),
    Family(
        "Granite-MoE",
        "GraniteMoeConfig",
        MOE | {"residual_multiplier": 0.5},
        STREAM_ONLY,
        note=SCALED,
    ),
    Family(
        "Granite-4 hybrid",
        "GraniteMoeHybridConfig",
        MOE
        | MAMBA2
        | {
            "residual_multiplier": 0.5,
            "layer_types": ["mamba", "attention", "mamba"],
            "shared_intermediate_size": 96,
        },
        STREAM_ONLY,
        note=SCALED,
    ),
    Family("Cohere", "CohereConfig"),
    Family("Cohere-2", "Cohere2Config", HEADS),
    Family(
        "Mixtral",
        "MixtralConfig",
        MOE,
        mlp=("block_sparse_moe", "mlp"),
        mid=POST_ATTENTION,
        quick=True,
    ),
    Family("Qwen2-MoE", "Qwen2MoeConfig", SHARED_EXPERT),
    Family("Qwen3-MoE", "Qwen3MoeConfig", SMALL_EXPERTS | HEADS),
    Family(
        "Phi-MoE",
        "PhimoeConfig",
        MOE,
        # As its checkpoints call it, and vLLM; transformers would write another name.
        engine={"hf_overrides": {"architectures": ["PhiMoEForCausalLM"]}},
        mlp=("block_sparse_moe", "mlp"),
        refused="what is added to the output of block 0 (PhiMoEDecoderLayer) is lost",
    ),
    Family(
        "Llama-4",
        "Llama4TextConfig",
        MOE
        | HEADS
        | {
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 96,
            "interleave_moe_layer_step": 2,
        },
        mlp=("feed_forward",),
    ),
    Family(
        "DeepSeek-V2",
        "DeepseekV2Config",
        DEEPSEEK | MLA | {"q_lora_rank": None},
        unproven="unsteered, vLLM is not Hugging Face's equal; cause unknown",
    ),
    Family(
        "DeepSeek-V3",
        "DeepseekV3Config",
        DEEPSEEK | MLA | {"q_lora_rank": 32, "topk_method": "noaux_tc"},
        unproven="unsteered, vLLM is not Hugging Face's equal; cause unknown",
    ),
    Family("gpt-oss", "GptOssConfig", MOE | HEADS),
    Family("SmolLM-3", "SmolLM3Config"),
    Family("Ernie-4.5", "Ernie4_5Config", HEADS),
    Family("EXAONE-4", "Exaone4Config", {}, STREAM_ONLY, note=NORMED),
    Family("GLM-4", "Glm4Config", HEADS, STREAM_ONLY, mid=POST_ATTENTION, note=NORMED),
    Family("GLM-4-MoE", "Glm4MoeConfig", DEEPSEEK | HEADS),
    Family(
        "Apertus",
        "ApertusConfig",
        activation=("mlp.act_fn", "xielu"),
        note="vLLM has xIELU's parameters in bfloat16, and so has the reference here",
    ),
    Family("Seed-OSS", "SeedOssConfig", HEADS),
    Family("Nemotron", "NemotronConfig"),
    Family(
        "Mamba",
        "MambaConfig",
        NO_SIZES | {"hidden_size": 64, "num_hidden_layers": LAYERS, "state_size": 16},
        impossible="selective_scan_fwd",
    ),
    Family(
        "Mamba-2",
        "Mamba2Config",
        NO_SIZES
        | {
            "hidden_size": 64,
            "num_hidden_layers": LAYERS,
            "state_size": 16,
            "num_heads": 4,
            "head_dim": 32,
            "n_groups": 1,
            "chunk_size": 16,
        },
        ("resid_post", "attn_out"),
        blocks="backbone.layers",
        attn=("mixer",),
    ),
    Family(
        "Jamba",
        "JambaConfig",
        MOE
        | {
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 16,
            "use_mamba_kernels": False,
        },
        impossible="selective_scan_fwd",
    ),
    Family(
        "Bamba",
        "BambaConfig",
        MAMBA2 | {"attn_layer_indices": [1]},
        impossible="does not dispatch through the Transformers attention interface",
    ),
    Family(
        "Falcon-H1",
        "FalconH1Config",
        MAMBA2 | HEADS | {"mamba_d_ssm": 128},
        ("resid_post", "mlp_out"),
        mlp=("feed_forward",),
    ),
    Family(
        "Zamba-2",
        "Zamba2Config",
        {
            "num_hidden_layers": 4,
            "num_key_value_heads": 2,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "hybrid_layer_ids": [1, 3],
            "num_mem_blocks": 1,
            "mamba_d_state": 16,
            "mamba_ngroups": 1,
            "n_mamba_heads": 4,
            "mamba_headdim": 32,
            "attention_head_dim": 64,
            "chunk_size": 16,
            "adapter_rank": 8,
        },
        STREAM_ONLY,
    ),
    Family(
        "Nemotron-H",
        "NemotronHConfig",
        HEADS
        | {
            "num_hidden_layers": None,
            "layers_block_type": ["mamba", "attention", "mlp", "mamba"],
            "ssm_state_size": 16,
            "mamba_num_heads": 4,
            "mamba_head_dim": 32,
            "n_groups": 1,
            "chunk_size": 16,
        },
        STREAM_ONLY,
    ),
    Family(
        "LFM-2",
        "Lfm2Config",
        {
            "layer_types": ["conv", "full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
            "conv_dim": 64,
            "block_dim": 64,
        },
        sites=("resid_post", "mlp_out"),
        mlp=("feed_forward",),
        unproven="unsteered, vLLM is not Hugging Face's equal after the first token; cause unknown",
    ),
    Family(
        "Qwen3-Next",
        "Qwen3NextConfig",
        SHARED_EXPERT
        | HEADS
        | {
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
        },
        impossible="requires BF16",
    ),
    Family(
        "Qwen2-VL",
        "Qwen2VLConfig",
        {
            "text_config": SIZES
            | {
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_section": [4, 6, 6],
                }
            },
            "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
            **SPECIAL,
            **IMAGE_TOKENS,
        },
        engine=NO_IMAGES,
        blocks="model.language_model.layers",
        auto="AutoModelForImageTextToText",
        needs="torchvision",
    ),
    Family(
        "LLaVA",
        "LlavaConfig",
        {
            "text_config": SIZES | {"model_type": "llama"},
            "vision_config": VISION | {"model_type": "clip_vision_model"},
            "image_token_index": 300,
        },
        engine={"limit_mm_per_prompt": {"image": 0}},
        blocks="model.language_model.layers",
        auto="AutoModelForImageTextToText",
        needs="torchvision",
    ),
    Family(
        "Gemma-3, with images",
        "Gemma3Config",
        {
            "text_config": SIZES | HEADS,
            "vision_config": VISION,
            "mm_tokens_per_image": 4,
            "image_token_index": 300,
            "boi_token_index": 301,
            "eoi_token_index": 302,
        },
        STREAM_ONLY,
        engine={"limit_mm_per_prompt": {"image": 0}},
        blocks="model.language_model.layers",
        auto="AutoModelForImageTextToText",
        needs="torchvision",
        note=NORMED,
    ),
    Family(
        "PaliGemma",
        "PaliGemmaConfig",
        {
            "text_config": SIZES | HEADS | {"model_type": "gemma"},
            "vision_config": VISION | {"model_type": "siglip_vision_model", "projection_dim": 64},
            "image_token_index": 300,
        },
        engine={"limit_mm_per_prompt": {"image": 0}},
        blocks="model.language_model.layers",
        auto="AutoModelForImageTextToText",
    ),
    Family(
        "SmolVLM",
        "SmolVLMConfig",
        {
            "text_config": SIZES | {"model_type": "llama"},
            "vision_config": VISION,
            "image_token_id": 300,
            "scale_factor": 2,
        },
        engine=NO_IMAGES,
        blocks="model.text_model.layers",
        auto="AutoModelForImageTextToText",
    ),
    Family(
        "Whisper",
        "WhisperConfig",
        NO_SIZES
        | {
            "d_model": 64,
            "encoder_layers": LAYERS,
            "decoder_layers": LAYERS,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 96,
            "num_mel_bins": 80,
            "max_source_positions": 64,
            "max_target_positions": 128,
            "decoder_start_token_id": 1,
            "begin_suppress_tokens": None,
        },
        engine={"skip_tokenizer_init": False},
        tokenizer="whisper",
        auto="AutoModelForSpeechSeq2Seq",
        refused="is an encoder-decoder",
        note="encoder-decoder",
    ),
)
