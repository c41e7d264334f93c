"""The engine as every package sees it: its settings, a request, a reply, and how to start one without importing it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.models import names as models
from gristmill.cluster.runtime.resources import Need, need_of

LOOP = {"max_pattern_size": 40, "min_pattern_size": 5, "min_count": 4}
"""The loops that end a reply, in tokens and times."""
MODULE = "gristmill.generation.engines.actors"
"""Where the actor class of `start` is; a string, because `cluster` imports no package above it."""


class Price(Settings):
    """`[….engine.price]`: what the summary reckons with, in one currency of your choice."""

    prompt: float = Field(default=0.0, ge=0)
    """Of a million prompt tokens."""
    reply: float = Field(default=0.0, ge=0)
    """Of a million reply tokens."""
    hour: float = Field(default=0.0, ge=0)
    """Of an hour of one engine."""


class Engine(Settings):
    """`[….engine]`: which model answers, on how many actors with which resources, or at which endpoint."""

    not_identity: ClassVar[frozenset[str]] = frozenset(
        {
            "actors",
            "cpus",
            "gpus",
            "kv_cache_gib",
            "max_num_seqs",
            "endpoint",
            "api_key_env",
            "max_in_flight",
            "hang_s",
            "price",
        }
    )

    model: str = "builtin:smollm2-135m-instruct"
    """`builtin:…`, a folder, or a name that the engine can find; at an endpoint, the name that it serves it under."""
    adapter: str = ""
    """Folder of a LoRA adapter of that model, used for every request without being merged."""
    endpoint: str = ""
    """Base URL of an OpenAI-compatible server, such as `http://host:8000/v1`; the model then runs there."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the endpoint's key, where it wants one."""
    max_in_flight: int = Field(default=256, gt=0)
    """Most requests that one actor has at an endpoint at once; it starts lower and finds what the endpoint bears."""
    actors: int = Field(default=1, gt=0)
    """Engines, each a process with the whole model."""
    cpus: float | None = Field(default=None, gt=0)
    """Cores of one engine; without GPU an even share of all cores, at most a machine's; with GPU one."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of one engine; one where the cluster has any, else none."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of the weights, and of what is computed. `auto` is what the machine computes fastest: on a GPU bfloat16, or
    float16 where it has no bfloat16; on a CPU bfloat16 or float32, by a short timed product. A dataset that is
    continued keeps the type that it began with."""
    max_model_len: int = Field(default=2048, gt=0)
    """Longest prompt and reply together, in tokens."""
    max_num_seqs: int = Field(default=256, gt=0)
    """Requests that the engine batches at once (vLLM's offline default)."""
    kv_cache_gib: int = Field(default=2, gt=0)
    """Memory for the key-value cache where there is no GPU, in GiB."""
    hang_s: float = Field(default=300.0, gt=0)
    """Seconds without a step, while requests wait, after which an engine counts as hung and is replaced."""
    price: Price = Price()
    """For the money in the summary."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Handed to vLLM's engine arguments as it is."""

    def identity(self) -> dict[str, Any]:
        """Return what decides the text: the weights themselves rather than where they lie."""
        value = super().identity()
        if not self.endpoint:
            value["fields"]["model"] = models.identity(self.model)
        if self.adapter:
            value["fields"]["adapter"] = models.identity(self.adapter)
        return value


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the model."""

    messages: tuple[Message, ...]
    """The conversation so far; it is rendered with the model's chat template and the header of the turn to come."""
    max_tokens: int
    seed: int
    temperature: float = 0.7
    top_p: float = 1.0
    """1 leaves it out: on a CPU it sorts the vocabulary for every row of the batch, and halves the throughput."""
    min_p: float = 0.05
    """Tokens less likely than this share of the likeliest are never sampled; needs no sorting, so it costs nothing."""
    presence_penalty: float = 0.0
    """Lowers the logits of tokens that the reply has already."""
    stop: tuple[str, ...] = ()
    prefix: str = ""
    """Text that the reply continues, such as `"Score: "`; it is not part of the reply."""
    role: Literal["assistant", "user"] = "assistant"
    """Whose turn the reply is. As the user, the model invents the next question: without messages, from the part of the
    template before the first question alone."""
    choices: tuple[str, ...] = ()
    """When given, the reply is one of these words, decoded under constraint, with the probability of each."""
    json_schema: str = ""
    """When given, the reply is JSON that is valid under this schema (itself JSON), decoded under constraint."""
    regex: str = ""
    """When given, the whole reply matches this expression, decoded under constraint."""
    logprobs: bool = False
    """Whether the reply says how likely it was."""
    scored: str | None = None
    """A text to be scored as the turn instead of being written; the reply has its `logprob` and no text."""
    onward: bool = False
    """Whether it carries on what is under way: it goes before requests that begin something, while the engine's cache
    still holds what was said so far."""
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
    """Tokens of the text, or of the text that was scored."""
    choices: Mapping[str, float] = field(default_factory=dict)
    """Probability of each choice, summing to 1; empty without choices."""
    cached_tokens: int = 0
    """Prompt tokens that the engine found in its prefix cache."""
    logprob: float | None = None
    """Sum of the log-probabilities of the reply's tokens in nats, when it was asked for."""


def engine_need(engine: Engine, actors: int) -> Need:
    """Return what one of so many engines needs, which spans the GPUs of its parallel sizes; a core at an endpoint."""
    if engine.endpoint:
        return Need(engine.cpus or 1.0)
    parallel = int(engine.args.get("tensor_parallel_size", 1)) * int(engine.args.get("pipeline_parallel_size", 1))
    return need_of(engine.cpus, engine.gpus, actors, spans=parallel)


def start(engine: Engine, logs: str | None, name: str, need: Need) -> Any:  # noqa: ANN401 - a handle of Ray's
    """Start one engine actor and return its handle at once; `name` is that of its log file.

    The actor offers `ready() -> dict` (resolved engine settings, seconds to start), `ask_all(requests) -> replies`
    (in order), and `stats() -> dict`.
    """
    module = import_module(MODULE)
    return module.host(module.EngineActor, engine, need, engine, logs, name, max_restarts=3, max_task_retries=3)


def ask_all(actor: Any, requests: Sequence[Request]) -> list[Reply]:  # noqa: ANN401
    """Ask one actor and wait for all replies, in the order of the requests."""
    import ray

    return list(ray.get(actor.ask_all.remote(list(requests))))
