# ruff: noqa: E501 - lists of names
"""Tiny random models of every architecture of transformers that can be made without its weights."""

from typing import Any

SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""Values of a config, as far as it has them."""
NO_HEAD_DIM: dict[str, Any] = {"head_dim": None}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_chunk_size": 16, "mamba_expand": 2}
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"], "shared_expert_intermediate_size": 16,
}  # fmt: skip
OVER: dict[str, dict[str, Any]] = {
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    "falcon": {**NO_HEAD_DIM},
    "falcon alibi": {**NO_HEAD_DIM, "alibi": True},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64, "mamba_d_state": 16, "mamba_chunk_size": 16},
    "gpt_oss": {"sliding_window": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 16},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 16, "chunk_size": 16, "n_groups": 1},
    "qwen3_5_text": LINEAR,
    "qwen3_5_moe_text": LINEAR,
    "qwen3_next": LINEAR,
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 64},
    "rwkv": {"attention_hidden_size": 32, "context_length": 512},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"], "mamba_d_state": 16,
               "n_mamba_heads": 8, "mamba_headdim": 8, "chunk_size": 16, "hybrid_layer_ids": [1]},
}  # fmt: skip
"""What some of them need; a name may have a word after it that says which form it is."""
NAMES = (
    "afmoe", "apertus", "arcee", "bamba", "bart", "biogpt", "bitnet", "bloom", "codegen", "cohere", "cohere2", "ctrl",
    "cwm", "diffllama", "doge", "dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "falcon", "falcon alibi", "falcon_h1",
    "falcon_mamba", "flex_olmo", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "glm4_moe", "gpt2", "gpt_bigcode",
    "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "granitemoehybrid", "granitemoeshared", "helium",
    "hunyuan_v1_dense", "hunyuan_v1_moe", "jamba", "jetmoe", "lfm2", "llama", "llama4_text", "mamba", "mamba2", "minimax",
    "ministral", "mistral", "mixtral", "modernbert-decoder", "mpt", "nanochat", "nemotron", "olmo", "olmo2", "olmo3",
    "olmo_hybrid", "olmoe", "openai-gpt", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_5_text", "qwen3_moe", "qwen3_next", "recurrent_gemma", "rwkv", "seed_oss", "smollm3", "stablelm",
    "starcoder2", "vaultgemma", "xglm", "zamba2",
)  # fmt: skip


def tiny(name: str, dtype: str = "float32") -> Any:
    """Return a random model of two or three small layers, in evaluation mode."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind = CONFIG_MAPPING[name.split(maxsplit=1)[0]]
    base = kind()
    values = {key: value for key, value in SMALL.items() if hasattr(base, key)} | OVER.get(name, {})
    config = kind(**{key: value for key, value in values.items() if value is not None})
    config.use_cache = False
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for parameter in model.parameters():  # else some begin at 0, and a random model of small weights says little
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
    return model.eval()
