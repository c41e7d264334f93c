"""Checks of the settings of `[train]` that do not fit each other."""

from gristmill.cluster.models import names as models
from gristmill.training import memory
from gristmill.training.loop import sequence
from gristmill.training.settings import TrainSettings


def setting_problems(job: TrainSettings) -> list[str]:
    """Return the problems of settings that do not fit each other; no file is read."""
    found = [*job.zero.problems(), *job.tuning.problems(job.zero.stage)]
    found += job.optimizer_problems() + job.attention_problems() + job.fold_problems() + sequence_problems(job)
    return found + job.worker_problems() + precision_problems(job) + mixture_problems(job) + metric_problems(job)


def metric_problems(job: TrainSettings) -> list[str]:
    """Return the reason why a metric cannot be measured."""
    known = ("loss", *job.task.measured)
    if job.metric in known:
        return []
    what = "; what needs written replies is measured by evaluate.suites" if job.task.causal else ""
    return [f"metric: {job.metric} with task.kind {job.task.kind}, must be one of {', '.join(known)}{what}"]


def precision_problems(job: TrainSettings) -> list[str]:
    """Return the reasons why the requested precision cannot be used."""
    found = []
    if job.zero.stage == 0 and job.precision in ("bf16", "fp16"):
        found.append(
            f"zero.stage: 0 with precision {job.precision}, must be 1 or more; at 0 DeepSpeed keeps no fp32 "
            "weights to step"
        )
    if job.precision == "fp16" and not job.gpus_per_worker:
        found.append(
            "precision: fp16 without GPUs, must be bf16, fp32 or auto on CPUs; or set gpus_per_worker to 1; "
            "DeepSpeed computes in fp16 on GPUs only"
        )
    if job.tuning.needs_gpu and not job.gpus_per_worker:
        found.append(f"tuning.kind: {job.tuning.kind} without GPUs, must be lora on CPUs; or set gpus_per_worker to 1")
    if job.optimizer.whole and job.zero.offload_optimizer == "nvme":
        found.append(
            f"optimizer.kind: {job.optimizer.kind} with zero.offload_optimizer nvme, must be adamw or sgd; or "
            "offload to cpu"
        )
    if job.optimizer_states == "bf16":
        if job.precision != "bf16":
            found.append(f'precision: {job.precision} with optimizer_states "bf16", must be bf16')
        if job.optimizer.kind == "adafactor":
            found.append("optimizer_states: bf16 with optimizer.kind adafactor, must be fp32; it has almost no states")
        if job.zero.offload_optimizer != "none":
            found.append(
                "optimizer_states: bf16 with zero.offload_optimizer, must be fp32; on the host DeepSpeed keeps "
                "bf16 states only in its own optimizer"
            )
    return found


def sequence_problems(job: TrainSettings) -> list[str]:
    """Return the reasons why workers cannot share the tokens of a row, from settings and the config of the model.

    A model whose layers mix tokens in another way than by attention is found when the run starts.
    """
    size = job.sequence_parallel
    if size == 1:
        return []
    names = {
        f"task.kind {job.task.kind}": not job.task.causal,
        f"attention {job.attention}": job.attention not in ("auto", "sdpa"),
        "neftune_alpha": job.neftune_alpha > 0,
    }
    found = [f"sequence_parallel: {size} with {name}, must be 1" for name, there in names.items() if there]
    folder = models.folder(job.model)
    config = models.config(folder) if folder else memory.BUILTIN.get(job.model, {})
    config = config.get("text_config") or config
    heads, keys = (
        next((config[name] for name in some if isinstance(config.get(name), int) and config[name] > 0), 0)
        for some in (memory.HEADS, ("num_key_value_heads", *memory.HEADS))
    )
    if heads % size or (keys and keys % size and size % keys):
        found.append(
            f"sequence_parallel: {size}, must divide the {heads} attention heads of {job.model}, and divide its {keys} "
            "heads of keys or be a multiple of them"
        )
    seen = sequence.window(config)
    if seen and seen < job.max_length:
        found.append(
            f"sequence_parallel: {size} with rows of {job.max_length} tokens (max_length), of which a token of "
            f"{job.model} sees {seen}; must be 1"
        )
    return found


def mixture_problems(job: TrainSettings) -> list[str]:
    """Return settings of mixture, replay and curriculum that have no effect."""
    found = [
        f"{name}: is set without mixture, must not be; give the further datasets in train.mixture"
        for name in ("mixture_weight", "mixture_temperature")
        if name in job.model_fields_set and not job.mixture
    ]
    if bool(job.replay) != (job.replay_input is not None):
        found.append(
            f"replay: {job.replay:g} with{'' if job.replay_input else 'out'} replay_input, must be above 0 with "
            "the file of an earlier dataset in replay_input, or neither"
        )
    least = sum(job.mixture_least) + job.replay
    if least >= 1:
        found.append(f"mixture: min_share of all datasets and replay are together {least:g}, must be below 1")
    found += [
        f"{name}: is set without curriculum, must not be; give the name of a score in train.curriculum"
        for name in ("curriculum_descending", "curriculum_stages")
        if name in job.model_fields_set and not job.curriculum
    ]
    return found
