"""The settings of `[train]`, apart from what the job does with them: data, loop and workers read them too."""

from typing import ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.settings import Settings
from gristmill.training.data.chat import TooLong
from gristmill.training.optim.schedule import Schedule
from gristmill.training.tuning.model import Lora, Precision
from gristmill.training.zero import Zero


class TrainSettings(Settings):
    """How a model is fine-tuned: the data, the optimizer, what is trained, and on how many workers."""

    not_identity: ClassVar[frozenset[str]] = frozenset(
        {
            "micro_batch_size",
            "workers",
            "cpus_per_worker",
            "gpus_per_worker",
            "save_steps",
            "save_total_limit",
            "gradient_checkpointing",
            "max_failures",
        }
    )

    model: str = "builtin:smollm2-135m-instruct"
    """The base model: `builtin:…`, a folder as transformers saves it, or the name of one on a hub."""
    epochs: float = Field(default=2.0, gt=0)
    """How often every sample is seen."""
    steps: int | None = Field(default=None, gt=0)
    """Optimizer steps; overrides `epochs`."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """The highest learning rate. For LoRA on the small default model, where it beat 1e-4 and 3e-4 on held-out samples;
    models of billions of weights, or training every weight, want less."""
    schedule: Schedule = "cosine"
    """How the rate falls after the warm-up."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's, on matrices alone."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Longest gradient; 0 for no limit."""
    global_batch_size: int = Field(default=4, gt=0)
    """Packed rows of an optimizer step on all workers together."""
    micro_batch_size: int = Field(default=1, gt=0)
    """Packed rows that a worker computes at once."""
    max_length: int = Field(default=512, gt=1)
    """Tokens of a packed row, and of the longest sample."""
    too_long: TooLong = "drop"
    """What becomes of longer samples: dropped and counted, or cut at the end."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of the samples that is held out, at least one; each sample's lot follows from its id."""
    eval_steps: int = Field(default=0, ge=0)
    """Steps between losses on the held-out samples; 0 for one at the end."""
    seed: int = 0
    """Of the order of the rows, the adapters' first values and dropout."""
    precision: Precision | Literal["auto"] = "auto"
    """What is computed in; optimizer states and the weights they step are fp32 in both. `auto` is what the slowest
    worker computes fastest (see `models.dtypes`); a run that goes on from a checkpoint keeps its precision."""
    lora: Lora | Literal["none"] = Lora()
    """The adapters, or `"none"` to train every weight."""
    zero: Zero = Zero()
    """What DeepSpeed spreads over the workers."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    workers: int = Field(default=2, gt=0)
    """Processes that train, each with its share of every batch."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """Cores of each."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """GPUs of each; one where the cluster has any, else none."""
    save_steps: int = Field(default=10, gt=0)
    """Steps between checkpoints."""
    save_total_limit: int = Field(default=2, gt=0)
    """Checkpoints that stay until the model is committed."""
    max_failures: int = Field(default=2, ge=0)
    """Deaths of workers from which the run goes on by itself."""
