"""The interface of the engine: its settings, requests and replies, and its start. Nothing here imports vLLM."""

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
"""Arguments of a chat template that each call sets, so that a recipe cannot set them."""
LOOP = {"max_pattern_size": 40, "min_pattern_size": 5, "min_count": 4}
"""The loops that end a reply: length of the repeated sequence in tokens, and least number of its repetitions."""
MODULE = "gristmill.generation.engines.actors"
"""Module with the class of the actors of `start`. It is a string, because `cluster` imports no other package."""
SERVER = "gristmill.generation.engines.server"
"""Module with the command line of `server`, for the same reason."""


class Price(Settings):
    """`[….engine.price]`: prices for the cost in the summary. All must be in the same currency, which may be any."""

    prompt: float = Field(default=0.0, ge=0)
    """Price of one million prompt tokens."""
    reply: float = Field(default=0.0, ge=0)
    """Price of one million reply tokens."""
    hour: float = Field(default=0.0, ge=0)
    """Price of one hour of one engine."""


class Abilities(Settings):
    """`[….engine.abilities]`: the abilities of the server of an endpoint. With this table, a job does not test them."""

    continues: Literal["", "plain", "flags", "prefix"] = ""
    """How to ask the server to continue a turn that has begun. This turn is always sent as the last one. `plain` sends
    nothing more (llama.cpp). `flags` sends `continue_final_message` too (vLLM, SGLang). `prefix` sets `prefix` in the
    turn (DeepSeek, Mistral). It is empty if the server always starts a new turn."""
    json_schema: Literal["", "json_schema", "json_object"] = ""
    """The `type` in the parameter `response_format` with which the server's replies follow a JSON schema: `json_schema`
    as in OpenAI's API, or `json_object` with a `schema` as in llama-cpp-python. It is empty if the server supports
    neither."""
    logprobs: bool = False
    """Whether the server returns the log-probabilities of alternative tokens."""
    seeds: bool = False
    """Whether the same seed gives the same reply."""
    streams: bool = False
    """Whether the server can stream a whole answer while it also answers other calls."""

    def facts(self) -> dict[str, str]:
        """Return the abilities as text for people, `yes` or `no` by name."""
        found = {"continues turns": bool(self.continues), "JSON schema": bool(self.json_schema)}
        found |= {"logprobs": self.logprobs, "seeds": self.seeds, "streams": self.streams}
        return {name: "yes" if can else "no" for name, can in found.items()}


class Engine(Settings):
    """`[….engine]`: the model that answers. It runs in actors, or at an endpoint."""

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
    """`builtin:…`, a folder, or a name that the engine can find. With an endpoint, it is the name of the model at the
    endpoint."""
    adapter: str = ""
    """Folder of a LoRA adapter for the model. It is used for every request, and is not merged into the weights."""
    endpoint: str = ""
    """Base URL of an OpenAI-compatible server, such as `http://host:8000/v1`. The model then runs there."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key of the endpoint, if it needs one."""
    max_in_flight: int = Field(default=256, gt=0)
    """Most requests that one actor has in flight at an endpoint. An actor starts with fewer, and finds out how many
    the endpoint can handle."""
    actors: int = Field(default=1, gt=0)
    """Number of engines. Each is a process with its own copy of the model."""
    cpus: float | None = Field(default=None, gt=0)
    """Cores of one engine. By default an engine with a GPU has one core. The engines without a GPU share all cores
    evenly, and none has more cores than the largest machine."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of one engine. By default it is 0 if the cluster has no GPU. If it has any, it is the number that the
    model's parallel sizes in `args` need, which is 1 without them."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of the weights and of the computation. `auto` is the fastest on the machine. On a GPU it is bfloat16, or
    float16 if the GPU has no bfloat16. On a CPU, a short timed product decides between bfloat16 and float32. A dataset
    that is continued keeps the type that it began with."""
    max_model_len: int = Field(default=2048, gt=0)
    """Most tokens of a prompt and its reply together."""
    max_num_seqs: int = Field(default=256, gt=0)
    """Most requests in one batch. The default is vLLM's default for offline use."""
    kv_cache_gib: int = Field(default=2, gt=0)
    """Memory of the key-value cache in GiB. It is used only on machines without a GPU."""
    hang_s: float = Field(default=300.0, gt=0)
    """Seconds after which an engine counts as hung and is replaced, if requests wait and it makes no step. A call of an
    endpoint is given up and tried again if the server shows no sign of life for this time. A part of the answer is such
    a sign, and so is an answer to any other call. A long answer is streamed, so it is not given up. If the server
    cannot stream, it is asked for its list of models as a sign of life. A call without any answer for twelve times this
    time is always given up."""
    abilities: Abilities | None = None
    """What the server of an endpoint can do. By default, up to ten short calls find this out at the start of the job,
    once for all workers. vLLM's own server can do everything."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the model's chat template, such as `{enable_thinking = false}`. The template of a local
    model must read them. An endpoint gets them in the body of each call."""
    tool_parser: str = ""
    """Name of vLLM's parser of tool calls, such as `hermes` or `llama3_json`. By default the text that the model's
    template writes around calls decides. At an endpoint, the server's own parser is used."""
    reasoning_parser: str = ""
    """Name of vLLM's parser of thoughts, such as `qwen3` or `deepseek_r1`. By default the tags in the model's template
    decide. Without tags there, the text between `<think>` and `</think>` is the thought. At an endpoint, the server's
    own parser is used, and tags that it leaves in the text are read too."""
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
        """Return the settings that decide the text of replies, with a digest of the weights instead of their path."""
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
    """The fields that all requests have: the conversation so far, and the beginning of the next turn."""

    messages: tuple[Message, ...]
    """The conversation so far. It is rendered with the model's chat template and the header of the next turn."""
    prefix: str = field(default="", kw_only=True)
    """Text that the next turn begins with, such as `"Score: "`. It is not part of the reply."""
    role: Literal["assistant", "user"] = field(default="assistant", kw_only=True)
    """The role of the reply. As `user`, the model writes the next question. Without messages it then sees only the part
    of the template before the first question."""
    tools: str = field(default="", kw_only=True)
    """JSON text of the list of tools that the model may call."""
    chat_template_kwargs: str = field(default="", kw_only=True)
    """JSON text of further arguments of the chat template. They override those of the engine's settings."""
    onward: bool = field(default=False, kw_only=True)
    """Whether the request continues a conversation. Such a request goes before requests that begin one, because the
    engine's cache may still have the earlier turns."""

    @property
    def begun(self) -> bool:
        """Whether the first token of the next turn is fixed, so that the model cannot think before it."""
        return bool(self.prefix)


@dataclass(frozen=True, slots=True)
class Write(Conversation):
    """A request for a text."""

    max_tokens: int
    seed: int
    temperature: float = 0.7
    top_p: float = 1.0
    """Only the likeliest tokens that together have this share of the probability are sampled; 1 turns it off. On a CPU
    any other value sorts the vocabulary for every row of the batch, which halves the throughput."""
    min_p: float = 0.05
    """A token whose probability is below this share of the likeliest token's is never sampled. It needs no sorting, so
    it costs nothing."""
    presence_penalty: float = 0.0
    """Number that is subtracted from the logits of tokens that the reply already has."""
    stop: tuple[str, ...] = ()
    json_schema: str = ""
    """JSON text of a schema. If it is given, constrained decoding makes the reply valid JSON under this schema."""
    regex: str = ""
    """Regular expression. If it is given, constrained decoding makes the whole reply match it."""
    logprobs: bool = False
    """Whether the reply must have its log-probability."""
    stop_loops: bool = False
    """Whether a reply ends, with the finish `repetition`, when it repeats a sequence of 5 to 40 tokens four times.
    Small models write such loops."""

    @property
    def begun(self) -> bool:
        """Whether a prefix, a schema or an expression fixes the first token of the turn."""
        return bool(self.prefix or self.json_schema or self.regex)


@dataclass(frozen=True, slots=True)
class Choose(Conversation):
    """A request for one of several texts. The reply has the probability of each. Its text is the likeliest one."""

    choices: tuple[str, ...]
    seed: int
    """Sampling seed for a server that cannot return probabilities and must write the choice."""

    @property
    def begun(self) -> bool:
        """Whether the turn is fixed from its first token; always."""
        return True


@dataclass(frozen=True, slots=True)
class Score(Conversation):
    """A request for the log-probability of a text as the next turn. The reply has the `logprob` and no text."""

    text: str

    @property
    def begun(self) -> bool:
        """Whether the turn is fixed from its first token; always."""
        return True


Request = Write | Choose | Score
"""One request to the model, of any kind."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of a model to one request."""

    text: str
    finish: str
    """Why the reply ended: `stop`, `length`, `repetition`, or `error: …` if the engine refused the request, for example
    because it is too long."""
    prompt_tokens: int
    reply_tokens: int
    """Tokens of the reply, or of the scored text."""
    choices: Mapping[str, float] = field(default_factory=dict)
    """Probability of each choice, with the sum 1. It is empty for requests without choices."""
    cached_tokens: int = 0
    """Prompt tokens that the engine found in its prefix cache."""
    logprob: float | None = None
    """Sum of the log-probabilities of the reply's tokens in nats, if the request asked for it."""
    reasoning: str = ""
    """The thought before the text, if the engine reports it. It is not part of `text`."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The model's calls of tools."""


def engine_need(where: str, engine: Engine, actors: int) -> Need:
    """Return the cores and GPUs that one of `actors` engines needs.

    The GPUs follow from the parallel sizes in the engine's `args`. An engine at an endpoint needs one core.
    """
    if engine.endpoint:
        return Need(engine.cpus or 1.0)
    parallel = int(engine.args.get("tensor_parallel_size", 1)) * int(engine.args.get("pipeline_parallel_size", 1))
    return need_of(f"{where}.gpus", engine.cpus, engine.gpus, actors, spans=parallel)


def start(engine: Engine, logs: str | None, name: str, need: Need) -> Any:  # noqa: ANN401 - a handle of Ray's
    """Start one engine actor and return its handle at once. `name` is the name of its log file.

    The actor has three methods. `ready()` returns a dict with the resolved settings of the engine and the seconds of
    its start. `ask_all(requests)` returns the replies in the same order. `stats()` returns a dict of counts.
    """
    module = import_module(MODULE)
    return module.host(module.EngineActor, engine, need, engine, logs, name, max_restarts=3, max_task_retries=3)


@dataclass(frozen=True, slots=True)
class Served:
    """The model that a server offers, and the names under which clients ask for it."""

    name: str
    """Name of the model; with an adapter, the name of the base model with the adapter."""
    base: str = ""
    """Name of the base model without the adapter; empty if there is no adapter."""
    tokenizer: str = ""
    """Folder with a tokenizer and a `generation_config.json` that replace those of the model; empty for none."""
    template: str = ""
    """The chat template. It decides which parsers read calls of tools and thoughts."""


def server(engine: Engine, served: Served, address: tuple[str, int], need: Need) -> tuple[list[str], dict[str, str]]:
    """Return the command line of an OpenAI-compatible server, and the variables of its environment.

    Args:
        engine: the settings of the engine, with the model and perhaps an adapter.
        served: the names of the model, its tokenizer and template.
        address: host and port.
        need: the cores and GPUs of the server.
    """
    found: tuple[list[str], dict[str, str]] = import_module(SERVER).command(engine, served, address, need)
    return found


def ask_all(actor: Any, requests: Sequence[Request]) -> list[Reply]:  # noqa: ANN401
    """Send requests to one actor, wait, and return the replies in the order of the requests."""
    import ray

    return list(ray.get(actor.ask_all.remote(list(requests))))
