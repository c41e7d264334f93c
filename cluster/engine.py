"""The engine as every package sees it: its settings, a request, a reply, and how to start one without importing it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal

from pydantic import Field

from cluster import models
from cluster.sample import Message
from cluster.step import Settings

MODULE = "generation.engine"
"""Where the actor class behind `start` lies; a string, because `cluster` imports no package above it."""


class Engine(Settings):
    """`[….engine]`: which model answers, on how many actors, with which resources."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"actors", "cpus", "gpus", "kv_cache_gib", "max_num_seqs"})

    model: str = "builtin:smollm2-135m-instruct"
    """`builtin:…`, a folder, or a name that the engine can find."""
    actors: int = Field(default=1, gt=0)
    """Engines, each a process with the whole model."""
    cpus: float | None = Field(default=None, gt=0)
    """Cores of one engine; without GPU all cores of the cluster shared evenly, with GPU one."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of one engine; one where the cluster has any, else none."""
    dtype: Literal["bfloat16", "float16", "float32", "auto"] = "bfloat16"
    """Type of the weights."""
    max_model_len: int = Field(default=2048, gt=0)
    """Longest prompt and reply together, in tokens."""
    max_num_seqs: int = Field(default=256, gt=0)
    """Requests that the engine batches at once (vLLM's offline default)."""
    kv_cache_gib: int = Field(default=2, gt=0)
    """Memory for the key-value cache where there is no GPU, in GiB."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Handed to vLLM's engine arguments as it is."""

    def identity(self) -> dict[str, Any]:
        """Return what decides the text: the weights themselves rather than where they lie."""
        value = super().identity()
        value["fields"]["model"] = models.identity(self.model)
        return value


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the model."""

    messages: tuple[Message, ...]
    """The conversation so far; it is rendered with the model's chat template and a generation prompt."""
    max_tokens: int
    seed: int
    temperature: float = 0.7
    top_p: float = 1.0
    """1 leaves it out: on a CPU it sorts the vocabulary for every row of the batch, and halves the throughput."""
    stop: tuple[str, ...] = ()
    prefix: str = ""
    """Text that the reply continues, such as `"Score: "`."""
    choices: tuple[str, ...] = ()
    """When given, the reply is one of these words, decoded under constraint, with the probability of each."""
    min_p: float = 0.05
    """Tokens less likely than this share of the likeliest are never sampled; needs no sorting, so it costs nothing."""
    stop_loops: bool = False
    """End a reply that repeats 5 to 40 tokens four times in a row, with finish `repetition`; small models do."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said."""

    text: str
    finish: str
    """`stop`, `length`, `repetition`, or `error: …` for a request that the engine refused, as one that is too long."""
    prompt_tokens: int
    reply_tokens: int
    choices: Mapping[str, float] = field(default_factory=dict)
    """Probability of each choice, summing to 1; empty without choices."""
    cached_tokens: int = 0
    """Prompt tokens that the engine found in its prefix cache."""


def resources(engine: Engine) -> tuple[float, float]:
    """Return (cores, GPUs) of one engine: as set, else one of each where there are GPUs, else a share of all cores.

    Reads the Ray cluster when there is a session, this machine otherwise; loads nothing.
    """
    cores, devices = _cluster()
    gpus = engine.gpus if engine.gpus is not None else float(devices > 0)
    share = 1.0 if gpus else max(1.0, float(cores // engine.actors))
    return engine.cpus or share, gpus


def _cluster() -> tuple[float, float]:
    import ray

    if ray.is_initialized():
        have = ray.cluster_resources()
        return have.get("CPU", 1.0), have.get("GPU", 0.0)
    return float(len(os.sched_getaffinity(0))), 0.0


def start(engine: Engine, logs: str | None, name: str, *, cpus: float, gpus: float) -> Any:  # noqa: ANN401
    """Start one engine actor and return its handle at once; `name` is that of its log file.

    The actor offers `ready() -> dict` (resolved engine settings, seconds to start), `ask_all(requests) -> replies`
    (in order), and `stats() -> dict`.
    """
    import ray

    module = import_module(MODULE)
    actor = ray.remote(module.EngineActor).options(
        num_cpus=cpus,
        num_gpus=gpus,
        max_concurrency=1000,
        runtime_env={"env_vars": module.environment(engine, cpus, gpus)},
    )
    return actor.remote(engine, logs, name)


def ask_all(actor: Any, requests: Sequence[Request]) -> list[Reply]:  # noqa: ANN401
    """Ask one actor and wait for all replies, in the order of the requests."""
    import ray

    return list(ray.get(actor.ask_all.remote(list(requests))))
