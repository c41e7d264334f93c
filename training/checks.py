"""Checks of the settings of `[train]` that do not fit each other."""

from gristmill.training.settings import TrainSettings


def setting_problems(job: TrainSettings) -> list[str]:
    """Return the problems of settings that do not fit each other; no file is read."""
    found = [*job.zero.problems(), *job.tuning.problems(job.zero.stage)]
    found += job.optimizer_problems() + job.attention_problems() + job.fold_problems()
    return found + job.worker_problems() + precision_problems(job) + mixture_problems(job) + metric_problems(job)


def metric_problems(job: TrainSettings) -> list[str]:
    """Return the reason why a metric cannot be measured."""
    known = ("loss", *job.task.measured)
    if job.metric in known:
        return []
    return [f"metric: {job.metric} with task.kind {job.task.kind}, must be one of {', '.join(known)}"]


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
    if job.optimizer_states == "bf16":
        if job.precision != "bf16":
            found.append(f'precision: {job.precision} with optimizer_states "bf16", must be bf16')
        if job.elastic:
            found.append('workers: a range with optimizer_states "bf16", must be one number; checkpoints need it')
        if job.zero.offload_optimizer:
            found.append(
                "optimizer_states: bf16 with zero.offload_optimizer, must be fp32; on the host DeepSpeed keeps "
                "bf16 states only in its own optimizer"
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
    found += [
        f"{name}: is set without curriculum, must not be; give the name of a score in train.curriculum"
        for name in ("curriculum_descending", "curriculum_stages")
        if name in job.model_fields_set and not job.curriculum
    ]
    return found
