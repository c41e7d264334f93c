"""The interface of the engine: its settings, requests and replies, and how to start one without importing vLLM."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from gristmill.cluster.contract.sample import Message, ToolCall
from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.models import names as models
from gristmill.cluster.runtime.resources import Need, need_of

TAKEN = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message", "tokenize", "chat_template"})
"""Arguments of a chat template that each call sets."""
LOOP = {"max_pattern_size": 40, "min_pattern_size": 5, "min_count": 4}
"""The loops that end a reply, in tokens and times."""
MODULE = "gristmill.generation.engines.actors"
"""Module with the actor class of `start`; a string, because `cluster` imports no package above it."""


class Price(Settings):
    """`[….engine.price]`: prices for the summary, all in one currency of your choice."""

    prompt: float = Field(default=0.0, ge=0)
    """Price of a million prompt tokens."""
    reply: float = Field(default=0.0, ge=0)
    """Price of a million reply tokens."""
    hour: float = Field(default=0.0, ge=0)
    """Price of an hour of one engine."""


class Abilities(Settings):
    """`[….engine.abilities]`: what the server of an endpoint can do, in place of the probe at the start of a job."""

    continues: Literal["", "plain", "flags", "prefix"] = ""
    """How the server is asked to continue a turn that has begun. `plain`: the turn is sent as the last one, and nothing
    more (llama.cpp). `flags`: with `continue_final_message` (vLLM, SGLang). `prefix`: with `prefix` in that turn
    (DeepSeek, Mistral). Empty where the server always starts a new turn."""
    json_schema: Literal["", "json_schema", "json_object"] = ""
    """The `type` in the parameter `response_format` that makes the server keep to a JSON schema: `json_schema` as
    OpenAI has it, or `json_object` with a `schema`, as llama-cpp-python has it. Empty where the server can do
    neither."""
    logprobs: bool = False
    """Whether the server returns the probabilities of alternatives."""
    seeds: bool = False
    """Whether the same seed gives the same reply."""
    streams: bool = False
    """Whether the server streams an answer to its end while it answers other calls."""

    def facts(self) -> dict[str, str]:
        """Return the abilities for people."""
        found = {"continues turns": bool(self.continues), "JSON schema": bool(self.json_schema)}
        found |= {"logprobs": self.logprobs, "seeds": self.seeds, "streams": self.streams}
        return {name: "yes" if can else "no" for name, can in found.items()}


class Engine(Settings):
    """`[….engine]`: the model that answers, and its actors with their resources, or its endpoint."""

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
            "abilities",
            "price",
        }
    )

    model: str = "builtin:smollm2-135m-instruct"
    """`builtin:…`, a folder, or a name that the engine can find; with an endpoint, the name under which it serves the
    model."""
    adapter: str = ""
    """Folder of a LoRA adapter for that model. It is used for every request and not merged."""
    endpoint: str = ""
    """Base URL of an OpenAI-compatible server, such as `http://host:8000/v1`. The model then runs there."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the endpoint's key, if it wants one."""
    max_in_flight: int = Field(default=256, gt=0)
    """Most requests that one actor has in flight at an endpoint. It starts with fewer and finds out how many the
    endpoint can take."""
    actors: int = Field(default=1, gt=0)
    """Engines, each a process with the whole model."""
    cpus: float | None = Field(default=None, gt=0)
    """Cores of one engine. By default one with a GPU; without one, an even share of all cores, at most a machine's."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of one engine. By default one where the cluster has any, else none."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of the weights and of the computation. `auto` is the fastest on the machine: on a GPU bfloat16, or float16
    where it has no bfloat16; on a CPU bfloat16 or float32, by a short timed product. A dataset that is continued keeps
    the type that it began with."""
    max_model_len: int = Field(default=2048, gt=0)
    """Most tokens of a prompt and its reply together."""
    max_num_seqs: int = Field(default=256, gt=0)
    """Most requests in one batch (vLLM's offline default)."""
    kv_cache_gib: int = Field(default=2, gt=0)
    """GiB of memory for the key-value cache, on machines without a GPU."""
    hang_s: float = Field(default=300.0, gt=0)
    """Seconds without a step, while requests wait, after which an engine counts as hung and is replaced. A call of an
    endpoint is given up and tried again after this time without any sign of life of the server. A part of this answer
    is such a sign, and so is any other answer. A long answer is not given up, because it is streamed. Where the server
    cannot stream, it is asked for its list of models. A call without any answer for twelve times this time is given up
    in any case."""
    abilities: Abilities | None = None
    """What the server of an endpoint can do. vLLM's own server can do everything. By default up to ten short calls find
    it out at the start of the job, once for all workers."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the model's chat template, such as `{enable_thinking = false}`. A local model's template
    must read them; an endpoint gets them in the body of each call."""
    tool_parser: str = ""
    """vLLM's parser of tool calls (`hermes`, `llama3_json`, …). By default it is chosen by what the model's template
    writes around calls. At an endpoint the server's own parser is used."""
    reasoning_parser: str = ""
    """vLLM's parser of thoughts (`qwen3`, `deepseek_r1`, …). By default it is chosen by the tags in the model's
    template; without any, the text between `<think>` and `</think>` is the thought. At an endpoint the server's own
    parser is used; tags that it leaves in the text are read too."""
    price: Price = Price()
    """Prices, for the cost in the summary."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Further engine arguments of vLLM, passed on unchanged."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _is_free(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(TAKEN & value.keys())
        if taken:
            raise ValueError(f"has {', '.join(taken)}, which is set for each call; leave it out")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"must be values that JSON can hold: {error}") from error
        return value

    @model_validator(mode="after")
    def _parses_here(self) -> Self:
        if self.endpoint and (self.tool_parser or self.reasoning_parser):
            raise ValueError(
                "has an endpoint and tool_parser or reasoning_parser; the server parses, start it with them"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the text, with the digest of the weights instead of their path."""
        value = super().identity()
        for name in ("chat_template_kwargs", "tool_parser", "reasoning_parser"):
            if not getattr(self, name):
                del value["fields"][name]
        if not self.endpoint:
            value["fields"]["model"] = models.identity(self.model)
        if self.adapter:
            value["fields"]["adapter"] = models.identity(self.adapter)
        return value


@dataclass(frozen=True, slots=True)
class Conversation:
    """The common part of all requests: the conversation so far, and the beginning of the next turn."""

    messages: tuple[Message, ...]
    """The conversation so far. It is rendered with the model's chat template and the header of the next turn."""
    prefix: str = field(default="", kw_only=True)
    """Text that the next turn begins with, such as `"Score: "`; it is not part of the reply."""
    role: Literal["assistant", "user"] = field(default="assistant", kw_only=True)
    """The role of the reply. As the user, the model invents the next question; without messages it sees only the part
    of the template before the first question."""
    tools: str = field(default="", kw_only=True)
    """JSON text of the list of tools that the model may call."""
    chat_template_kwargs: str = field(default="", kw_only=True)
    """JSON text of further arguments of the chat template. They go before those of the engine's settings."""
    onward: bool = field(default=False, kw_only=True)
    """Whether the request continues a conversation. It then goes before requests that begin one, while the engine's
    cache still has the earlier turns."""

    @property
    def begun(self) -> bool:
        """Whether the next turn is fixed from its first token, so that the model does not think before it."""
        return bool(self.prefix)


@dataclass(frozen=True, slots=True)
class Write(Conversation):
    """A request for a text."""

    max_tokens: int
    seed: int
    temperature: float = 0.7
    top_p: float = 1.0
    """1 turns it off. On a CPU any other value sorts the vocabulary for every row of the batch and halves the
    throughput."""
    min_p: float = 0.05
    """Tokens less likely than this share of the likeliest token are never sampled. It needs no sorting, so it costs
    nothing."""
    presence_penalty: float = 0.0
    """Lowers the logits of tokens that the reply has already."""
    stop: tuple[str, ...] = ()
    json_schema: str = ""
    """When given, the reply is JSON that is valid under this schema (given as JSON text), by constrained decoding."""
    regex: str = ""
    """When given, the whole reply matches this expression, by constrained decoding."""
    logprobs: bool = False
    """Whether the reply has its log-probability."""
    stop_loops: bool = False
    """End a reply that repeats a sequence of 5 to 40 tokens four times, with finish `repetition`; small models do
    that."""

    @property
    def begun(self) -> bool:
        """Whether the text is fixed from its first token: by a prefix, a schema or an expression."""
        return bool(self.prefix or self.json_schema or self.regex)


@dataclass(frozen=True, slots=True)
class Choose(Conversation):
    """A request for one of several texts. The reply has the probability of each, and the likeliest as its text."""

    choices: tuple[str, ...]
    seed: int
    """Used by a server that has to write the choice."""

    @property
    def begun(self) -> bool:
        """Whether the turn is fixed from its first token; always."""
        return True


@dataclass(frozen=True, slots=True)
class Score(Conversation):
    """A request for the log-probability of a text as the next turn. The reply has its `logprob` and no text."""

    text: str

    @property
    def begun(self) -> bool:
        """Whether the turn is fixed from its first token; always."""
        return True


Request = Write | Choose | Score
"""One call of the model."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of a model to one request."""

    text: str
    finish: str
    """`stop`, `length`, `repetition`, or `error: …` for a request that the engine refused, such as one that is too
    long."""
    prompt_tokens: int
    reply_tokens: int
    """Tokens of the reply, or of the scored text."""
    choices: Mapping[str, float] = field(default_factory=dict)
    """Probability of each choice, summing to 1; empty without choices."""
    cached_tokens: int = 0
    """Prompt tokens that the engine found in its prefix cache."""
    logprob: float | None = None
    """Sum of the log-probabilities of the reply's tokens in nats, where the request asked for it."""
    reasoning: str = ""
    """The thought before the text, if the engine reports it; never part of the text."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls of tools that the request had."""


def engine_need(where: str, engine: Engine, actors: int) -> Need:
    """Return the needs of one of `actors` engines: GPUs for its parallel sizes, and cores; one core at an endpoint."""
    if engine.endpoint:
        return Need(engine.cpus or 1.0)
    parallel = int(engine.args.get("tensor_parallel_size", 1)) * int(engine.args.get("pipeline_parallel_size", 1))
    return need_of(f"{where}.gpus", engine.cpus, engine.gpus, actors, spans=parallel)


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
