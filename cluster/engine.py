"""The engine as every package sees it: its settings, a request, a reply, and how to start one without importing it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal

from pydantic import Field

from cluster import models
from cluster.sample import Message
from cluster.step import Settings

ACTOR = "generation.engine:EngineActor"
"""The actor class behind `start`; a string, because `cluster` imports no package above it."""


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
    top_p: float = 0.95
    stop: tuple[str, ...] = ()
    prefix: str = ""
    """Text that the reply continues, such as `"Score: "`."""
    choices: tuple[str, ...] = ()
    """When given, the reply is one of these words, decoded under constraint, with the probability of each."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said."""

    text: str
    finish: str
    """`stop`, `length`, or `error: …` for a request that the engine refused, such as a prompt that is too long."""
    prompt_tokens: int
    reply_tokens: int
    choices: Mapping[str, float] = field(default_factory=dict)
    """Probability of each choice, summing to 1; empty without choices."""


def start(engine: Engine, logs: str | None, name: str, *, cpus: float, gpus: float) -> Any:  # noqa: ANN401
    """Start one engine actor and return its handle at once.

    The actor offers `ready() -> dict` (resolved engine settings, seconds to start), `ask_all(requests) -> replies`
    (in order), and `stats() -> dict`.
    """
    module, _, attribute = ACTOR.partition(":")
    actor = getattr(import_module(module), attribute)
    return actor.options(num_cpus=cpus, num_gpus=gpus).remote(engine, logs, name)


def ask_all(actor: Any, requests: Sequence[Request]) -> list[Reply]:  # noqa: ANN401
    """Ask one actor and wait for all replies, in the order of the requests."""
    import ray

    return list(ray.get(actor.ask_all.remote(list(requests))))
