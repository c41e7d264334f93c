"""Every use of vLLM's internals, each with the feature that is lost without it.

`tests/generation/engines/test_vllm_internals.py` checks names and signatures in the version that `pyproject.toml` pins.
vLLM documents everything else that `engines/vllm.py` and `cluster/models/encoder_vllm.py` import.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def skip_ranks() -> None:
    """Replace, in this process, the function by which vLLM ranks the sampled token; no code reads the rank.

    vLLM compiles that function in the first step that returns log-probabilities. Without this replacement, the first
    grade of each engine takes 3 to 4 s longer. Log-probabilities and texts are the same.
    """
    from vllm.v1.sample import sampler

    sampler.batched_count_greater_than = _no_ranks  # type: ignore[assignment,attr-defined]


def _no_ranks(_: Any, sampled: Any) -> Any:  # noqa: ANN401 - tensors, [requests, tokens] and [requests, 1]
    """Return a zero for each request, [requests]."""
    import torch

    return torch.zeros(len(sampled), dtype=torch.int64, device=sampled.device)


def request_counts(engine: Any) -> tuple[int, int]:  # noqa: ANN401 - vLLM's LLMEngine
    """Return the number of the scheduler's requests, as (running, waiting).

    If the engine core is in another process, all requests count as running. Without this function they always would:
    metrics would show no queue, and the estimate of the time left would divide by too many rows.
    """
    from vllm.v1.engine.core_client import InprocClient

    if not isinstance(engine.engine_core, InprocClient):
        return engine.get_num_unfinished_requests(), 0
    running, waiting = engine.engine_core.engine_core.scheduler.get_request_counts()
    return int(running), int(waiting)


def tokens_under_way(engine: Any) -> int:  # noqa: ANN401 - vLLM's LLMEngine
    """Return the reply tokens of the requests in flight; the engine's thread may add and remove requests meanwhile.

    Without this function, tokens would count only when a reply ends: the rates on the screen and in metrics would come
    in bursts, and stay 0 during the first replies.
    """
    states = engine.output_processor.request_states.copy()  # in one step: a loop over the live dict could fail
    return sum(state.detokenizer.num_output_tokens() for state in states.values() if state.detokenizer)


class ReplyParser:
    """vLLM's parsers of tool calls and of thoughts, used on a complete reply as vLLM's server does.

    vLLM documents the names of the parsers and how to add one, but not how to call them. Without this class, calls of
    tools would stay in the text. Thoughts in other tags than `<think>` would stay there too.
    """

    def __init__(self, tools: str, reasoning: str, tokenizer: Any, model_config: Any) -> None:  # noqa: ANN401 - vLLM's
        """Find the parsers by their names; an empty name means no parser.

        Raises:
            ValueError: when no parser has the name, or the parser does not fit the tokenizer.
        """
        from vllm.parser import ParserManager
        from vllm.reasoning import ReasoningParserManager
        from vllm.tool_parsers import ToolParserManager

        known: dict[str, Any] = {"tool_parser": ToolParserManager, "reasoning_parser": ReasoningParserManager}
        for setting, name in (("tool_parser", tools), ("reasoning_parser", reasoning)):
            names = sorted(known[setting].list_registered())
            if name and name not in names:
                raise ValueError(f"{setting} is {name!r}, must be one of {', '.join(names)}")
        try:
            found = ParserManager.get_parser(
                tool_parser_name=tools or None,
                reasoning_parser_name=reasoning or None,
                enable_auto_tools=True,
                is_harmony=reasoning == "openai_gptoss",
                tokenizer=tokenizer,
            )
        except TypeError as error:
            raise ValueError(f"{tools or reasoning} does not fit the model: {error.__cause__ or error}") from error
        if found is None:
            raise ValueError("needs the name of a parser")
        self._kind: Any = found
        self._tokenizer, self._model_config = tokenizer, model_config

    def skips_special(self, chat: Mapping[str, Any]) -> bool:
        """Return whether special tokens are left out of the text of a reply to a chat, in the form of OpenAI's API."""
        parser, request = self._open(chat)
        return bool(parser.adjust_request(request).skip_special_tokens)

    def read(self, chat: Mapping[str, Any], prompt: Sequence[int], text: str, ids: Sequence[int]) -> dict[str, Any]:
        """Return a reply as a message in the form of OpenAI's API."""
        parser, request = self._open(chat)
        parser.set_prompt_token_ids(prompt)
        tools = bool(request.tools)
        thought, content, calls = parser.parse(text, request, enable_auto_tools=tools, model_output_token_ids=ids)
        made = [{"id": c.id, "function": {"name": c.name, "arguments": c.arguments}} for c in calls or ()]
        return {"content": content, "reasoning": thought, "tool_calls": made}

    def _open(self, chat: Mapping[str, Any]) -> tuple[Any, Any]:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        request = ChatCompletionRequest(**chat)
        kwargs = chat.get("chat_template_kwargs") or {}
        made = self._kind(self._tokenizer, request.tools, chat_template_kwargs=kwargs, model_config=self._model_config)
        return made, request


def bundled_libraries() -> list[str]:
    """Return the folder in vLLM's wheel for CPUs that contains the fastest allocator; vLLM is not imported.

    Without this function, the allocator is loaded only if the machine has it installed.
    """
    vllm = find_spec("vllm")
    return [str(Path(vllm.origin).parent / "libs")] if vllm and vllm.origin else []
