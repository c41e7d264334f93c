"""A model for training: loaded from a folder, given low-rank adapters if wanted, and written out again.

Source: low-rank adapters: Hu et al. 2021, arXiv:2106.09685, section 4; on all linear layers: Dettmers et al. 2023,
arXiv:2305.14314, section 4.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.contract.settings import Settings
from gristmill.training.tuning.stops import stop_at

ADAPTER, MERGED = "adapter", "merged"
Precision = Literal["bf16", "fp32"]
PRECISIONS: dict[str, Precision] = {"bfloat16": "bf16", "float16": "fp32", "float32": "fp32"}
"""Precision of training and scoring, by the type that inference would compute in."""


class Lora(Settings):
    """`[train.lora]`: the small matrices that are trained in addition to the frozen weights."""

    r: int = Field(default=16, gt=0)
    """Rank of the matrices."""
    alpha: int = Field(default=32, gt=0)
    """The product of the matrices is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the inputs of the matrices that is dropped."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get adapters; `all-linear` is all linear layers except the head."""


def load(folder: str, precision: Precision) -> Any:  # noqa: ANN401 - the class is the model's own
    """Load a causal language model; frozen weights have the precision that training computes in."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    loaded.config.use_cache = False  # a cache, which is on by default, would let packed samples see each other
    return loaded


def trainable(model: Any, lora: Lora | Literal["none"], seed: int, *, recompute: bool) -> Any:  # noqa: ANN401
    """Return the model with its adapters, whose first values are drawn from `seed`.

    Args:
        model: a loaded model.
        lora: the adapters, or `none` to train every weight.
        seed: seed of the random matrices.
        recompute: recompute activations in the backward pass instead of keeping them.
    """
    import torch

    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if lora == "none":
        return model
    from peft import LoraConfig, get_peft_model

    if recompute:
        model.enable_input_require_grads()
    layers = lora.target_modules if lora.target_modules == "all-linear" else list(lora.target_modules)
    wanted = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=layers, task_type="CAUSAL_LM"
    )
    torch.manual_seed(seed)
    return get_peft_model(model, wanted, autocast_adapter_dtype=False)


def write_adapter(model: Any, state: dict[str, Any], folder: Path) -> None:  # noqa: ANN401
    """Write the adapters of a PEFT model as safetensors, and read the file again to check that it is complete.

    Args:
        model: the PEFT model; its own tensors are not read, because they may be partitioned.
        state: its trainable parameters by name, whole.
        folder: folder to write to.

    Raises:
        RunError: when the file does not hold every tensor, finite and of the right size.
    """
    import torch
    from safetensors.torch import load_file

    model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
    written = load_file(str(folder / "adapter_model.safetensors"))
    numbers, wanted = sum(t.numel() for t in written.values()), sum(t.numel() for t in state.values())
    if numbers != wanted or len(written) != len(state):
        raise RunError(f"{folder}: {len(written)} tensors of {numbers} numbers, must be {len(state)} of {wanted}")
    for name, tensor in written.items():
        if not bool(torch.isfinite(tensor).all()):
            raise RunError(
                f"{folder}: {name} holds numbers that are not finite; lower train.learning_rate and run again"
            )


def merged(base: str, adapter: Path, precision: Precision) -> Any:  # noqa: ANN401
    """Return base model plus adapters as one model."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load(base, precision), str(adapter)).merge_and_unload()


def write_model(
    model: Any,  # noqa: ANN401
    tok: Any,  # noqa: ANN401
    stops: Sequence[int],
    folder: Path,
    state: dict[str, Any] | None = None,
) -> None:
    """Write a model with its tokenizer, as transformers and vLLM load it; it stops where its answers ended in training.

    Args:
        model: the trained model.
        tok: the tokenizer that it was trained with.
        stops: ids of the tokens that ended answers, the most frequent first.
        folder: folder to write to.
        state: its weights, whole, where the model's own may be partitioned.
    """
    stop_at(model, tok, stops)
    model.config.use_cache = True
    model.save_pretrained(str(folder), state_dict=state)
    tok.save_pretrained(str(folder))
