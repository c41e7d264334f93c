"""Several small runs of training, one after the other in one group of workers, without the driver's part."""

from collections.abc import Mapping
from typing import Any

from gristmill.cluster.runtime.resources import Need
from gristmill.cluster.store.store import Store
from gristmill.training.data import prepare as data
from gristmill.training.job import Train
from gristmill.training.loop import validation
from gristmill.training.loop import worker as loop
from gristmill.training.loop.journal import METRICS, read_journal
from gristmill.training.loop.state import WorkerPlan

STEPS, SAVE_EVERY = 80, 10
SAMPLES, WEIGHED = "select-000000000000", "select-000000000001"


def settings(tiny: str) -> dict[str, Any]:
    return {
        "model": tiny, "steps": STEPS, "save_steps": SAVE_EVERY, "precision": "fp32", "global_batch_size": 2,
        "max_length": 256, "learning_rate": 1e-2, "validation": 0.2,
        "tuning": {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.1},
    }  # fmt: skip


def journal(store: Store, output: str) -> list[dict[str, Any]]:
    return read_journal(store.folder(output) / METRICS)


def rehearse(courses: list[WorkerPlan], workers: int) -> None:
    """Run several courses one after the other in one group of workers."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    def work(config: dict[str, list[WorkerPlan]]) -> None:
        for plan in config["courses"]:
            loop.work({"course": plan})

    TorchTrainer(
        work,
        train_loop_config={"courses": courses},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(storage_path=f"{courses[0].store.uri}/ray"),
    ).fit()


def plan(
    store: Store,
    model: str,
    output: str,
    workers: int = 2,
    steps: int = 3,
    samples: str = SAMPLES,
    further: Mapping[str, str] | None = None,
    **changed: Any,
) -> WorkerPlan:
    given = {"global_batch_size": 4, "save_steps": 99, "workers": workers}
    job = Train.model_validate({**settings(model), **given, **changed})
    data.prepare(store, output, {"samples": samples, **(further or {})}, model, job)
    labels = validation.names(store, {"samples": samples}, job)
    every = int(job.eval_steps)
    return WorkerPlan(
        job, store, output, model, steps, job.batching(workers), Need(1), f"{store.uri}/logs", eval_steps=every,
        labels=labels,
    )  # fmt: skip
