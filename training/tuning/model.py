"""A model for training: loaded from a folder, prepared for its tuning, written to files, and the files checked."""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal

from gristmill.cluster.contract.errors import RunError
from gristmill.training.tuning.contracts import Tuning
from gristmill.training.tuning.stops import stop_at

ADAPTER, MERGED = "adapter", "merged"
Precision = Literal["bf16", "fp16", "fp32"]
Attention = Literal["auto", "eager", "sdpa", "flash_attention_2"]
PRECISIONS: dict[str, Precision] = {"bfloat16": "bf16", "float16": "fp32", "float32": "fp32"}
"""Precision of training and scoring, by the type in which inference would compute."""


def load(  # the class is the model's own
    folder: str,
    precision: Precision,
    attention: Attention = "auto",
    dropout: float | None = None,
    tuning: Tuning | None = None,
) -> Any:  # noqa: ANN401
    """Load a causal language model. Its weights, frozen ones too, have the precision of the computation.

    Args:
        folder: the model's folder.
        precision: precision of the computation.
        attention: the implementation of attention.
        dropout: value of every dropout probability of the config; as they are by default.
        tuning: the tuning that the model is loaded for, which may store its weights in another way.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    how: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    if dropout is not None:
        how["config"] = AutoConfig.from_pretrained(folder)
        inner = how["config"].get_text_config()
        for name in dropouts(inner.to_dict()):
            setattr(inner, name, dropout)
    how |= tuning.loading(dtype) if tuning else {}
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **how)
    loaded.config.use_cache = False  # the cache, which is on by default, would let packed samples see each other
    return loaded


def dropouts(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the dropout probabilities in a model's config."""
    numbers = [name for name, value in config.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    return [name for name in numbers if "dropout" in name or name.endswith("pdrop")]


def reset_dropout(config: Any, folder: str) -> None:  # noqa: ANN401 - the class is the model's own
    """Set the dropout probabilities of a config to those of the model in a folder."""
    from transformers import AutoConfig

    own = AutoConfig.from_pretrained(folder).get_text_config()
    for name in dropouts(own.to_dict()):
        setattr(config.get_text_config(), name, getattr(own, name))


def trainable(model: Any, tuning: Tuning, seed: int, *, recompute: bool) -> Any:  # noqa: ANN401
    """Return a loaded model ready for training.

    Args:
        model: a loaded model.
        tuning: which weights are trained.
        seed: seed of random first values.
        recompute: whether to recompute activations in the backward pass instead of keeping them.
    """
    import torch

    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if tuning.adapter:
            model.enable_input_require_grads()
    torch.manual_seed(seed)
    return tuning.begin(model)


def initial(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return copies of the parameters that will be trained, by name; they must not be partitioned."""
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def write_adapter(model: Any, state: dict[str, Any], folder: Path) -> None:  # noqa: ANN401
    """Write the adapters of a PEFT model as safetensors, then read the file to check that it is complete.

    Args:
        model: the PEFT model; its own tensors are not read, because they may be partitioned.
        state: the unsplit tensors by name. If their rank is not the model's, the adapter is written without a scale.
        folder: folder to write to.

    Raises:
        RunError: when a tensor is not in the file, or differs there.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file, save_file

    rank = next(len(tensor) for name, tensor in state.items() if ".lora_A." in name)
    said = copy(model.peft_config["default"])
    said.inference_mode = True
    if rank != said.r:
        said.r = said.lora_alpha = rank
        said.init_lora_weights, said.use_rslora = True, False
    for name, value in vars(said).items():
        if isinstance(value, set):  # whose order differs from process to process
            setattr(said, name, sorted(value))
    folder.mkdir(parents=True, exist_ok=True)
    said.save_pretrained(str(folder))
    named = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in named.items()}, str(path), {"format": "pt"})
    written = load_file(str(path))
    if len(written) != len(state):
        raise RunError(f"{path}: {len(written)} tensors, must be {len(state)}; this is a fault of Gristmill")
    _require_equal(path, written, named)


def adapted(base: Any, adapter: Path) -> Any:  # noqa: ANN401
    """Return a loaded base model with adapters, not merged."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(adapter)).eval()


def merged(model: Any, ids: Sequence[int]) -> tuple[Any, float]:  # noqa: ANN401
    """Return a model with its adapters merged, and the largest change of a logit of the tokens `ids` by the merge."""
    import torch

    with torch.no_grad():
        before = _logits(model(input_ids=torch.tensor([ids])))
        whole = model.merge_and_unload()
        after = _logits(whole(input_ids=torch.tensor([ids])))
    return whole, float((after - before).abs().nan_to_num(0.0).max())


def _logits(output: Any) -> Any:  # noqa: ANN401 - tensors
    """Return the logits of a model, also those of the begin and the end of an answer."""
    import torch

    both = (output.start_logits, output.end_logits) if "start_logits" in output else (output.logits,)
    return torch.cat(both).float()


def write_model(
    model: Any,  # noqa: ANN401
    tok: Any,  # noqa: ANN401
    stops: Sequence[int],
    folder: Path,
    state: dict[str, Any] | None = None,
    auto: Any = None,  # noqa: ANN401
) -> None:
    """Write a model with its tokenizer, in files that transformers and vLLM load.

    The written model stops at the tokens that ended answers in training. It is loaded again, and every tensor is
    compared, which needs the memory of a second model.

    Args:
        model: the trained model.
        tok: the tokenizer that it was trained with.
        stops: ids of the tokens that ended answers, the most frequent first.
        folder: folder to write to.
        state: the model's unsplit weights, if its own may be partitioned.
        auto: the class of transformers that loads the model; by default that of causal language models.

    Raises:
        RunError: when a tensor of the model that is loaded again differs.
    """
    from transformers import AutoModelForCausalLM

    stop_at(model, tok, stops)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = True
    model.save_pretrained(str(folder), state_dict=state)
    tok.save_pretrained(str(folder))
    again = (auto or AutoModelForCausalLM).from_pretrained(str(folder), dtype=model.dtype)
    _require_equal(folder, again.state_dict(), model.state_dict() if state is None else state)


def _require_equal(path: Path, written: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse written tensors that differ from the wanted ones; numbers that are not finite equal themselves."""
    import torch

    for name, tensor in wanted.items():
        found = written.get(name)
        if found is None or not torch.equal(found.nan_to_num(), tensor.detach().cpu().nan_to_num()):
            what = "is not there" if found is None else "differs from the tensor that was trained"
            raise RunError(f"{path}: {name} {what}, must be equal; this is a fault of Gristmill")
