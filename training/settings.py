"""The settings of `[train]`. They are separate from the job, because packing and the training loop also read them."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.io.ingest import Source
from gristmill.training.data.answers import EarlierAnswers
from gristmill.training.data.chat import Encoding, TooLong
from gristmill.training.data.mixture import Part
from gristmill.training.optim import AnyOptimizer
from gristmill.training.optim.adamw import AdamW
from gristmill.training.optim.schedule import Schedule
from gristmill.training.search import Search
from gristmill.training.tasks import AnyTask
from gristmill.training.tasks.causal_lm import CausalLm
from gristmill.training.tasks.contracts import Task
from gristmill.training.trackers import Trackers
from gristmill.training.tuning import AnyTuning
from gristmill.training.tuning.contracts import Tuning
from gristmill.training.tuning.lora import Lora
from gristmill.training.tuning.model import Attention, Precision
from gristmill.training.zero import Batching, Zero

LENGTH = "length"
"""The curriculum that orders samples by their number of tokens."""
RENDERED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Variables of a chat template that every conversation sets, so that `template_args` may not."""
CAUSAL = frozenset(
    {"template", "template_args", "earlier_answers", "max_lost", "logits_at_once", "dropout", "curriculum"}
)
"""Settings that only causal language models have."""


def usual_rate(tuning: object, task: object = None) -> float:
    """Return the default learning rate of a tuning; for adapters it is ten times that of the model's own weights.

    Source: Schulman et al. 2025, LoRA Without Regret, Thinking Machines Lab, section "Optimal learning rate and rank".
    With the head of a task, the model's own weights have the highest rate of Devlin et al. 2019, BERT,
    arXiv:1810.04805, appendix A.3.
    """
    if not isinstance(tuning, Tuning):
        return Lora.usual_rate
    own = task.usual_rate if isinstance(task, Task) and not tuning.adapter else None
    return tuning.usual_rate if own is None else own


class TrainSettings(Settings):
    """How a model is fine-tuned: the data, the optimizer, what is trained, and on how many workers."""

    not_identity: ClassVar[frozenset[str]] = frozenset(
        {
            "micro_batch_size",
            "workers",
            "sequence_parallel",
            "cpus_per_worker",
            "gpus_per_worker",
            "save_steps",
            "save_total_limit",
            "gradient_checkpointing",
            "logits_at_once",
            "max_failures",
            "max_preemptions",
            "hang_timeout",
            "max_lost",
            "trackers",
        }
    )
    newer: ClassVar[frozenset[str]] = frozenset(
        {"metric", "plateau_factor", "plateau_patience", "dropout", "optimizer_states", "mixture", "mixture_weight"}
        | {"mixture_temperature", "replay", "replay_input", "curriculum", "curriculum_descending", "curriculum_stages"}
    )

    model: str = "builtin:smollm2-135m-instruct"
    """The base model: `builtin:…`, a folder that transformers has saved, or the name of a model on a hub."""
    task: AnyTask = CausalLm()
    """What the model is trained for. `causal_lm`: to write the answers. `sequence_classification`: to give a text its
    label. `token_classification`: to find the entities of a text. `question_answering`: to find the answer to a
    question in a context. All except the first train a head, whose base model may be an encoder."""
    mixture: tuple[Part, ...] = ()
    """Further datasets that are trained on, each with its weight. An epoch has as many packed rows as all datasets
    together. The share of a dataset is proportional to (weight x its packed rows) ** (1 / `mixture_temperature`)."""
    mixture_weight: float = Field(default=1.0, gt=0)
    """The weight of the samples of `input` or of the job before, if there is a `mixture`."""
    mixture_temperature: float = Field(default=1.0, gt=0)
    """How equal the shares of the datasets are. With 1 they follow weights and sizes; the higher, the more equal they
    are (Raffel et al. 2020, arXiv:1910.10683, section 3.5.2)."""
    replay: float = Field(default=0.0, ge=0, lt=1)
    """Share of the packed rows of an epoch that comes from `replay_input`, an earlier dataset, so that the model does
    not forget it (Scialom et al. 2022, arXiv:2205.12393, section 3, where 0.01 is enough for some tasks). The rows are
    others in each epoch."""
    replay_input: Source | None = None
    """The earlier dataset of `replay`."""
    curriculum: str | None = None
    """Name of a score by which the samples are ordered: those with low scores come first in each epoch. `length`
    orders them by their number of tokens (Bengio et al. 2009, Curriculum Learning, ICML)."""
    curriculum_descending: bool = False
    """Whether samples with high scores come first."""
    curriculum_stages: int = Field(default=4, ge=2)
    """Number of stages of the curriculum, which have equally many samples. Inside a stage they are shuffled. Samples
    without the score are counted, and are in the last stage."""
    epochs: float = Field(default=2.0, gt=0)
    """Number of times that every sample is trained on. With a `mixture` or `replay` it is the number of epochs."""
    steps: int | None = Field(default=None, gt=0)
    """Number of optimizer steps; overrides `epochs`."""
    tuning: AnyTuning = Lora()
    """Which weights are trained: adapters (`lora`), every weight (`full`), or some (`freeze`)."""
    learning_rate: float = Field(default_factory=lambda data: usual_rate(data.get("tuning"), data.get("task")), gt=0)
    """The highest learning rate. The default is 1e-3 for LoRA, and 1e-4 for tunings that train the model's own weights
    (5e-5 with the head of a task). For LoRA of the small default model, 1e-3 was better on held-out samples than 1e-4
    and 3e-4. Use a lower rate for models with billions of weights."""
    schedule: Schedule = "cosine"
    """How the rate falls after the warm-up. `cosine`: along half a cosine. `linear`: on a straight line. `constant`:
    not at all. `wsd` (warm-up, stable, decay): on a straight line in the last steps. `reduce_lr_on_plateau`: by
    `plateau_factor` when `metric` has not become better in more than `plateau_patience` measurements."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the rate rises to its highest value."""
    min_ratio: float = Field(default=0.0, ge=0, le=1)
    """The rate at the end, as a share of the highest rate. With `reduce_lr_on_plateau` it is the lowest rate."""
    decay_ratio: float = Field(default=0.1, gt=0, le=1)
    """With the schedule `wsd`, the share of the steps in which the rate falls."""
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)
    """With the schedule `reduce_lr_on_plateau`, what the rate is multiplied by when `metric` does not become better.
    The default is PyTorch's."""
    plateau_patience: int = Field(default=10, ge=0)
    """With the schedule `reduce_lr_on_plateau`, the number of measurements in a row without a better `metric` that
    change nothing; one more reduces the rate. A loss, or 1 minus a measure, must fall by more than a 10,000th. The
    default is PyTorch's."""
    optimizer: AnyOptimizer = AdamW()
    """The optimizer that updates the weights."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients with a larger norm are scaled down to it; 0 for no limit."""
    global_batch_size: int = Field(default=4, gt=0)
    """Number of packed rows in one optimizer step, over all workers together."""
    micro_batch_size: int = Field(default=1, gt=0)
    """Number of packed rows that a worker computes at once."""
    max_length: int = Field(default=512, gt=1)
    """Largest number of tokens in a sample, and in a packed row."""
    too_long: TooLong = "drop"
    """What is done with samples longer than `max_length`. `drop`: they are dropped and counted. `truncate`: their end
    is cut off. `split`: they become several samples, all of `max_length` tokens but the last; a piece does not see the
    pieces before it. The terminal, the figures and the report count all three."""
    template: str | None = None
    """File with a chat template in Jinja that replaces the model's own; a relative path is looked up next to the
    recipe."""
    template_args: dict[str, Any] = Field(default_factory=dict)
    """Values of variables of the chat template, such as `{enable_thinking = false}`. The chat template of the finished
    model has them as defaults."""
    earlier_answers: EarlierAnswers = "split"
    """Some templates show an answer in another form when turns follow it, for example without its thought. `split`
    makes a further sample in which such an answer is the last turn, as at inference. `context` does not train on such
    an answer."""
    max_lost: float = Field(default=0.01, ge=0, le=1)
    """Largest share of the samples that the chat template may fail to render. A larger share is an error, unless it is
    a single sample."""
    validation: Annotated[float, Field(gt=0, lt=1)] | Source = 0.1
    """The held-out data: a share of the samples, above 0 and below 1, or a file with other samples. A share is held out
    by families. A family is all rows that have a common parent, have the same group, or are near copies. At least one
    family is held out; a hash decides which. No row that is trained on is a parent, a child or a near copy of a
    held-out row. Such rows are left out and counted."""
    validation_split: Literal["samples", "seeds"] = "samples"
    """What `validation` is a share of: the samples, or the seeds from which the samples were made. Held-out seeds are
    people's own rows. Samples that were made from a held-out seed are left out of training. Use `seeds` if each sample
    was made from several seeds."""
    test: tuple[Source, ...] = ()
    """Files of samples that the model will be tested on. Near copies of a test sample are left out of training."""
    eval_steps: Annotated[int, Field(ge=0)] | Literal["epoch"] = 0
    """Number of steps between two measurements on the held-out rows, or `epoch` for the steps of an epoch. With 0, they
    are made only at the end."""
    metric: str = "loss"
    """What is best: the lowest held-out `loss`, or the highest value of a measure of the task. It is for
    `early_stopping`, `keep`, the schedule `reduce_lr_on_plateau`, `search` and the report of `folds`. With a head, all
    measures of the task are measured besides the loss: `accuracy`, `macro_f1` and others for labels, `micro_f1` and
    others for entities, `f1` and `exact` for answers. A causal language model has `accuracy` and `macro_f1` if the last
    answers are labels: of all answers of the rows, or of those in a row's tag `choices`, the likeliest one is taken."""
    early_stopping: int = Field(default=0, ge=0)
    """Training ends when this number of measurements in a row has brought no better `metric`; 0 for never."""
    keep: Literal["last", "best"] = "last"
    """Which weights the finished model has: those of the last step, or those with the best `metric`."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout during training: every dropout probability in the model's config gets this value. By default they stay as
    they are. The finished model has the config's own values (Srivastava et al. 2014, Dropout, JMLR 15; it uses 0.1 to
    0.5)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread over the vocabulary during training (Szegedy et al. 2016, arXiv:1512.00567,
    section 7). The reported training loss includes the smoothing; the held-out loss does not."""
    neftune_alpha: float = Field(default=0.0, ge=0)
    """Size of the uniform noise that is added to the embeddings during training; 0 for none. This is NEFTune (Jain et
    al. 2023, arXiv:2310.05914); the paper uses 5 to 15."""
    attention: Attention = "auto"
    """The implementation of attention. `auto` is the one that transformers chooses for the model. `flash_attention_2`
    needs GPUs and the package flash-attn."""
    logits_at_once: int = Field(default=2048, ge=0)
    """Largest number of tokens for which a worker holds the logits in memory at once; 0 for no limit. If a batch has
    more tokens, the model's head runs again in the backward pass. Losses and gradients are the same."""
    seed: int = 0
    """Seed of the order of the rows, and of the adapters' first values, dropout and noise."""
    precision: Precision | Literal["auto"] = "auto"
    """Precision of the computation. Master weights are fp32, and optimizer states too unless `optimizer_states` says
    otherwise. `auto` chooses bf16 or fp32, whichever is faster on the slowest worker (see `models.dtypes`). With
    `auto`, a run that continues from a checkpoint keeps its precision. `fp16` needs GPUs. Its losses are scaled up, so
    that small gradients are not 0. If a gradient overflows, the step changes no weight, and the next losses are scaled
    up half as far (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2)."""
    optimizer_states: Literal["fp32", "bf16"] = "fp32"
    """Precision of the optimizer's states. With `bf16` the master weights and the sums of gradients are bf16 too, so
    each weight takes 8 bytes with AdamW instead of 16. bf16 has 8 bits: a step that changes a weight by less than
    about 1/256 of itself is lost. It needs `precision = "bf16"`."""
    zero: Zero = Zero()
    """What DeepSpeed splits over the workers."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    workers: Annotated[int, Field(gt=0)] | tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] = 2
    """Number of processes that train. Each computes an equal share of every batch. `[1, 8]` is the smallest and the
    largest number: the run starts with what the cluster has room for. It continues on fewer workers when machines are
    lost, and on more, from the next checkpoint, when machines come. The global batch stays, so only numbers that
    divide it are used. Not at ZeRO stage 3."""
    sequence_parallel: int = Field(default=1, gt=0)
    """Number of workers that share the tokens of each row, for rows that do not fit into the memory of one. Each holds
    the activations of its share. The losses are the same. It divides `workers` and the number of attention heads.
    Rows of several samples need a mask of tokens x tokens bytes. This is Ulysses (Jacobs et al. 2023,
    arXiv:2309.14509)."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """Number of CPU cores for each worker."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """Number of GPUs for each worker. The default is 1 if the cluster has GPUs, else 0."""
    save_steps: int = Field(default=10, gt=0)
    """Number of steps between two checkpoints."""
    save_total_limit: int = Field(default=2, gt=0)
    """Number of newest checkpoints to keep. All are deleted when the model is committed."""
    max_failures: int = Field(default=2, ge=0)
    """Number of times that the run restarts its workers after a worker has died or hung. After full memory it does not
    restart them, because memory would be full again."""
    max_preemptions: int = Field(default=100, ge=0)
    """Number of times that the run restarts its workers after a machine was lost or taken back by its owner. These do
    not count for `max_failures`."""
    hang_timeout: float = Field(default=90.0, ge=0)
    """Seconds after which a worker that does not answer, or does not finish its step, is taken for hung; 0 for never.
    All workers are then restarted from the last checkpoint. A step may always take five times as long as the longest of
    the last twenty. A phase that is not measured yet, such as the first step, the first checkpoint or the export, may
    take half an hour."""
    folds: int = Field(default=0, ge=0)
    """Number of parts of a cross-validation by family (2 or more); 0 for none. For each part, a model is trained
    without it, and its loss on the part is measured. The report has the mean and the standard deviation. The model of
    the job is trained as without folds."""
    search: Search = Search()
    """Search for the settings with the best `metric`, before the model is trained with them."""
    trackers: Trackers = Trackers()
    """Where the numbers of the training are sent, besides its own `metrics.jsonl`."""

    @field_validator("template", mode="before")
    @classmethod
    def _from_base(cls, path: object, info: ValidationInfo) -> object:
        base = (info.context or {}).get("base")
        return str(base / Path(path).expanduser()) if base and isinstance(path, str) else path

    def optimizer_problems(self) -> list[str]:
        """Return the problems of the optimizer, its schedule, early stopping and `keep`."""
        found = []
        needs = (
            ("early_stopping", self.early_stopping > 0),
            ('keep = "best"', self.keep == "best"),
            (f"schedule {self.schedule}", self.schedule == "reduce_lr_on_plateau"),
        )
        for name, on in needs:
            if on and not self.eval_steps:
                found.append(f"eval_steps: 0 with {name}, must be the steps between two measurements")
        uses = {
            "min_ratio": ("cosine", "linear", "wsd", "reduce_lr_on_plateau"),
            "decay_ratio": ("wsd",),
            "plateau_factor": ("reduce_lr_on_plateau",),
            "plateau_patience": ("reduce_lr_on_plateau",),
        }
        for name, schedules in uses.items():
            if name in self.model_fields_set and self.schedule not in schedules:
                found.append(
                    f"{name}: is set, must not be with schedule {self.schedule}, only with {', '.join(schedules)}"
                )
        return found

    def task_problems(self) -> list[str]:
        """Return the problems of the task, and the settings that only causal language models have."""
        if self.task.causal:
            return []
        found = list(self.task.problems(self.max_length))
        unused = {*CAUSAL, *(("too_long",) if self.task.windows else ())} & self.model_fields_set
        why = (
            "long texts are read in windows"
            if unused == {"too_long"}
            else "it reads no chat template and packs nothing"
        )
        if unused:
            found.append(f"{', '.join(sorted(unused))}: is set, must not be with task.kind {self.task.kind}; {why}")
        if self.attention == "flash_attention_2":
            found.append(f"attention: flash_attention_2 with task.kind {self.task.kind}, must be auto, sdpa or eager")
        if self.too_long == "split" and not unused:
            found.append(f"too_long: split with task.kind {self.task.kind}, must be drop or truncate")
        if self.tuning.needs_gpu:
            found.append(f"tuning.kind: {self.tuning.kind} with task.kind {self.task.kind}, must be lora")
        return found

    def fold_problems(self) -> list[str]:
        """Return the problems of the cross-validation."""
        if self.folds == 1:
            return ["folds: 1, must be 0 for none, or at least 2"]
        if self.folds and (isinstance(self.validation, Source) or self.validation_split == "seeds"):
            return ["folds: is set, must not be with validation samples of their own; a fold is a part of the samples"]
        return []

    def attention_problems(self) -> list[str]:
        """Return the reason why the requested attention cannot be used, if there is one."""
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

    def worker_problems(self) -> list[str]:
        """Return the problems of the number of workers and of the batch that they share."""
        low, high = self._range
        if low > high:
            return [f"workers: [{low}, {high}], must be the smallest number, then the largest"]
        if self.elastic and self.zero.stage == 3:
            must = "one number, because checkpoints of stage 3 need the number of workers that wrote them"
            return [f"workers: [{low}, {high}] at zero.stage 3, must be {must}; or set zero.stage to 0, 1 or 2"]
        if self.worlds:
            return []
        team = self.sequence_parallel
        if not any(world % team == 0 for world in range(low, high + 1)):
            return [f"workers: {high}, must be a multiple of sequence_parallel = {team}"]
        rows, most = self.global_batch_size, self.micro_batch_size * (high // team)
        which = f"{self.micro_batch_size} x ({low} to {high})" if self.elastic else f"{most * team}"
        over = "" if team == 1 else f" / sequence_parallel = {which} / {team}"
        must = f"a multiple of micro_batch_size x workers{over or f' = {which}'}; try {-(-rows // most) * most}"
        return [f"global_batch_size: {rows} rows, must be {must}"]

    @property
    def _range(self) -> tuple[int, int]:
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    @property
    def elastic(self) -> bool:
        """Whether the number of workers follows the cluster."""
        return self._range[0] != self._range[1]

    @property
    def worlds(self) -> tuple[int, ...]:
        """The possible numbers of workers in rising order: those that divide the global batch evenly."""
        rows, rest = divmod(self.global_batch_size, self.micro_batch_size)
        low, high = self._range
        team = self.sequence_parallel
        fitting = (world for world in range(low, high + 1) if world % team == 0)
        return tuple(world for world in fitting if not rest and rows % (world // team) == 0)

    def batching(self, world: int) -> Batching:
        """Return how the global batch is divided among so many workers."""
        team = self.sequence_parallel
        each = self.micro_batch_size * (world // team)
        return Batching(self.micro_batch_size, self.global_batch_size // each, world, team)

    @property
    def mixture_weights(self) -> list[float]:
        """The weights of the datasets that are mixed, in their order."""
        return [self.mixture_weight, *(part.weight for part in self.mixture)]

    @property
    def mixture_least(self) -> list[float]:
        """The smallest shares of the datasets that are mixed, in their order."""
        return [0.0, *(part.min_share for part in self.mixture)]

    @property
    def mixture_names(self) -> list[str]:
        """A name of each dataset that is trained on, for people."""
        others = [*(part.input for part in self.mixture), *filter(None, [self.replay_input])]
        return ["input", *(", ".join(Path(path).name for path in source.path) for source in others)]

    @property
    def encoding(self) -> Encoding:
        """The settings by which conversations become token ids."""
        return Encoding(self.max_length, self.too_long, self.earlier_answers, self.max_lost)
