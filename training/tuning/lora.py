"""Low-rank adapters: small matrices that are trained in addition to the frozen weights."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from gristmill.training.tuning.contracts import Tuning, head_modules


class LowRank(Tuning):
    """Adapters of the linear layers: two small matrices for each."""

    usual_rate: ClassVar[float] = 1e-3
    partial: ClassVar[bool] = True
    adapter: ClassVar[bool] = True
    name: ClassVar[str] = "LoRA"

    r: int = Field(default=16, gt=0)
    """Rank of the adapters' matrices."""
    alpha: int = Field(default=32, gt=0)
    """The product of the matrices is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the matrices' inputs that is dropped at random."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get adapters; `all-linear` is all linear layers except the head."""
    rslora: bool = False
    """Scale by alpha / √r instead (rsLoRA), so that steps do not become smaller with a larger rank."""
    dora: bool = False
    """Train the length of each row of the adapted weights separately (DoRA); slower."""
    init: Literal["zero", "pissa"] = "zero"
    """First values. `zero`: the adapters change nothing at first. `pissa`: they hold the largest singular values of the
    weights."""
    b_rate: float = Field(default=1.0, ge=1)
    """Learning rate of the matrices B, as a multiple of `learning_rate`, which is the rate of the matrices A. This is
    LoRA+; the paper uses 16."""

    @model_validator(mode="after")
    def _one_change(self) -> Self:
        if self.dora and self.init == "pissa":
            raise ValueError(
                'dora = true with init = "pissa", must be one of them: no adapter fits the base model then'
            )
        return self

    @property
    def said(self) -> str:
        """The trained weights in words."""
        extra = (("rsLoRA", self.rslora), ("DoRA", self.dora), ("PiSSA", self.init == "pissa"))
        names = [*(name for name, there in extra if there), *(["LoRA+"] if self.b_rate != 1 else [])]
        return " ".join((f"{self.name} r={self.r}", *names))

    @property
    def changes_base(self) -> bool:
        """Whether `begin` changes weights that are not trained."""
        return self.init == "pissa"

    def problems(self, stage: int) -> Iterator[str]:
        """Yield the settings that a stage of ZeRO does not support."""
        for name, value in (("dora: true", self.dora), ('init: "pissa"', self.init == "pissa")):
            if value and stage == 3:
                yield f"tuning.{name} at zero.stage 3, must be 0, 1 or 2; it begins with whole weights of the base"

    def begin(self, model: Any) -> Any:  # noqa: ANN401 - as `Tuning.begin`
        """Return the model with its adapters, in the precision of its weights."""
        from peft import LoraConfig, get_peft_model

        head = head_modules(model)
        layers = self.target_modules if self.target_modules == "all-linear" else list(self.target_modules)
        if head and layers == "all-linear":  # PEFT knows the heads of some models only
            layers = list(_linear(model, head))
        wanted = LoraConfig(
            r=self.r, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=layers,
            task_type=getattr(model, "peft_task", "CAUSAL_LM"), modules_to_save=head, exclude_modules=head,
            use_rslora=self.rslora, use_dora=self.dora,
            init_lora_weights=cast("bool", self.init == "zero" or "pissa_niter_4"),  # PEFT's type has a placeholder
        )  # fmt: skip
        dtype = next(model.parameters()).dtype
        made = get_peft_model(model, wanted, autocast_adapter_dtype=False)
        for parameter in made.parameters():
            if parameter.requires_grad and parameter.dtype != dtype:  # PiSSA makes them in float32
                parameter.data = parameter.data.to(dtype)
        return made

    def relative_rate(self, name: str) -> float:
        """Return the learning rate of a parameter, as a multiple of `train.learning_rate`."""
        return self.b_rate if ".lora_B." in name else 1.0

    def exported(self, state: Mapping[str, Any], initial: Mapping[str, Any]) -> dict[str, Any]:
        """Return the trained tensors of an adapter for the unchanged base model.

        With PiSSA, the base model with its adapter is W - s B0 A0 + s B A. This equals W + [s B, -s B0] [A; A0], an
        adapter of twice the rank without a scale.
        """
        import torch

        if self.init != "pissa":
            return dict(state)
        scale = self.alpha / (math.sqrt(self.r) if self.rslora else self.r)
        found = {}
        for name, tensor in state.items():
            if ".lora_" not in name:  # the head of a task
                found[name] = tensor
                continue
            first = initial[name]
            pair = (scale * tensor, -scale * first) if ".lora_B." in name else (tensor, first)
            found[name] = torch.cat(pair, dim=1 if ".lora_B." in name else 0)
        return found


class Lora(LowRank):
    """Train low-rank adapters of the linear layers, and no weight of the base model. The head of a task is trained too.

    With `init = "pissa"`, making the adapters also changes the base model. The finished adapter then has twice the
    rank, so that it fits the original base model.

    Source: LoRA: Hu et al. 2021, arXiv:2106.09685, section 4; on all linear layers: Dettmers et al. 2023,
    arXiv:2305.14314, section 4; `rslora`: Kalajdzievski 2023, arXiv:2312.03732, section 3; `dora`: Liu et al. 2024,
    arXiv:2402.09353, section 4; `pissa`: Meng et al. 2024, arXiv:2404.02948, section 3; `b_rate`: Hayou et al. 2024,
    arXiv:2402.12354, section 4.
    Departures: PiSSA takes the singular values from a randomized decomposition with four iterations (Halko et al.), as
    PEFT does; LoRA+ does not raise the rate of embeddings.
    """

    kind: Literal["lora"] = "lora"


def _linear(model: Any, head: Sequence[str]) -> Iterator[str]:  # noqa: ANN401
    """Yield the names of a model's linear layers outside of its head."""
    import torch
    from transformers.pytorch_utils import Conv1D

    for name, module in model.named_modules():
        inside = any(name == part or name.startswith(f"{part}.") for part in head)
        if isinstance(module, torch.nn.Linear | Conv1D) and not inside:
            yield name
