"""Tiny sizes: what every configuration gets, and what single model types need on top of it.

`SIZES` holds, for a field name, the value that any configuration class with such a field gets. `OVERRIDES`
holds per model type (of a whole model or of a nested text/vision/audio configuration) what differs, because
the architecture asks for it (`DROP` leaves a field at the value the class itself computes).
E = 10 and k = 3 differ from every other dimension, so that a tracer that guesses by shape gets caught.
"""

from typing import Any

DROP = object()
NUM_EXPERTS = 10
TOP_K = 3
HIDDEN_SIZE = 32

SIZES: dict[str, Any] = {
    # what routing is about
    "num_experts": NUM_EXPERTS, "num_local_experts": NUM_EXPERTS, "n_routed_experts": NUM_EXPERTS,
    "moe_num_experts": NUM_EXPERTS, "num_experts_per_tok": TOP_K, "moe_top_k": TOP_K, "moe_topk": TOP_K,
    "moe_k": TOP_K, "top_k_experts": TOP_K, "n_shared_experts": 1, "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    # widths
    "vocab_size": 128, "hidden_size": HIDDEN_SIZE, "d_model": HIDDEN_SIZE,
    "intermediate_size": 48, "ffn_hidden_size": 48, "d_ff": 48, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "moe_intermediate_size": 16,
    "expert_ffn_hidden_size": 16, "shared_expert_intermediate_size": 16, "shared_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16, "dense_intermediate_size": 48, "share_expert_dim": 16,
    "out_hidden_size": 32, "text_hidden_size": 32, "projector_hidden_size": 32,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 128, "mlp_dim": 48, "downsample_hidden_size": 16,
    # depths
    "num_hidden_layers": 4, "num_layers": 4, "n_layers": 4, "encoder_layers": 4, "decoder_layers": 4,
    "num_decoder_layers": 4, "depth": 1, "num_mtp_layers": 0,
    # attention
    "num_attention_heads": 4, "num_heads": 4, "n_heads": 4, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "kv_channels": 8, "d_kv": 8,
    "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "o_lora_rank": 8, "o_groups": 2, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 64,
    "max_position_embeddings": 256, "model_max_length": 256, "max_seq_len": 256, "sliding_window": 8,
    "sliding_window_size": 8, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_head_dim": 8,
    "rel_extent": 16, "d_rel": 4,
    # state-space and linear attention
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_expand": 2,
    "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1,
    "use_mamba_kernels": False,
    # pixels (all tests are text only)
    "patch_size": 4, "image_size": 16,
    # the rest: weights wide enough that context reaches the routers; special tokens inside the vocabulary
    "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1,
}  # fmt: skip

SMALL_IMAGE = (24, 16)

GROUPS = {"n_group": 2, "topk_group": 1}

DENSE_THEN_SPARSE = {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}
HYBRID = {"layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"]}
SMALL_SAM = {"downsample_channels": [32, 32], "output_channels": 32, "global_attn_indexes": (1,)}

OVERRIDES: dict[str, dict[str, Any]] = {
    "axk1": GROUPS,
    "bailing_hybrid": GROUPS | HYBRID,
    "beam": GROUPS | DENSE_THEN_SPARSE,
    "DbrxAttentionConfig": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
    "DbrxFFNConfig": {"ffn_hidden_size": 16},
    "deepseek_ocr2_encoder": {"head_dim": DROP},
    "deepseek_ocr2_sam_vision_model": SMALL_SAM,
    "deepseek_ocr2_text": DENSE_THEN_SPARSE | {"head_dim": DROP},
    "deepseek_v2": GROUPS | {"topk_method": "group_limited_greedy"},
    "deepseek_v3": GROUPS,
    "deepseek_v32": GROUPS,
    "deepseek_v4": {"mlp_layer_types": ["hash_moe", "hash_moe", "moe", "moe"]},
    "diffusion_gemma": {"canvas_length": 6},
    "diffusion_gemma_text": {"global_head_dim": 8},
    "doge": {"is_moe": True, "num_experts": 25},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32, "num_hidden_layers": 1},
    "dots3_note_text": {
        "shared_experts_intermediate_size": 16, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16, "swa_kv_lora_rank": 8, "swa_head_dim": 16, "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8, "head_dim": 16,
    },
    "dots3_note_vision_encoder": {
        "pyramid_num_routed": [-1, -1, 6, 12], "adapter_in_dim": 32, "adapter_out_dim": 32,
        "mlp_layer_types": DROP, "num_local_experts": 12, "num_experts_per_tok": 2,
    },
    "ernie4_5_vl_moe_text": DENSE_THEN_SPARSE | {
        "moe_intermediate_size": [16, 24],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]},
    },
    "flint": {"mlp_only_layers": [0]},
    "gemma4_text": {"enable_moe_block": True, "global_head_dim": 8},
    "glm4v_moe_text": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 0, 1]}
    },
    "glm5_next_text": DENSE_THEN_SPARSE | {
        "qk_rope_head_dim": 0, "head_dim": 0, "linear_head_dim": 8, "linear_num_heads": 4
    },
    "glm5_next_vision": {"projection_intermediate_size": 48},
    "granitemoehybrid": HYBRID,
    "inkling_text": {"n_shared_experts": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": HYBRID | {"linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "llama4_text": {"num_experts_per_tok": 2, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 48},
    "llama4_vision_model": {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
    "longcat_flash": {"zero_expert_num": 4, "num_layers": 3},
    "mimo_v2_flash": {"head_dim": 24, "v_head_dim": 8, "num_key_value_heads": 2},
    "mistral4": GROUPS,
    "mistral_large4_text": GROUPS,
    "muse_spark_audio": {"hidden_sizes": (8, 16, 16, 32), "depths": (1, 1, 1, 1)},
    "muse_spark_text": {"moe_hidden_size": 24},
    "nemotron3_5_transcribe_word_timestamp": {"blank_token_id": 127},
    "nemotron3_diarization": {"head_config": {"audio_hidden_size": 32}},
    "nemotron_h": GROUPS | {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"], "moe_latent_size": 24
    },
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}, "vision_hidden_size": 32},
    "nllb-moe": {"encoder_sparse_step": 2, "decoder_sparse_step": 2},
    "Qwen3OmniMoeTalkerConfig": {"spatial_merge_size": 2, "thinker_hidden_size": 32},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 16},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 151652},
    "qwen4_exp_text": {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "step3p5": DENSE_THEN_SPARSE,
    "switch_transformers": {"num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2},
    "unlimited_ocr_sam_vision_model": SMALL_SAM,
    "vitpose_backbone": {
        "num_experts": 6, "part_features": 8, "num_labels": 4, "image_size": SMALL_IMAGE, "patch_size": (8, 8)
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}  # fmt: skip
