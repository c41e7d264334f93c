"""Low-rank adapters of a base model whose weights are stored in 4 bits."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from gristmill.training.tuning.lora import LowRank


class Qlora(LowRank):
    """Train low-rank adapters of a base model whose linear layers are stored in 4 bits, a quarter of their memory.

    It needs GPUs and the package bitsandbytes. The finished adapter is for the base model as it was, and it is merged
    with that, not with the weights in 4 bits. So the merged model differs a little from the one that was trained.

    Source: QLoRA: Dettmers et al. 2023, arXiv:2305.14314, section 3. Departures: no paged optimizer; use
    `zero.offload_optimizer`.
    """

    kind: Literal["qlora"] = "qlora"
    name: ClassVar[str] = "QLoRA"
    needs_gpu: ClassVar[bool] = True
    example_job: ClassVar[Mapping[str, Any]] = {"gpus_per_worker": 1}

    quantization: Literal["nf4", "fp4"] = "nf4"
    """The 4-bit type: `nf4`, whose values suit weights with a normal distribution, or `fp4`, floating-point numbers."""
    double_quantization: bool = True
    """Whether the scales of the blocks of weights are quantized too, which saves 0.4 bits for each weight."""

    def problems(self, stage: int) -> Iterator[str]:
        """Yield the settings that a stage of ZeRO does not support."""
        if stage == 3:
            yield "tuning.kind: qlora at zero.stage 3, must be at 1 or 2; ZeRO-3 cannot split weights in 4 bits"
        if self.init == "pissa":
            yield 'tuning.init: "pissa" with kind qlora, must be "zero"; it begins with whole weights of the base'

    def missing(self) -> str:
        """Return what is not installed here and must be; empty if all is there."""
        there = find_spec("bitsandbytes")
        return "" if there else "tuning.kind: qlora needs the package bitsandbytes, which is not installed; install it"

    def loading(self, dtype: Any) -> dict[str, Any]:  # noqa: ANN401 - as `Tuning.loading`
        """Return the setting by which transformers stores the weights in 4 bits as it loads them."""
        from transformers import BitsAndBytesConfig

        wanted = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=self.quantization, bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=self.double_quantization,
        )  # fmt: skip
        return {"quantization_config": wanted}
