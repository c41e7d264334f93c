"""The adapter of DeepSpeed: settings, configuration for CPU and GPU, an engine, and unsplit tensors from ZeRO-3.

The optimizers are PyTorch's. DeepSpeed's own optimizers would be compiled at their first use, for 40 to 100 s each. For
the same reason DeepSpeed's shared-memory collectives for CPUs (38 s) are off, and gloo is used.

Source: ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054; offloading: Ren et al. 2021, arXiv:2101.06840.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.contract.settings import Settings
from gristmill.training import partitions
from gristmill.training.optim.contracts import Group, Optimizer
from gristmill.training.tuning.model import Precision

OURS = frozenset(
    {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "optimizer",
        "scheduler",
        "bf16",
        "fp16",
    }
)
"""Keys that follow from other settings of the job; `zero.args` may not set them."""
Device = Literal["none", "cpu", "nvme"]
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
LOSS_SCALE = {"loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 2}
"""Dynamic loss scaling of fp16, with DeepSpeed's own values: it begins with 2**16, is halved after the second overflow
and doubled after 1,000 steps without one."""


class Zero(Settings):
    """`[train.zero]`: what DeepSpeed distributes over the workers."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"offload_folder"})

    stage: Literal[0, 1, 2, 3] = 1
    """What is split over the workers. 0: nothing; 1: optimizer states; 2: also gradients; 3: also weights. The losses
    are the same."""
    offload_optimizer: Device = "none"
    """Where optimizer states are kept: with the weights (`none`), in the memory of the host (`cpu`), or in files of
    `offload_folder` (`nvme`, which needs stage 3 and the library libaio)."""
    offload_params: Device = "none"
    """Where weights are kept that are not computed with just now; other values than `none` need stage 3."""
    offload_folder: str | None = None
    """Folder on a fast local disk for what is offloaded to `nvme`. Each worker needs it on its own machine. For each
    weight it takes about 12 bytes (fp32 weight and AdamW's states), and 2 or 4 more with `offload_params`."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Further configuration of DeepSpeed. It replaces or extends the configuration that follows from the other
    settings."""

    def problems(self) -> list[str]:
        """Return the problems of the settings beyond their types."""
        found = [
            f"zero.args.{key}: is set, must not be; it follows from train's own keys" for key in OURS & {*self.args}
        ]
        if self.offload_params != "none" and self.stage != 3:
            found.append(
                f"zero.offload_params: {self.offload_params} at stage {self.stage}, must be none; or set zero.stage "
                "to 3"
            )
        if self.offload_optimizer != "none" and self.stage == 0:
            found.append(
                f"zero.offload_optimizer: {self.offload_optimizer} at stage 0, must be none; or set zero.stage to 1, 2 "
                "or 3"
            )
        found += self._disk_problems() if "nvme" in (self.offload_optimizer, self.offload_params) else []
        if self.offload_folder and "nvme" not in (self.offload_optimizer, self.offload_params):
            found.append("zero.offload_folder: is set, must not be; nothing is offloaded to nvme")
        return sorted(found)

    def _disk_problems(self) -> list[str]:
        """Return the problems of offloading to files."""
        found = []
        if not self.offload_folder:
            found.append(
                "zero.offload_folder: is not set, must be a folder on a fast local disk; nvme keeps files in it"
            )
        if self.offload_optimizer == "nvme" and self.stage in (1, 2):
            found.append(
                f"zero.offload_optimizer: nvme at stage {self.stage}, must be cpu; or set zero.stage to 3; DeepSpeed "
                "keeps states in files at stage 3 only"
            )
        if self.offload_params == "nvme" != self.offload_optimizer:
            found.append(
                f"zero.offload_optimizer: {self.offload_optimizer} with offload_params nvme, must be nvme; or offload "
                "both to cpu"
            )
        if not files_work():
            found.append(
                "zero: nvme needs the library libaio with its header and a C compiler, and a program that uses it does "
                "not compile here; install them (Debian and Ubuntu: libaio-dev and g++), or offload to cpu"
            )
        return found

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the results; `cpu` is as it was before there were files, true."""
        value = super().identity()
        for name in ("offload_optimizer", "offload_params"):
            value["fields"][name] = {"none": False, "cpu": True}.get(value["fields"][name], "nvme")
        return value


def files_work() -> bool:
    """Return whether a C program that uses libaio can be compiled and linked here.

    DeepSpeed compiles its access to files at the first use, with the same library.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler:
        return False
    program = "#include <libaio.h>\nint main(void) { return io_submit(0, 0, 0); }"
    given = [*os.environ.get("CFLAGS", "").split(), *os.environ.get("LDFLAGS", "").split()]
    command = [compiler, "-x", "c", "-", "-x", "none", *given, "-laio", "-o", os.devnull]
    return subprocess.run(command, input=program, text=True, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True, slots=True)
class Batching:
    """How an optimizer step is divided: `micro` rows at a time, `accumulation` times, on `world` workers.

    Teams of `team` workers share the tokens of their rows.
    """

    micro: int
    accumulation: int
    world: int
    team: int = 1

    @property
    def teams(self) -> int:
        """Number of teams, each of which computes rows of its own."""
        return self.world // self.team


def config(
    zero: Zero,
    batching: Batching,
    *,
    clip: float,
    precision: Precision,
    gpu: bool,
    states: Literal["fp32", "bf16"] = "fp32",
    run: str = "",
) -> dict[str, Any]:
    """Return DeepSpeed's configuration; `run` is the name of the run's own folder in `zero.offload_folder`.

    The bf16 or fp16 gradients of the micro-batches of a step are summed in fp32, which has no error. Summed in bf16,
    eight of them had a relative error of 3.6e-3. At stage 1, a sum in fp32 that workers reduce in bf16 still had
    1.6e-3. With `states` in bf16, the gradients are summed in bf16.
    """
    spread: dict[str, Any] = {"stage": zero.stage, "overlap_comm": gpu, "contiguous_gradients": gpu}
    for name, device in (("offload_optimizer", zero.offload_optimizer), ("offload_param", zero.offload_params)):
        if device != "none":
            spread[name] = {"device": device, "pin_memory": gpu}
        if device == "nvme":
            spread[name]["nvme_path"] = str(Path(zero.offload_folder or "").expanduser() / run)
    if zero.stage == 3:
        spread["stage3_gather_16bit_weights_on_model_save"] = True
    built: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batching.micro,
        "gradient_accumulation_steps": batching.accumulation,
        "train_batch_size": batching.micro * batching.accumulation * batching.world,
        "gradient_clipping": clip,
        "bf16": {"enabled": precision == "bf16"},
        "zero_optimization": spread,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,  # a step is one of each number by itself, or see `optim.pieces`
        "steps_per_print": 10**9,
    }
    if precision == "fp16":
        built["fp16"] = {"enabled": True, **LOSS_SCALE}
    if states == "bf16":
        built["bf16"].update(bf16_master_weights_and_grads=True, bf16_optimizer_states=True)
    elif precision != "fp32" and batching.accumulation > 1:
        built["data_types"] = {"grad_accum_dtype": "fp32"}
        if zero.stage == 1:  # it reduces gradients once a step, after they are summed up
            built["communication_data_type"] = "fp32"
    return _merge(built, zero.args)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def begin(*, gpu: bool) -> None:
    """Make DeepSpeed use the process group that Ray Train has made."""
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # without this, DeepSpeed looks for accelerators and warns
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if gpu else "gloo", verbose=False, timeout=COLLECTIVE_TIMEOUT)


@contextmanager
def partition(configuration: Mapping[str, Any]) -> Iterator[None]:
    """At stage 3, let transformers load weights directly into partitions while the block runs."""
    if configuration["zero_optimization"]["stage"] != 3:
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    alive = HfDeepSpeedConfig(dict(configuration))  # transformers keeps only a weak reference to it
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del alive


def engine(
    model: Any,  # noqa: ANN401
    configuration: Mapping[str, Any],
    optimizer: Optimizer,
    *,
    lr: float,
    relative_rate: Callable[[str], float] = lambda name: 1.0,
) -> Any:  # noqa: ANN401
    """Return a DeepSpeed engine for a model; it trains the parameters that require a gradient."""
    import deepspeed

    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    outer = {id(p) for module in ends if module is not None for p in module.parameters()}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    parts: dict[tuple[bool, bool, float], list[Any]] = {}
    for name, p in named:
        dims = len(getattr(p, "ds_shape", p.shape))
        matrix = optimizer.whole and dims == 2 and id(p) not in outer
        parts.setdefault((dims < 2, matrix, relative_rate(name)), []).append(p)
    groups = [Group(parts[key], decays=not key[0], matrices=key[1], relative_rate=key[2]) for key in sorted(parts)]
    made, *_ = deepspeed.initialize(
        model=model,
        model_parameters=[p for _, p in named],
        optimizer=optimizer.make(groups, lr),
        config=dict(configuration),
    )
    if optimizer.whole and configuration["zero_optimization"]["stage"]:
        made.optimizer.optimizer.pieces = partitions.pieces(made)
    return made


def set_rate(made: Any, rate: float) -> None:  # noqa: ANN401
    """Set the learning rate of the next step."""
    for group in made.optimizer.param_groups:
        group["lr"] = rate * group["relative_rate"]


def save(made: Any, folder: str, tag: str, *, only_trainable: bool) -> None:  # noqa: ANN401
    """Write a checkpoint of an engine; every rank must call this.

    Args:
        made: the engine.
        folder: folder of the checkpoint.
        tag: name of the folder with the files, inside `folder`.
        only_trainable: whether to leave out frozen weights.
    """
    if partitions.in_files(made):
        partitions.write_files(made, Path(folder) / tag)
        return
    made.save_checkpoint(folder, tag=tag, exclude_frozen_parameters=only_trainable)


def clear_files(configuration: Mapping[str, Any]) -> None:
    """Delete what was offloaded to files in this run; every rank must call this."""
    import torch.distributed as dist

    spread = configuration["zero_optimization"]
    folders = [spread.get(name, {}).get("nvme_path") for name in ("offload_optimizer", "offload_param")]
    for folder in filter(None, folders):
        shutil.rmtree(folder, ignore_errors=True)
    if any(folders):
        dist.barrier()


def load(made: Any, folder: str, tag: str, *, anew: bool, strict: bool) -> None:  # noqa: ANN401
    """Load a checkpoint into an engine; every rank must call this.

    Args:
        made: the engine.
        folder: folder of the checkpoint.
        tag: name of the folder with DeepSpeed's files, inside `folder`.
        anew: whether another number of workers wrote the checkpoint. Not at stage 3.
        strict: whether the checkpoint has every weight of the model.
    """
    if partitions.in_files(made):
        partitions.read_files(made, Path(folder) / tag)
        return
    made.load_checkpoint(folder, tag=tag, load_module_strict=strict, load_optimizer_states=not anew)
    if anew:
        partitions.split_anew(made, Path(folder) / tag)


def step(made: Any) -> None:  # noqa: ANN401
    """Let an engine count a batch, and change the weights after the last batch of a step.

    Raises:
        RunError: when gradients of fp16 overflow even without a factor of the loss.
    """
    try:
        made.step()
    except Exception as error:  # DeepSpeed has no class for it
        if "loss scale already at minimum" not in str(error):
            raise
        raise RunError(
            "train: gradients in fp16 are not finite even with a loss scale of 1, must be finite; set train.precision "
            "to bf16, or lower train.learning_rate"
        ) from error


def overflowed(made: Any) -> bool:  # noqa: ANN401
    """Return whether a gradient of the last step was not finite on any worker."""
    return bool(getattr(made.optimizer, "overflow", False))


def loss_scale(made: Any) -> float:  # noqa: ANN401
    """Return the factor of the next loss. With fp16 it is halved after an overflow; else it is 1."""
    return float(made.optimizer.cur_scale if hasattr(made.optimizer, "cur_scale") else made.optimizer.loss_scale)


def gradient_norm(made: Any) -> float | None:  # noqa: ANN401
    """Return the norm of the gradients of the last step over all workers, before clipping; None at stage 0.

    The norm is infinite if a gradient was not finite. DeepSpeed then does not change the weights.
    """
    if overflowed(made):
        return float("inf")
    norm = made.get_global_grad_norm()
    return None if norm is None else float(norm)


def finite(made: Any) -> bool:  # noqa: ANN401
    """Return whether all trained weights and optimizer states of all workers are finite; every rank must call this."""
    import torch
    import torch.distributed as dist

    inner = getattr(made.optimizer, "optimizer", made.optimizer)  # PyTorch's, over DeepSpeed's partitions
    held = [getattr(p, "ds_tensor", p) for p in made.module.parameters() if p.requires_grad]
    held += [p for group in inner.param_groups for p in group["params"]]
    for weight, states in inner.state.items():
        held += [weight, *(one for one in states.values() if torch.is_tensor(one) and one.is_floating_point())]
    found = torch.tensor(all(bool(torch.isfinite(one).all()) for one in held), device=made.device, dtype=torch.int32)
    dist.all_reduce(found, op=dist.ReduceOp.MIN)
    return bool(found)


def trainable_state(model: Any, rank: int) -> dict[str, Any]:  # noqa: ANN401
    """Return the trainable parameters by name, as unsplit tensors on the CPU.

    Only rank 0 gets them; other ranks get an empty dict. Every rank must call this, because partitions are gathered at
    stage 3.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with _gather([p for _, p in named]):
        return {name: p.detach().cpu().clone() for name, p in named} if rank == 0 else {}


@contextmanager
def _gather(parameters: Sequence[Any]) -> Iterator[None]:
    import deepspeed

    split = any(hasattr(p, "ds_id") for p in parameters)
    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=None, enabled=split):
        yield


def whole_state(made: Any, stage: int, rank: int) -> dict[str, Any]:  # noqa: ANN401
    """Return all parameters of an engine's model by name, as unsplit tensors.

    Only rank 0 gets them; other ranks get an empty dict. Every rank must call this.
    """
    if stage == 3:
        return dict(made._zero3_consolidated_16bit_state_dict() or {})
    return dict(made.module.state_dict()) if rank == 0 else {}
