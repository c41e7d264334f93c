"""The settings of `[train]`. They are separate from the job, because data, loop and workers read them too."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.io.ingest import Source
from gristmill.training.data.answers import EarlierAnswers
from gristmill.training.data.chat import Encoding, TooLong
from gristmill.training.optim import AnyOptimizer
from gristmill.training.optim.adamw import AdamW
from gristmill.training.optim.schedule import Schedule
from gristmill.training.tuning import AnyTuning
from gristmill.training.tuning.contracts import Tuning
from gristmill.training.tuning.lora import Lora
from gristmill.training.tuning.model import Attention, Precision
from gristmill.training.zero import Zero

RENDERED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Variables of a chat template that each conversation sets."""


def usual_rate(tuning: object) -> float:
    """Return the default learning rate, ten times as high for adapters as for the model's own weights.

    Source: Schulman et al. 2025, LoRA Without Regret, Thinking Machines Lab, section "Optimal learning rate and rank".
    """
    return tuning.usual_rate if isinstance(tuning, Tuning) else Lora.usual_rate


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
            "logits_at_once",
            "max_failures",
            "max_lost",
        }
    )

    model: str = "builtin:smollm2-135m-instruct"
    """The base model: `builtin:…`, a folder as transformers saves it, or the name of one on a hub."""
    epochs: float = Field(default=2.0, gt=0)
    """How often every sample is seen."""
    steps: int | None = Field(default=None, gt=0)
    """Optimizer steps; overrides `epochs`."""
    tuning: AnyTuning = Lora()
    """Which weights are trained: adapters (`lora`), every weight (`full`), or some (`freeze`)."""
    learning_rate: float = Field(default_factory=lambda data: usual_rate(data.get("tuning")), gt=0)
    """The highest learning rate. By default 1e-3 for LoRA, which was better than 1e-4 and 3e-4 on held-out samples with
    the small default model, and 1e-4 where the model's own weights are trained. Use less for models of billions of
    weights."""
    schedule: Schedule = "cosine"
    """How the rate falls after the warm-up: along half a cosine, on a line, not at all, or on a line at the very end
    (`wsd`: warm-up, stable, decay)."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the rate rises."""
    min_ratio: float = Field(default=0.0, ge=0, le=1)
    """Share of the highest rate that the rate falls to at the end."""
    decay_ratio: float = Field(default=0.1, gt=0, le=1)
    """Share of the steps in which the rate falls, with the schedule `wsd`."""
    optimizer: AnyOptimizer = AdamW()
    """What makes steps of gradients."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients with a larger norm are scaled down to it; 0 for no limit."""
    global_batch_size: int = Field(default=4, gt=0)
    """Packed rows of an optimizer step, over all workers."""
    micro_batch_size: int = Field(default=1, gt=0)
    """Packed rows that a worker computes at once."""
    max_length: int = Field(default=512, gt=1)
    """Tokens of a packed row, and the most tokens of a sample."""
    too_long: TooLong = "drop"
    """Whether samples that are too long are dropped and counted, or cut at the end."""
    template: str | None = None
    """File with a chat template in Jinja that replaces the model's own; a relative path is looked up next to the
    recipe."""
    template_args: dict[str, Any] = Field(default_factory=dict)
    """Values of variables of the chat template, such as `{enable_thinking = false}`. In the finished model they are
    the defaults of these variables."""
    earlier_answers: EarlierAnswers = "split"
    """What is done with an answer that the template shows in another form once turns follow, for example without its
    thought. `split` makes a further sample in which the answer is the last turn, as at inference; `context` does not
    train on it."""
    max_lost: float = Field(default=0.01, ge=0, le=1)
    """Largest share of the samples that the chat template may be unable to render; more is an error, if it is more
    than one sample."""
    validation: Annotated[float, Field(gt=0, lt=1)] | Source = 0.1
    """What is held out: a share of the samples, above 0 and below 1, or a file with other samples. A share is held out
    by whole families (rows with a common parent, of one group, or near copies), at least one; a hash decides for each
    family. No row that is trained on is a parent, a child or a near copy of a held-out row; such rows are left out and
    counted."""
    validation_split: Literal["samples", "seeds"] = "samples"
    """Whether the share is one of the samples, or of the seeds that they were made from. Held-out seeds are people's
    own rows; samples that were made from them are left out of training. Use `seeds` if each sample was made from
    several seeds."""
    test: tuple[Source, ...] = ()
    """Files of samples that the model will be tested on. Rows that are near copies of one are left out of training."""
    eval_steps: int = Field(default=0, ge=0)
    """Steps between measurements of the held-out loss; 0 for only one, at the end."""
    early_stopping: int = Field(default=0, ge=0)
    """Number of measurements without a lower held-out loss after which training ends; 0 for never."""
    keep: Literal["last", "best"] = "last"
    """Which weights the finished model has: those of the last step, or those with the lowest held-out loss."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread over the vocabulary while training (Szegedy et al. 2016, arXiv:1512.00567,
    section 7). The loss that is told then includes it; the held-out loss does not."""
    neftune_alpha: float = Field(default=0.0, ge=0)
    """Size of uniform noise on the embeddings while training (NEFTune, Jain et al. 2023, arXiv:2310.05914, which takes
    5 to 15); 0 for none."""
    attention: Attention = "auto"
    """How attention is computed. `auto` is what transformers chooses for the model; `flash_attention_2` needs GPUs and
    its package."""
    logits_at_once: int = Field(default=2048, ge=0)
    """Most tokens of which a worker has the logits in memory at once; 0 for no bound. Where a batch has more, the head
    runs again in the backward pass. Losses and gradients are the same."""
    seed: int = 0
    """Seed of the order of the rows, and of the adapters' first values and dropout."""
    precision: Precision | Literal["auto"] = "auto"
    """Precision of the computation; optimizer states and master weights are fp32 in any case. `auto` is the fastest on
    the slowest worker (see `models.dtypes`). A run that continues from a checkpoint keeps its precision."""
    zero: Zero = Zero()
    """What DeepSpeed distributes over the workers."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    workers: int = Field(default=2, gt=0)
    """Processes that train, each with its share of every batch."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """Cores of each worker."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """GPUs of each worker. By default one where the cluster has any, else none."""
    save_steps: int = Field(default=10, gt=0)
    """Steps between checkpoints."""
    save_total_limit: int = Field(default=2, gt=0)
    """Newest checkpoints that are kept until the model is committed."""
    max_failures: int = Field(default=2, ge=0)
    """Deaths of workers after which the run restarts them by itself."""

    @field_validator("template", mode="before")
    @classmethod
    def _from_base(cls, path: object, info: ValidationInfo) -> object:
        base = (info.context or {}).get("base")
        return str(base / Path(path).expanduser()) if base and isinstance(path, str) else path

    def optimizer_problems(self) -> list[str]:
        """Return what is wrong with the optimizer and its schedule."""
        found = []
        if self.optimizer.whole and self.zero.stage:
            found.append(
                f"optimizer.kind: {self.optimizer.kind} at zero.stage {self.zero.stage}, must be at 0; it reads whole "
                "matrices, which ZeRO splits"
            )
        for name, on in (("early_stopping", self.early_stopping > 0), ('keep = "best"', self.keep == "best")):
            if on and not self.eval_steps:
                found.append(f"eval_steps: 0 with {name}, must be the steps between measurements of the held-out loss")
        uses = {"min_ratio": ("cosine", "linear", "wsd"), "decay_ratio": ("wsd",)}
        for name, schedules in uses.items():
            if name in self.model_fields_set and self.schedule not in schedules:
                found.append(
                    f"{name}: is set, must not be with schedule {self.schedule}, only with {', '.join(schedules)}"
                )
        return found

    def attention_problems(self) -> list[str]:
        """Return why the attention that is asked for cannot be."""
        if self.attention != "flash_attention_2" or find_spec("flash_attn"):
            return []
        return ["attention: flash_attention_2, but the package flash-attn is not installed; install it, or take auto"]

    def encoding_problems(self) -> list[str]:
        """Return the problems of the chat template and its values."""
        found = [
            f"template_args.{name}: must be the name of a variable of the chat template, other than "
            f"{', '.join(sorted(RENDERED))}"
            for name in self.template_args
            if not name.isidentifier() or name in RENDERED
        ]
        try:
            if self.template:
                Path(self.template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            found.append(
                f"template: {self.template} cannot be read as UTF-8 ({error}), must be a chat template in Jinja"
            )
        return found

    @property
    def encoding(self) -> Encoding:
        """How conversations become token ids."""
        return Encoding(self.max_length, self.too_long, self.earlier_answers, self.max_lost)
