"""vLLM as an engine in this process. A thread steps it, and asyncio callers wait for futures.

`LLMEngine` with our own add/step loop has the continuous batching of `AsyncLLM` without its child process. So on two
cores the engine starts in 6 s instead of 46 s and makes 5 % more tokens a second. Another thread renders and tokenises
the next requests. The engine gets token ids and returns only finished requests.
"""

import asyncio
import json
import logging
import math
import os
import queue
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gristmill.cluster.contract.errors import EngineError, JobError
from gristmill.cluster.models import dtypes
from gristmill.cluster.models import names as models
from gristmill.cluster.models.engine import LOOP, Choose, Engine, Reply, Request, Score, Write
from gristmill.cluster.models.template import opened_thought
from gristmill.generation.engines import vllm_internals as internals
from gristmill.generation.engines.parsing import open_reader
from gristmill.generation.engines.render import Node, RefusedError, Renderer
from gristmill.generation.engines.spinning import Spinning

log = logging.getLogger(__name__)

BATCHED_TOKENS_CPU = 4096
BATCHED_TOKENS_GPU = 16384
"""Largest number of tokens in one step. Without chunked prefill a complete prompt must fit into one step."""
BLOCK_SIZE_CPU = 32
"""Tokens of a cache block on CPUs. With vLLM's default, 128, a few-shot prefix of 345 tokens had 72 % cache hits, and
the engine made 458 greedy tokens/s. With 32 it had 99 % and made 939."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def engine_args(engine: Engine, *, gpu: bool) -> dict[str, Any]:
    """Return vLLM's engine arguments. The recipe's `args` override ours."""
    ours: dict[str, Any] = {
        "model": models.local(engine.model),
        "dtype": dtypes.choose(engine.model).dtype if engine.dtype == "auto" else engine.dtype,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": max(engine.max_model_len, BATCHED_TOKENS_GPU if gpu else BATCHED_TOKENS_CPU),
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
        "generation_config": "vllm",  # else a model's own sampling defaults would silently override the recipe's
        "disable_log_stats": True,
        "seed": 0,
    }
    if engine.args.get("tensor_parallel_size", 1) == engine.args.get("pipeline_parallel_size", 1) == 1:
        ours["distributed_executor_backend"] = "uni"
    if not gpu:
        # a request's own seed with chunked prefill kills the engine: "CPU Generator does not use offset"
        ours |= {"enable_chunked_prefill": False, "enforce_eager": True, "block_size": BLOCK_SIZE_CPU}
    if engine.adapter:
        ours |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank(engine.adapter)}
    return {**ours, **engine.args}


def _rank(adapter: str) -> int:
    """Return the smallest rank that vLLM supports and that the adapter fits into.

    Raises:
        JobError: when the folder has no adapter.
    """
    path = Path(adapter).expanduser() / "adapter_config.json"
    try:
        rank = int(json.loads(path.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError) as error:
        raise JobError(f"engine.adapter: {adapter} has no adapter_config.json with a rank `r`: {error}") from error
    return next((known for known in LORA_RANKS if known >= rank), rank)


@dataclass(slots=True)
class _Submission:
    """One request while the engine works on it."""

    token_ids: list[int]
    params: Any
    future: "Future[Any]"
    priority: int
    """Submissions with a lower number go first. Submissions with the same number go in the order of arrival."""
    chat: "dict[str, Any] | None" = None
    """The request in the form that the parsers need; None if no parser reads the reply."""
    opened: bool = False
    """Whether the prompt ends within a thought."""


class VllmEngine:
    """One engine and the thread that steps it. Any number of coroutines may `ask` at once.

    When the engine fails, the process ends with `os._exit`, so that Ray sees the actor die.
    """

    def __init__(self, engine: Engine) -> None:
        """Begin to start the engine; `ready` waits until it has started."""
        self._settings = engine
        self._inbox: queue.SimpleQueue[_Submission | None] = queue.SimpleQueue()
        self._calls: dict[str, _Submission] = {}
        self._ahead = ThreadPoolExecutor(1, "render")
        self._started: Future[dict[str, Any]] = Future()
        self._renderer: Any = None
        self._reader: Any = None
        self._lora: Any = None
        self._engine: Any = None
        self._totals = {"requests": 0, "prompt_tokens": 0, "reply_tokens": 0, "cached_tokens": 0, "steps": 0}
        self._busy_s = 0.0
        self._tokens_seen = 0
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)
        self._thread.start()

    async def ready(self) -> dict[str, Any]:
        """Return the resolved settings and the seconds of the start, after the engine has started.

        Raises:
            EngineError: when the engine does not start, with vLLM's reason.
        """
        return await asyncio.wrap_future(self._started)

    async def ask(self, request: Request) -> Reply:
        """Return the reply to one request; a request that is refused gets the finish `error: …`."""
        if not self._started.done():
            await self.ready()
        loop = asyncio.get_running_loop()
        try:
            if isinstance(request, Choose):
                head, tree = await loop.run_in_executor(self._ahead, self._rendered_choices, request)
                return await self._choose(request, head, tree)
            if isinstance(request, Score):
                call, num_scored = await loop.run_in_executor(self._ahead, self._rendered_score, request)
                return _scored_reply(await self._through(call), num_scored)
            call = await loop.run_in_executor(self._ahead, self._rendered, request)
            output = await self._through(call)
            reply, tokens = _reply(output), (call.token_ids, output.outputs[0].token_ids)
            return cast("Reply", self._reader.read(reply, request, call.chat, tokens, opened=call.opened))
        except RefusedError as error:
            return Reply("", f"error: {error}", 0, 0)

    def render(self, request: Request) -> str:
        """Return the prompt as the model sees it. The engine must have started."""
        scored = request.text if isinstance(request, Score) else ""
        try:
            return str(self._renderer.text(request)) + scored
        except RefusedError as error:
            return f"(refused: {error})"

    def stats(self) -> dict[str, float]:
        """Return counters since the start and the requests running and waiting now.

        `reply_tokens` counts tokens as they are made. The other counters grow when a request ends. No counter falls.
        """
        totals = dict(self._totals)  # first, so that a request that ends meanwhile is never counted twice
        running, waiting = internals.request_counts(self._engine) if self._engine is not None else (0, 0)
        under_way = internals.tokens_under_way(self._engine) if self._engine is not None else 0
        totals["reply_tokens"] = self._tokens_seen = max(self._tokens_seen, totals["reply_tokens"] + under_way)
        return {
            **totals,
            "running": running,
            "waiting": waiting + self._inbox.qsize(),
            "busy_s": self._busy_s,
            "reply_tokens_per_s": totals["reply_tokens"] / self._busy_s if self._busy_s else 0.0,
            "prefix_cache_hit_rate": totals["cached_tokens"] / max(1, totals["prompt_tokens"]),
        }

    def close(self) -> None:
        """End the thread once the requests in flight are done."""
        self._inbox.put(None)
        self._thread.join()
        self._ahead.shutdown()
        self._engine = None

    # -- ahead of the engine ------------------------------------------------------------------------------------

    def _rendered(self, request: Write) -> _Submission:
        """Return the submission of a request for a text."""
        text = self._renderer.text(request)
        ids = self._renderer.ids(text)
        room = self._settings.max_model_len - len(ids)
        stop_ids, stops = self._renderer.user_end if request.role == "user" else ([], [])
        try:
            chat = self._reader.chat(request)
            skips = self._reader.skips_special(chat)
        except ValueError as error:
            raise RefusedError(f"tools are not in the form of OpenAI's API: {error}") from error
        params = _params(request, room, stop_ids, stops, skips_special=skips)
        priority, opened = int(not request.onward), opened_thought(text) is not None
        return _Submission(ids, params, Future(), priority, chat, opened)

    def _rendered_score(self, request: Score) -> tuple[_Submission, int]:
        """Return the submission of a text to score, and the number of tokens of that text, which are the last ones."""
        if self._lora is not None:  # scoring with an adapter kills the engine (vLLM 0.32, on a CPU)
            raise RefusedError("texts cannot be scored with an adapter, merge it or score with another engine")
        ids, scored = self._renderer.ids(self._renderer.text(request)), self._renderer.ids(request.text)
        if len(ids) + len(scored) >= self._settings.max_model_len:
            raise RefusedError(f"prompt and scored text have {len(ids) + len(scored)} tokens, too many for the model")
        params, priority = _logprob_params(prompt_logprobs=0), int(not request.onward)
        return _Submission([*ids, *scored], params, Future(), priority), len(scored)

    def _rendered_choices(self, request: Choose) -> tuple[list[int], Any]:
        head, tree = self._renderer.choices(self._renderer.ids(self._renderer.text(request)), request.choices)
        return head, tree

    async def _choose(self, request: Choose, head: list[int], tree: Any) -> Reply:  # noqa: ANN401 - Node or choice
        """Return the likeliest choice with the probability of each. Each place where choices branch costs a call."""
        chances = dict.fromkeys(request.choices, 0.0)
        prompt = cached = calls = 0
        ahead = [(1.0, tree)]
        while ahead:
            chance, node = ahead.pop()
            if not isinstance(node, Node):
                chances[node] = chance
                continue
            weights: dict[int, float] = {}
            for tokens in _parts(list(node.branches)):
                params = _logprob_params(logprob_token_ids=tokens)
                call = _Submission([*head, *node.ids], params, Future(), int(not request.onward))
                output = await self._through(call)
                calls, prompt = calls + 1, prompt + len(call.token_ids)
                cached += output.num_cached_tokens or 0
                logprobs = output.outputs[0].logprobs[0]
                weights |= {token: math.exp(logprobs[token].logprob) for token in tokens}
            total = sum(weights.values()) or 1.0
            ahead += [(chance * weights[token] / total, inner) for token, inner in node.branches.items()]
        return Reply(max(chances, key=lambda choice: chances[choice]), "stop", prompt, calls, chances, cached)

    async def _through(self, call: _Submission) -> Any:  # noqa: ANN401 - vLLM's RequestOutput
        self._inbox.put(call)
        return await asyncio.wrap_future(call.future)

    # -- the engine's thread ------------------------------------------------------------------------------------

    def _live(self) -> None:
        try:
            begin = time.monotonic()
            self._engine, tokenizer, resolved = _open(self._settings)
            kwargs = self._settings.chat_template_kwargs
            self._renderer = Renderer(tokenizer, self._settings.max_model_len, kwargs)
            if self._renderer.folds_system:
                log.warning("the chat template takes no system turn: its text goes into the user turn after it")
            model_config = self._engine.vllm_config.model_config
            self._reader, named = open_reader(self._settings, self._renderer.template, tokenizer, model_config)
            resolved |= named
            self._lora = _lora(self._settings.adapter)
            resolved["engine_start_s"] = round(time.monotonic() - begin, 1)
        except Exception as error:
            log.exception("engine did not start")
            self._started.set_exception(EngineError(f"engine {self._settings.model}: did not start: {error}"))
            return
        log.info("engine started: %s", resolved)
        self._started.set_result(resolved)
        try:
            self._serve()
        except BaseException:
            log.exception("engine failed with %d requests in flight, leaving the process", len(self._calls))
            logging.shutdown()
            os._exit(1)

    def _serve(self) -> None:
        spinning = Spinning()
        while True:
            if not self._take_in():
                return
            spinning.adapt()
            begin = time.monotonic()
            outputs = self._engine.step()
            self._busy_s += time.monotonic() - begin
            self._totals["steps"] += 1
            for output in outputs:
                if output.finished:
                    self._finish(output)

    def _take_in(self) -> bool:
        """Give new submissions to the engine, and wait for one if the engine has no work; return False at the end."""
        while True:
            try:
                call = self._inbox.get(block=not self._calls)
            except queue.Empty:
                return True
            if call is None:
                return False
            self._add(call)
            if self._calls and self._inbox.empty():
                return True

    def _add(self, call: _Submission) -> None:
        from vllm import TokensPrompt
        from vllm.exceptions import VLLMError

        name = str(self._totals["requests"])
        self._totals["requests"] += 1
        prompt = TokensPrompt(prompt_token_ids=call.token_ids)
        try:
            self._engine.add_request(name, prompt, call.params, lora_request=self._lora, priority=call.priority)
        except (VLLMError, ValueError) as error:  # only this request is refused
            call.future.set_exception(RefusedError(str(error)))
            return
        self._calls[name] = call

    def _finish(self, output: Any) -> None:  # noqa: ANN401 - vLLM's RequestOutput
        call = self._calls.pop(output.request_id)
        self._totals["prompt_tokens"] += len(call.token_ids)
        self._totals["reply_tokens"] += len(output.outputs[0].token_ids)
        self._totals["cached_tokens"] += output.num_cached_tokens or 0
        call.future.set_result(output)


def _params(request: Write, room: int, stop_ids: list[int], stops: list[str], *, skips_special: bool = True) -> Any:  # noqa: ANN401 - vLLM's
    from vllm import SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams

    constraint = None
    if request.json_schema or request.regex:
        constraint = StructuredOutputsParams(json=request.json_schema or None, regex=request.regex or None)
    return SamplingParams(
        max_tokens=min(request.max_tokens, room),
        temperature=request.temperature,
        top_p=request.top_p,
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        stop=[*request.stop, *stops],
        stop_token_ids=stop_ids,
        skip_special_tokens=skips_special,
        logprob_token_ids=[0] if request.logprobs else None,  # vLLM then also returns that of the sampled token
        structured_outputs=constraint,
        repetition_detection=RepetitionDetectionParams(**LOOP) if request.stop_loops else None,
        seed=request.seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _parts(tokens: list[int]) -> list[list[int]]:
    """Cut a list of tokens into parts for which vLLM returns log-probabilities in one call."""
    from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS as MOST

    return [tokens[start : start + MOST] for start in range(0, len(tokens), MOST)]


def _logprob_params(**which: Any) -> Any:  # noqa: ANN401 - vLLM's SamplingParams and their values
    """Return parameters that ask for the log-probabilities of given tokens only; the sampled token does not matter.

    With `logprobs` set too, each step would search for the likeliest tokens of all requests in the batch.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(max_tokens=1, temperature=0.0, output_kind=RequestOutputKind.FINAL_ONLY, **which)


def _reply(output: Any) -> Reply:  # noqa: ANN401 - vLLM's RequestOutput
    """Return the reply of a finished request."""
    said, prompt = output.outputs[0], len(output.prompt_token_ids)
    cached = output.num_cached_tokens or 0
    return Reply(said.text, str(said.finish_reason), prompt, len(said.token_ids), {}, cached, said.cumulative_logprob)


def _scored_reply(output: Any, num_scored: int) -> Reply:  # noqa: ANN401 - vLLM's RequestOutput
    """Return a reply with the log-probability of the last `num_scored` tokens of a finished request's prompt."""
    prompt, cached = len(output.prompt_token_ids), output.num_cached_tokens or 0
    start = prompt - num_scored
    tail = zip(output.prompt_token_ids[start:], output.prompt_logprobs[start:], strict=True)
    logprob = sum(float(found[token].logprob) for token, found in tail)
    return Reply("", "stop", start, num_scored, {}, cached, logprob)


def _lora(adapter: str) -> Any:  # noqa: ANN401 - vLLM's LoRARequest
    if not adapter:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(Path(adapter).expanduser().resolve()))


def _open(settings: Engine) -> tuple[Any, Any, dict[str, Any]]:
    """Return the engine, a tokenizer of our own, and the resolved settings. Runs in the engine's thread."""
    import torch
    from transformers import AutoTokenizer
    from vllm import EngineArgs, LLMEngine
    from vllm.usage.usage_lib import UsageContext

    internals.skip_ranks()
    arguments = engine_args(settings, gpu=torch.cuda.is_available())
    engine = LLMEngine.from_engine_args(EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
    tokenizer = AutoTokenizer.from_pretrained(arguments["model"])
    scheduler, cache = engine.vllm_config.scheduler_config, engine.vllm_config.cache_config
    resolved = {
        "model": arguments["model"],
        "dtype": str(engine.vllm_config.model_config.dtype).removeprefix("torch."),
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "kv_cache_blocks": cache.num_gpu_blocks,
        "block_size": cache.block_size,
        "threads": torch.get_num_threads(),
    }
    return engine, tokenizer, resolved
