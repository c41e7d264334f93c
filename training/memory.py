"""The memory of a worker, the size of a checkpoint and the time of a training, before anything is loaded.

What a worker holds at its peak is the process itself (`PROCESS_GIB`), its weights, fp32 master weights and optimizer
states, and the larger of two things: one step, or the export. A step holds activations and logits at the beginning of
the backward pass, and gradients with the buffers that reduce them at its end. The export on rank 0 loads the written
model again to compare it, and for an adapter first the base model.

Counted are the numbers that a layer keeps for each token. A layer in the manner of Llama keeps two residuals, their two
normalised and two scaled forms, queries, keys and values of all heads, outputs of attention, and four widths of the
feed-forward layer; frozen norms keep no normalised form. A layer in the manner of BERT or GPT-2, with two matrices in
its feed-forward layer, keeps two widths of it. Attention itself keeps no matrix (SDPA, FlashAttention), unless it drops
out on a CPU. Not counted: fragmentation, the memory of other processes of the machine, packages that the user adds. The
rows of a batch are taken as full, and `LABELLED` of the tokens of a row as trained on.

`benchmarks/training.py memory` compares the plan with VmHWM of real workers.

Source: the states by stage: Rajbhandari et al. 2020, arXiv:1910.02054, section 3.1; activations: Korthikanti et al.
2022, arXiv:2205.05198, section 4.1, with the layers of Llama instead of GPT's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import thread_time
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from gristmill.cluster.models import names
from gristmill.training.settings import TrainSettings

GIB = 2**30
PROCESS_GIB = 0.72
"""Memory of a worker before it loads a model: Python, torch for CPUs, transformers, DeepSpeed and Ray. Measured."""
MERGE_GIB = 0.08
"""Memory that loading and merging an adapter takes besides its tensors. Measured."""
CUDA_GIB = 0.6
"""Memory that CUDA and its libraries take on a GPU."""
LABELLED = 0.6
"""Share of the tokens of a row that are trained on. The head runs at the places where some row has such a token."""
LOGIT = 12
"""Bytes of a logit at the worst moment: its logarithm, and two gradients, all fp32."""
RETURNED = 32 * 2**20
"""Bytes of a tensor from which the C library returns its memory to the system (the largest `M_MMAP_THRESHOLD`). An
encoder of 4 layers of 768 with tensors of 25 MB had 2.66 GiB, and 2.07 with a threshold of 1 MiB. The logits of a
causal model are larger."""
BUCKET = 500_000_000
"""Numbers that DeepSpeed reduces at once (`reduce_bucket_size`), and that stage 3 gathers in advance."""
SHARE = 0.9
"""Share of the speed of a product of matrices that training reaches. With all weights of the builtin model in fp32,
67 tokens in a CPU second (54e9 operations) were measured on machines whose cores do 47e9 to 60e9 in products."""
STATES = {"adamw": 2, "sgd": 1, "muon": 1, "adafactor": 0}
"""Numbers that an optimizer keeps for each trained weight; 2 for others."""
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
BUILTIN: dict[str, dict[str, Any]] = {
    names.SMOLLM2: {
        "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152,
    }
}  # fmt: skip
"""The shapes of builtin models, whose folders are made at their first use."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model."""

    weights: int
    layers: int
    hidden: int
    inner: int
    keys: int
    """Width of the keys of a layer, which is that of its values."""
    vocabulary: int
    heads: int = 1
    width: int = 0
    """Width of the queries of all heads; by default that of a layer."""
    dropout: float = 0.0
    """Dropout of attention."""

    @property
    def queries(self) -> int:
        """Width of the queries of all heads."""
        return self.width or self.hidden

    @property
    def form(self) -> tuple[int, int]:
        """Number of matrices of the feed-forward layer, and of tables with a row for each token: what fits best."""
        return min(((m, t) for m in (2, 3) for t in (1, 2)), key=lambda form: abs(self._layers(*form)))

    def _layers(self, matrices: int, tables: int) -> int:
        """Return the weights that would be left besides layers and tables."""
        layer = 2 * self.hidden * (self.queries + self.keys) + matrices * self.hidden * self.inner
        return self.weights - tables * self.vocabulary * self.hidden - self.layers * layer

    @property
    def layer(self) -> int:
        """Number of weights of a layer."""
        return max(1, (self.weights - self.form[1] * self.vocabulary * self.hidden) // self.layers)


MOST_SIZE = 1 << 32
"""Size that no layer has. A config that says more is damaged."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The planned memory of a worker in bytes, part by part."""

    process: float
    weights: float
    states: float
    """Optimizer states and fp32 master weights."""
    step: float
    """Activations, logits, gradients and buffers, at the worst moment of a step."""
    export: float
    """What rank 0 needs in addition to write the model; 0 on a GPU, where it is on the host."""

    @property
    def peak(self) -> float:
        """All of it at the worst moment."""
        return self.process + self.weights + self.states + max(self.step, self.export)


def shape_of(model: str) -> Shape | None:
    """Return the sizes of a model from its config and files, or None if they do not say them."""
    folder = names.folder(model)
    config = names.text_config(names.config(folder) if folder else BUILTIN.get(model, {}))
    weights = names.num_weights(model)
    layers, hidden, heads = (_first(config, keys) for keys in (LAYERS, names.WIDTHS, HEADS))
    if not (weights and layers and hidden and heads):
        return None
    inner = _first(config, names.INNER) or 4 * hidden
    head = _first(config, ("head_dim",)) or hidden // heads
    groups = _first(config, ("num_key_value_heads",)) or heads
    dropout = config.get("attention_probs_dropout_prob") or config.get("attention_dropout")
    return Shape(
        weights, layers, hidden, inner, groups * head, _first(config, ("vocab_size",)), heads, heads * head,
        float(dropout) if isinstance(dropout, float) and 0 < dropout < 1 else 0.0,
    )  # fmt: skip


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int:
    """Return the first size that a config has under one of these keys, or 0 if none of them is a plausible number."""
    found = (config[key] for key in keys if isinstance(config.get(key), int))
    return next((int(size) for size in found if 0 < size < MOST_SIZE), 0)


def trained(shape: Shape, job: TrainSettings) -> int:
    """Return the number of weights that are trained."""
    tuning = job.tuning
    if tuning.adapter:
        ends = shape.hidden + shape.keys
        width = 2 * 2 * shape.hidden + 2 * ends + 3 * (shape.hidden + shape.inner)
        return int(getattr(tuning, "r", 16)) * width * shape.layers
    last = int(getattr(tuning, "last_layers", 0))
    if tuning.partial and last and not getattr(tuning, "train", ()):
        return min(last, shape.layers) * shape.layer
    return shape.weights


def forecast(shape: Shape, job: TrainSettings, world: int, *, gpu: bool, stage: int | None = None) -> Memory:
    """Return the planned memory of a worker.

    Args:
        shape: the sizes of the model.
        job: the settings.
        world: number of workers.
        gpu: whether the memory of a GPU is planned, or that of a process on CPUs.
        stage: a stage of ZeRO instead of that of the settings.
    """
    stage = job.zero.stage if stage is None else stage
    size = 2 if job.precision in ("bf16", "fp16") or (gpu and job.precision == "auto") else 4
    count, split = trained(shape, job), world if stage else 1
    master = 4 * count / split if stage or size == 2 else 0.0
    if size == 2 and not stage:  # DeepSpeed keeps the gradients in fp32 too
        master += 4 * count
    states = 4 * STATES.get(job.optimizer.kind, 2) * count / split + master
    whole = float(shape.weights * size)
    weights = whole / world if stage == 3 else whole
    bucket = min(count, BUCKET) * size
    gradients = (bucket if stage >= 2 else count * size) + (bucket if world > 1 or stage else 0.0)
    if stage:
        gradients += 2 * 4 * count / split  # this worker's part in fp32, and what the optimizer computes from it
    if job.zero.offload_optimizer != "none" and stage:
        held = 4.0 * count / split  # on the host: its part of the gradients
        if stage < 3:  # its part of the weights too, and two buffers of the largest parameter
            held += size * count / split + 2 * shape.vocabulary * shape.hidden * size
        states = 0.0 if gpu else states + held
    gathered = min(whole, BUCKET * size) if stage == 3 else 0.0
    head = shape.vocabulary * shape.hidden * size if count >= shape.weights else 0.0  # its gradient comes first
    begin = activations(shape, job, size, gpu=gpu) + head
    if not gpu and not job.task.causal and job.micro_batch_size * job.max_length * shape.inner * size < RETURNED:
        begin += count * size  # the memory of activations is not returned when the gradients come
    step = max(begin, gradients) + gathered
    # loaded again, with the file that it is read from, and then with copies of the largest tensor to compare
    again = whole + max(whole, 2.0 * shape.vocabulary * shape.hidden * size)
    export = again + (whole if job.tuning.adapter or stage == 3 else 0.0) + MERGE_GIB * GIB * job.tuning.adapter
    base = CUDA_GIB if gpu else PROCESS_GIB
    return Memory(base * GIB, weights, states, step, 0.0 if gpu else export)


def activations(shape: Shape, job: TrainSettings, size: int, *, gpu: bool = True) -> float:
    """Return the bytes of activations and logits of a micro-batch at the beginning of the backward pass."""
    tokens = job.micro_batch_size * job.max_length / job.sequence_parallel
    gated = shape.form[0] == 3
    norms = 6 if gated and not job.tuning.adapter else 4
    layer = norms * shape.hidden + 4 * shape.queries + (4 if gated else 2) * shape.inner
    layer_bytes = float(layer * size)
    drops = 0.0
    if shape.dropout and not gpu:
        # PyTorch's attention on CPUs then computes with fp32 matrices of tokens x tokens for each head. A layer keeps
        # three, and has about ten more at once in its backward pass (measured). Outputs that drop out keep factors.
        matrix = 4.0 * shape.heads * job.max_length
        layer_bytes += 3 * matrix + 2 * size * shape.hidden
        drops = 10 * matrix
    last = int(getattr(job.tuning, "last_layers", 0)) if job.tuning.partial and not job.tuning.adapter else 0
    layers = min(last or shape.layers, shape.layers)
    kept = layers * layer_bytes
    if job.gradient_checkpointing:
        kept = layers * shape.hidden * size + layer_bytes
    labelled = tokens * (1 - (1 - LABELLED) ** job.micro_batch_size)
    if job.logits_at_once:
        labelled = min(labelled, job.logits_at_once)
    logits = labelled * shape.vocabulary * LOGIT
    if not job.task.causal:  # a head of few labels
        logits = 0.0
    mask = float(job.micro_batch_size * job.max_length**2) if job.task.causal else 0.0  # which tokens see each other
    return tokens * (kept + drops) + logits + mask


def checkpoint_bytes(shape: Shape, job: TrainSettings) -> float:
    """Return the size of a checkpoint over all workers: saved weights, master weights and optimizer states."""
    count = trained(shape, job)
    size = 2 if job.precision in ("bf16", "fp16") else 4
    saved = count if job.tuning.partial else shape.weights
    master = 4 if job.zero.stage else 0
    return float(saved * size + (master + 4 * STATES.get(job.optimizer.kind, 2)) * count)


def operations(shape: Shape, job: TrainSettings, tokens: int) -> float:
    """Return the floating-point operations of a training on so many tokens.

    Two per weight and token forward, two backward for the activations, two for the gradients of trained weights (none
    where an adapter is trained), and two more where activations are recomputed.

    Source: Kaplan et al. 2020, arXiv:2001.08361, section 2.1.
    """
    each = 4.0 + 2.0 * trained(shape, job) / shape.weights + 2.0 * job.gradient_checkpointing
    return each * shape.weights * tokens


def planned(job: TrainSettings, *, gpu: bool) -> str:
    """Return the planned memory as a part of a message, or the empty string if the shape of the model is not known."""
    shape = shape_of(job.model)
    if shape is None:
        return ""
    peak = forecast(shape, job, job.worlds[0], gpu=gpu).peak / GIB
    return f"{peak:.2f} GiB {'of a GPU ' if gpu else ''}were planned; "


def notes(job: TrainSettings, tokens: int) -> Iterator[str]:
    """Yield lines for the plan: memory by stage of ZeRO and number of workers, size of a checkpoint, time.

    Args:
        job: the settings.
        tokens: number of tokens in all steps.
    """
    shape = shape_of(job.model)
    if shape is None:
        yield "memory and time are not known, because the files of the model do not say its shape"
        return
    gpu = bool(job.gpus_per_worker)
    worlds = sorted({1, *job.worlds})
    several = [world for world in worlds if world in (1, job.worlds[0], job.worlds[-1])]
    rows = []
    for world in several:
        peaks = [forecast(shape, job, world, gpu=gpu, stage=stage).peak / GIB for stage in range(4)]
        rows.append(f"{', '.join(f'{peak:.1f}' for peak in peaks)} with {world}")
    what = "GPU memory" if gpu else "memory"
    yield f"{what} of a worker in GiB at ZeRO 0, 1, 2 and 3 is about {'; '.join(rows)} worker{'s' * (several[-1] > 1)}"
    one = checkpoint_bytes(shape, job) / GIB
    yield f"a checkpoint is {one:.2f} GiB, and {job.save_total_limit} are kept (train.save_total_limit)"
    if not gpu and tokens:
        cores = max(1.0, job.cpus_per_worker)
        hours = operations(shape, job, tokens) / (SHARE * product_rate() * cores * job.worlds[-1]) / 3600
        time = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"
        yield f"the steps take about {time} on cores like one of this machine, if other programs leave them free"


def product_rate() -> float:
    """Return the floating-point operations that a core of this machine does in a second, in a product of matrices.

    It takes about 0.1 s.
    """
    one = np.ones((512, 512), np.float32)
    with threadpool_limits(1):
        rates = []
        for _ in range(5):
            began = thread_time()
            for _ in range(4):
                one @ one
            rates.append(4 * 2 * 512**3 / max(1e-9, thread_time() - began))
    return max(rates)
