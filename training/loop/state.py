"""The state of a worker: its plan, the model in DeepSpeed's engine, its data, and the way it computes."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.models import dtypes, products
from gristmill.cluster.runtime.resources import Need
from gristmill.cluster.store.store import Store
from gristmill.training import checkpoint, zero
from gristmill.training.data import prepare as data
from gristmill.training.loop import blocks, losses, separation, sequence, validation
from gristmill.training.loop.journal import METRICS, Journal, left_out, read_journal
from gristmill.training.loop.validation import Share
from gristmill.training.settings import TrainSettings
from gristmill.training.supervision.heartbeat import Heartbeat
from gristmill.training.tasks import heads
from gristmill.training.tasks.heads import Head
from gristmill.training.tuning import model
from gristmill.training.tuning.contracts import Tuning

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """The plan of a worker: the settings, the store and folder, and the number of steps."""

    job: TrainSettings
    store: Store
    output: str
    base: str
    """Local folder of the base model."""
    steps: int
    batching: zero.Batching
    need: Need
    """CPU cores and GPUs of each worker."""
    logs: str | None
    head: Head | None = None
    """The head of the task; None for a causal language model."""
    exports: bool = True
    """Whether the finished model is written; the trials of a search and the folds write none."""
    bars: Mapping[int, float] = field(default_factory=dict)
    """Highest error with which training goes on, by step; see `training.search.bars`."""
    eval_steps: int = 0
    """Number of steps between two measurements; 0 for none before the end."""
    labels: tuple[str, ...] = ()
    """The labels that a causal language model chooses among in a measurement; see `training.tasks.choices`."""


@dataclass(frozen=True, slots=True)
class TrainState:
    """The live objects of a worker."""

    plan: WorkerPlan
    precision: model.Precision
    engine: Any
    device: Any
    rank: int
    train: data.Bins
    heldout: data.Bins
    folder: Path
    way: separation.Way
    """How the samples of a packed row are kept apart."""
    journal: Journal | None
    """The journal, on rank 0 only."""
    left_out: tuple[int, ...]
    """Batches that gave numbers that are not finite."""
    at_once: int
    """Largest number of tokens that have logits in memory at once; 0 for no limit."""
    heart: Heartbeat
    team: sequence.Team | None
    """The workers that share the tokens of a row with this one; None if it computes whole rows."""
    initial: Mapping[str, Any]
    """First values of the adapters, on rank 0; empty if the adapters did not change the base model."""
    validation: validation.Answers | validation.Labels | None
    """What is measured besides the held-out loss."""

    @property
    def share(self) -> Share:
        """The part of the held-out rows that this worker measures."""
        at_once = self.at_once if self.plan.job.task.causal else self.plan.job.micro_batch_size
        return Share(self.rank, self.plan.batching.world, at_once, self.way)


def set_up(
    plan: WorkerPlan, rank: int, found: checkpoint.Checkpoint | None, heart: Heartbeat
) -> tuple[TrainState, str, str]:
    """Return the live objects of this worker, and in words why it has its precision and how samples are kept apart."""
    import torch
    from ray.train.torch import get_device

    job, gpu = plan.job, plan.need.gpus > 0
    if not gpu:
        torch.set_num_threads(max(1, int(plan.need.cpus)))
        blocks.install()
        if products.use_avx512():
            log.info("oneDNN computes products in float32")
    began = time.monotonic()
    zero.begin(gpu=gpu)
    log.info("process group adopted after %.1f s", time.monotonic() - began)
    precision, why = precision_of(job, found)
    log.info("%s: %s", precision, why)
    configuration = _configuration(plan, precision, gpu=gpu)
    with zero.partition(configuration):
        loaded = loaded_base(plan, precision, job.tuning)
    team = sequence.form(plan.batching.team)
    if team:
        sequence.install(loaded)
    tuned = model.trainable(loaded, job.tuning, job.seed, recompute=job.gradient_checkpointing)
    initial = model.initial(tuned) if rank == 0 and job.tuning.changes_base else {}
    log.info("model loaded after %.1f s", time.monotonic() - began)
    engine = zero.engine(
        tuned, configuration, job.optimizer, lr=job.learning_rate, relative_rate=job.tuning.relative_rate
    )
    log.info("engine made after %.1f s", time.monotonic() - began)
    device = get_device()
    apart = _apart(plan, engine, precision, device)
    at_once, told = (0, "") if plan.head else _bound(job, engine, precision, apart.way, device)
    if team:
        _require_shares(job, engine, precision, team, apart, device)
    reason = f"{apart.reason}{told}" if plan.head is None else f"each {job.task.unit} is in a row of its own"
    log.info("separation chosen after %.1f s", time.monotonic() - began)
    measures = validation.opened(plan.store, plan.output, plan.base, job, plan.head, plan.labels)
    folder = plan.store.folder(plan.output)
    worker = TrainState(
        plan,
        precision,
        engine,
        device,
        rank,
        data.Bins.open(plan.store, plan.output, data.PACKED),
        data.Bins.open(plan.store, plan.output, data.HELDOUT),
        folder,
        apart.way,
        Journal(folder / METRICS) if rank == 0 else None,
        of_first(left_out(read_journal(folder / METRICS)) if rank == 0 else ()),
        at_once,
        heart,
        team,
        initial,
        measures,
    )
    return worker, why, f"{reason}{measures.said if measures else ''}"


def _configuration(plan: WorkerPlan, precision: model.Precision, *, gpu: bool) -> dict[str, Any]:
    """Return DeepSpeed's configuration, after files of an earlier attempt are deleted; every worker must call this."""
    job = plan.job
    made = zero.config(
        job.zero, plan.batching, clip=job.max_grad_norm, precision=precision, gpu=gpu, states=job.optimizer_states,
        run=plan.output,
    )  # fmt: skip
    zero.clear_files(made)
    return made


def loaded_base(plan: WorkerPlan, precision: model.Precision, tuning: Tuning | None = None) -> Any:  # noqa: ANN401
    """Return the base model, with the head of the task if it has one, and as a tuning wants it stored."""
    if plan.head:
        return heads.load(plan.base, plan.head, precision, plan.job.attention)
    return model.load(plan.base, precision, plan.job.attention, plan.job.dropout if tuning else None, tuning)


def _apart(plan: WorkerPlan, engine: Any, precision: model.Precision, device: Any) -> separation.Separation:  # noqa: ANN401
    """Return how samples are kept apart; every worker must call this. The tasks with a head have one in each row."""
    if plan.head:
        return separation.Separation("alone")
    return _most_careful(
        separation.choose(engine, precision, length=plan.job.max_length, rows=plan.batching.micro, device=device)
    )


def _bound(
    job: TrainSettings,
    engine: Any,  # noqa: ANN401
    precision: model.Precision,
    way: separation.Way,
    device: Any,  # noqa: ANN401
) -> tuple[int, str]:
    """Return the largest number of tokens that have logits in memory at once, and a note on it for people."""
    if not job.logits_at_once or job.micro_batch_size * job.max_length <= job.logits_at_once:
        return 0, ""
    if losses.bounds_work(engine, precision, way, device):
        return job.logits_at_once, f"; logits of {job.logits_at_once} tokens at a time"
    return 0, "; logits of all tokens at once, because this model changes them after its head"


def _require_shares(
    job: TrainSettings,
    engine: Any,  # noqa: ANN401
    precision: model.Precision,
    team: sequence.Team,
    apart: separation.Separation,
    device: Any,  # noqa: ANN401
) -> None:
    """Refuse a model whose losses change when workers share the tokens of a row; every worker must call this."""
    seen = sequence.window(separation.inner(engine).config.get_text_config().to_dict())
    fits = apart.way == "positions" and (seen is None or seen >= job.max_length)
    try:
        if fits and losses.shares_work(engine, precision, team, device):
            return
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        log.info("the model does not take a share of a row: %s", error)
    raise RunError(
        f"train.sequence_parallel: {job.sequence_parallel}, must be 1 for this model; its losses change when workers "
        "share the tokens of a row, because its layers mix tokens in another way than by attention to the whole row"
    )


def _most_careful(own: separation.Separation) -> separation.Separation:
    """Return the separation of the worker that needs the most careful way; all workers use it."""
    import torch.distributed as dist

    found: list[separation.Separation] = [own] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return max(found, key=lambda one: separation.WAYS.index(one.way))


def of_first(value: T) -> T:
    """Return the value that rank 0 has; every worker must call this."""
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


def precision_of(job: TrainSettings, found: checkpoint.Checkpoint | None) -> tuple[model.Precision, str]:
    """Return the precision of all workers, and the reason for it; every worker must call this."""
    import torch.distributed as dist

    if job.precision != "auto":
        return job.precision, "as the recipe says"
    if found:
        return found.precision, f"as the checkpoint of step {found.step}"
    if job.zero.stage == 0:
        return "fp32", "at zero.stage 0 DeepSpeed keeps no fp32 weights to step beside others"
    choices: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(choices, dtypes.choose(job.model))
    choice = dtypes.suit_slowest(choices)
    return model.PRECISIONS[choice.dtype], choice.reason
