"""Any OpenAI-compatible endpoint as an engine: `EndpointEngine`, which learns what the server can do as it goes.

A vLLM server is recognised by its list of models. With it everything in its API beyond OpenAI's is used: replies that
continue a prefix, the user's turn, regular expressions, exact probabilities of choices, the score of a text. With other
servers these are used as far as their API allows; otherwise the request is refused with a reason.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gristmill.cluster.contract.chat import to_openai
from gristmill.cluster.contract.errors import EngineError, JobError
from gristmill.cluster.models.engine import Engine, Reply, Request
from gristmill.generation.engines.endpoint import wire
from gristmill.generation.engines.endpoint.http import Answer, Connection, Patience
from gristmill.generation.engines.render import MARK

log = logging.getLogger(__name__)

SPECIAL = re.compile(r"<.+>|\[.+\]|[\x00-\x1f]+")
"""Forms of special tokens in common templates: `<|im_end|>`, `</s>`, `[/INST]`."""
TOP_LOGPROBS = 20
"""Alternatives requested with each token of a choice; the most that OpenAI gives."""
ONLY_VLLM = "serve the model with vLLM, or run it in process"


class EndpointEngine:
    """A model at an HTTP server. Any number of coroutines may `ask` at once; a window limits the calls in flight."""

    def __init__(self, engine: Engine, patience: Patience | None = None) -> None:
        """Prepare the client; `ready` connects."""
        self._settings = engine
        key = os.environ.get(engine.api_key_env, "")
        patience = patience or Patience(floor_s=max(60.0, 2 * engine.hang_s), in_all_s=max(900.0, 4 * engine.hang_s))
        self._line = Connection(engine.endpoint, key, engine.api_key_env, engine.max_in_flight, patience)
        self._facts: dict[str, Any] = {}
        self._starting = asyncio.Lock()
        self._vllm = False
        self._refused: set[str] = set()
        self._end_of_user: tuple[list[int], tuple[str, ...]] | None = None
        self._ids: dict[tuple[str, ...], dict[str, list[int]]] = {}
        self._totals = {"requests": 0, "prompt_tokens": 0, "reply_tokens": 0, "cached_tokens": 0}
        self._asking, self._busy_s, self._busy_since = 0, 0.0, 0.0

    async def ready(self) -> dict[str, Any]:
        """Return what the endpoint says about itself, once it has answered.

        Raises:
            JobError: when the address, the key or the model's name is wrong.
            EngineError: when it does not answer.
        """
        async with self._starting:
            if not self._facts:
                begin = time.monotonic()
                self._facts = await self._find()
                self._facts["engine_start_s"] = round(time.monotonic() - begin, 1)
                log.info("endpoint ready: %s", self._facts)
        return self._facts

    async def ask(self, request: Request) -> Reply:
        """Return the reply to one request; a request that the endpoint refuses gets the finish `error: …`.

        Raises:
            JobError: when the key or the model's name is refused.
            EngineError: when the endpoint no longer answers any call.
        """
        await self.ready()
        self._begin()
        try:
            reply = await self._answer(request)
        finally:
            self._end()
        self._totals["prompt_tokens"] += reply.prompt_tokens
        self._totals["reply_tokens"] += 0 if request.scored is not None else reply.reply_tokens
        self._totals["cached_tokens"] += reply.cached_tokens
        return reply

    async def render(self, request: Request) -> str:
        """Return the prompt as the model sees it, where the server tells, else the turns with their roles."""
        await self.ready()
        if self._vllm:
            return await self._detokenize(await self._prompt_ids(request)) + (request.scored or "")
        turns = [f"[{message.role}]\n{message.said}" for message in request.messages]
        return "\n".join([*turns, f"[{request.role}]\n{request.prefix}"])

    def stats(self) -> dict[str, float]:
        """Return counters since the start, the calls in flight and waiting now, and the size of the window.

        Replies are not streamed, so their tokens count when they end.
        """
        busy = self._busy_s + (time.monotonic() - self._busy_since if self._asking else 0.0)
        totals, window = self._totals, self._line.window
        return {
            **totals,
            "steps": self._line.answers,
            "running": window.running,
            "waiting": window.waiting,
            "busy_s": busy,
            "clock_s": time.monotonic(),
            "reply_tokens_per_s": totals["reply_tokens"] / busy if busy else 0.0,
            "prefix_cache_hit_rate": totals["cached_tokens"] / max(1, totals["prompt_tokens"]),
            "retries": self._line.retries,
            "window": int(window.size),
        }

    def close(self) -> None:
        """Close the connections."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # the loop that they belong to has ended, and they with it
            return
        self._closing = loop.create_task(self._line.close())

    # -- the server ---------------------------------------------------------------------------------------------

    async def _find(self) -> dict[str, Any]:
        """Ask for the list of models, which also checks address, key and name."""
        answer = await self._line.get("models")
        served = answer.body.get("data")
        if answer.refusal or not isinstance(served, list):
            await self._probe(answer)
            served = []
        models = {str(m.get("id")): m for m in served if isinstance(m, dict)}
        name = self._settings.model
        if models and name not in models:
            names = ", ".join(sorted(models)[:8])
            raise JobError(f"generate.engine.model is {name!r}, which {self._line.base} does not serve; it has {names}")
        model = models.get(name, {})
        self._vllm = model.get("owned_by") == "vllm" and await self._tokenizes()
        facts: dict[str, Any] = {"model": name, "endpoint": self._line.base, "server": model.get("owned_by", "unknown")}
        if isinstance(model.get("max_model_len"), int):
            facts["max_model_len"] = model["max_model_len"]
        return facts

    async def _tokenizes(self) -> bool:
        """Return whether the server offers its own routes, and not only those of OpenAI's API."""
        answer = await self._line.post("/tokenize", self._named({"prompt": "x"}))
        if answer.refusal:
            log.warning("a vLLM server whose /tokenize cannot be reached: treated as any other server")
        return not answer.refusal

    async def _probe(self, listed: Answer) -> None:
        """Ask for one token, to find out whether an endpoint without a list of models answers chats."""
        ping = {"model": self._settings.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        answer = await self._line.post("chat/completions", ping)
        if answer.status == 0:
            raise EngineError(f"endpoint {self._line.base}: {answer.refusal} ({listed.refusal})")

    # -- one request --------------------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> Reply:
        lacking = self._lacking(request)
        if lacking:
            return Reply("", f"error: {lacking}", 0, 0)
        if request.scored is not None:
            return await self._score(request)
        if request.choices:
            return await (self._choose_by_id(request) if self._vllm else self._choose(request))
        try:
            extra = wire.constraint(request)
        except ValueError:
            return Reply("", "error: the JSON schema is not JSON", 0, 0)
        if request.role == "user":
            ids, stops = await self._user_end()
            request, extra = replace(request, stop=(*request.stop, *stops)), {**extra, "stop_token_ids": ids}
        body, refusal = await self._chat(request, extra)
        return refusal or wire.read(body, request)

    def _lacking(self, request: Request) -> str:
        """Return why this endpoint cannot do what a request asks, or the empty string."""
        if request.role == "user" and request.messages and request.messages[-1].role == "user":
            return "the last turn is the user's, must be another for the user to go on"
        cannot = {
            "score a text": not self._vllm and request.scored is not None,
            "write the user's turn": not self._vllm and request.role == "user",
            "hold a reply to a regular expression": request.regex and "structured_outputs" in self._refused,
            "hold a reply to a JSON schema": request.json_schema and "response_format" in self._refused,
        }
        what = next((what for what, so in cannot.items() if so), "")
        return f"this endpoint cannot {what}; {ONLY_VLLM}" if what else ""

    async def _chat(self, request: Request, extra: Mapping[str, Any]) -> tuple[Mapping[str, Any], Reply | None]:
        """Return (the body of a chat completion, None), or ({}, the refusal), without parameters that are refused."""
        payload = wire.chat(request, self._settings.model, vllm=self._vllm) | dict(extra)
        clipped = False
        while True:
            sent = self._without_refused(payload)
            answer = await self._post("chat/completions", sent, request.max_tokens)
            if not answer.refusal:
                return answer.body, None
            refusal = wire.refusal_reply(answer)
            room = 0 if clipped or "context" not in refusal.finish else await self._room(request)
            if 0 < room < request.max_tokens:
                payload["max_tokens"], clipped = room, True
                continue
            name = wire.learn(answer, sent)
            if not name:
                return {}, refusal
            self._leave_out(name, answer.refusal)
            lacking = self._lacking(request)
            if lacking:
                return {}, Reply("", f"error: {lacking}", 0, 0)

    def _without_refused(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        sent = {name: value for name, value in payload.items() if name not in self._refused}
        if "max_tokens" in self._refused:  # newer OpenAI models know it under this name only
            sent["max_completion_tokens"] = payload["max_tokens"]
        return sent

    def _leave_out(self, name: str, why: str) -> None:
        """Remember a parameter that the endpoint does not know."""
        names = {name, wire.GOES_WITH.get(name, name)}
        if not names <= self._refused:
            log.warning("the endpoint refuses %s, left out from now on: %s", name, why[:200])
        self._refused |= names

    async def _post(self, path: str, payload: Mapping[str, Any], max_tokens: int) -> Answer:
        begin = time.monotonic()
        answer = await self._line.post(path, payload, max_tokens)
        if not answer.refusal:
            self._line.pace.add(time.monotonic() - begin, wire.usage(answer.body)[1])
        return answer

    async def _room(self, request: Request) -> int:
        """Return how many tokens a reply may have after this prompt, where the server tells, else 0."""
        longest = self._facts.get("max_model_len", 0)
        return max(0, longest - len(await self._prompt_ids(request))) if self._vllm and longest else 0

    # -- choices ------------------------------------------------------------------------------------------------

    async def _choose_by_id(self, request: Request) -> Reply:
        """Return the likeliest choice of a vLLM server with exact probabilities: one call where the choices branch."""
        head = await self._prompt_ids(replace(request, prefix=""))
        paths = await self._paths(request.prefix, request.choices)
        if len({tuple(path) for path in paths.values()}) < len(request.choices):
            return Reply("", "error: the choices must differ from each other", 0, 0)
        spent: list[Reply] = []
        chances = await self._parted(head, paths, 0, spent)
        refusal = next((reply for reply in spent if reply.finish != "stop"), None)
        if refusal or chances is None:
            return refusal or Reply("", "error: the endpoint gives no probabilities", 0, 0)
        prompt, cached = sum(reply.prompt_tokens for reply in spent), sum(reply.cached_tokens for reply in spent)
        best = max(chances, key=lambda choice: chances[choice])
        return Reply(best, "stop", prompt, len(spent), {c: chances[c] for c in request.choices}, cached)

    async def _parted(
        self, head: Sequence[int], paths: Mapping[str, Sequence[int]], at: int, spent: list[Reply]
    ) -> dict[str, float] | None:
        """Return the probability of each path given that it is one of them; all have the same first `at` tokens."""
        if len(paths) == 1:
            return dict.fromkeys(paths, 1.0)
        groups: dict[int, dict[str, Sequence[int]]] = {}
        for choice, path in paths.items():
            token = path[at] if at < len(path) else await self._end_of_turn()
            groups.setdefault(token, {})[choice] = path
        if len(groups) == 1:
            return await self._parted(head, paths, at + 1, spent)
        shared = next(iter(paths.values()))[:at]
        weights = await self._weights([*head, *shared], list(groups), spent)
        found: dict[str, float] = {}
        for token, inner in groups.items():
            below = await self._parted(head, inner, at + 1, spent) if weights else None
            if below is None:
                return None
            found |= {choice: p * weights[token] for choice, p in below.items()}
        return found

    async def _weights(self, prompt: list[int], tokens: list[int], spent: list[Reply]) -> dict[int, float]:
        """Return the probability of each token given that it is one of them; empty when the server does not tell."""
        payload: dict[str, Any] = {"prompt": prompt, "max_tokens": 1, "temperature": 0.0, "allowed_token_ids": tokens}
        payload |= {"logprobs": 1, "logprob_token_ids": tokens, "return_tokens_as_token_ids": True}
        answer = await self._post("completions", self._named(payload), 1)
        if answer.refusal:
            spent.append(wire.refusal_reply(answer))
            return {}
        counts = wire.usage(answer.body)
        spent.append(Reply("", "stop", counts[0], counts[1], cached_tokens=counts[2]))
        return wire.token_weights(answer.body, tokens)

    async def _paths(self, prefix: str, choices: Sequence[str]) -> dict[str, list[int]]:
        """Return the tokens of each choice with the prefix before it, merged as in texts that the model has seen."""
        key = (prefix, *choices)
        if key not in self._ids:
            asked = (self._tokenize({"prompt": prefix + choice, "add_special_tokens": False}) for choice in choices)
            self._ids[key] = dict(zip(choices, await asyncio.gather(*asked), strict=True))
        return self._ids[key]

    async def _end_of_turn(self) -> int:
        """Return the token that ends a turn; needed for a choice that is the beginning of another one."""
        ids, _ = await self._user_end()
        return ids[0] if ids else -1

    async def _choose(self, request: Request) -> Reply:
        """Return the choice of any server: JSON with an enumeration where the server supports it, else free text."""
        extra: dict[str, Any] = {"temperature": 0.0, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        extra["response_format"] = wire.choice_schema(request.choices)
        extra["max_tokens"] = max(request.max_tokens, 16 + 2 * max(map(len, request.choices)))
        body, refusal = await self._chat(request, extra)
        if refusal:
            return refusal
        reply = wire.read(body, request)
        chosen = wire.said_choice(reply.text, request.choices)
        if chosen is None:
            return replace(reply, text="", finish="error: the reply is none of the choices")
        chances = wire.text_chances(reply.text, chosen, request.choices, wire.steps(body))
        return replace(reply, text=chosen, finish="stop", choices=chances)

    # -- what only vLLM servers offer ---------------------------------------------------------------------------

    async def _score(self, request: Request) -> Reply:
        """Return the log-probability of a text as the next turn; the one token that the server writes is unused."""
        prompt = await self._prompt_ids(request)
        text = await self._tokenize({"prompt": request.scored or "", "add_special_tokens": False})
        payload = {"prompt": [*prompt, *text], "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        answer = await self._post("completions", self._named(payload), len(text))
        if answer.refusal:
            return wire.refusal_reply(answer)
        per_token = (wire.first_choice(answer.body) or {}).get("prompt_logprobs")
        if not isinstance(per_token, list) or len(per_token) != len(prompt) + len(text):
            return Reply("", f"error: this endpoint cannot score a text; {ONLY_VLLM}", 0, 0)
        found = zip(text, per_token[len(prompt) :], strict=True)
        logprob = sum(float(entry[str(token)]["logprob"]) for token, entry in found)
        cached = wire.usage(answer.body)[2]
        return Reply("", "stop", len(prompt), len(text), cached_tokens=cached, logprob=logprob)

    async def _prompt_ids(self, request: Request) -> list[int]:
        """Return the tokens of the prompt, as the server's own template makes them."""
        if not request.messages and request.role == "assistant":
            return await self._header(request.prefix)
        messages = [to_openai(m) for m in request.messages]
        if not request.prefix and request.role == "assistant":
            return await self._tokenize({"messages": messages, "add_generation_prompt": True})
        messages.append({"role": request.role, "content": request.prefix})
        flags = {"add_generation_prompt": False, "continue_final_message": True}
        return await self._tokenize({"messages": messages, **flags})

    async def _header(self, prefix: str) -> list[int]:
        """Return the tokens that begin the assistant's turn: those by which they lengthen an empty prompt."""
        before = [{"role": "user", "content": "x"}]
        with_header = await self._tokenize({"messages": before, "add_generation_prompt": True})
        without = await self._tokenize({"messages": before, "add_generation_prompt": False})
        behind = await self._tokenize({"prompt": prefix, "add_special_tokens": False}) if prefix else []
        return [*with_header[len(without) :], *behind]

    async def _user_end(self) -> tuple[list[int], tuple[str, ...]]:
        """Return how the server's template ends a user's turn: as a token id where it is one token, else as text."""
        if self._end_of_user is None:
            asked, told = {"role": "user", "content": MARK}, {"role": "assistant", "content": MARK}
            flags = {"add_generation_prompt": False}
            whole = await self._tokenize({"messages": [asked, told], **flags})
            open_ = await self._tokenize({"messages": [asked], "continue_final_message": True, **flags})
            rest = whole[len(open_) :]
            first = (await self._detokenize(rest[:1])).strip()
            lines = (await self._detokenize(rest)).partition(MARK)[0].strip().splitlines()
            self._end_of_user = (rest[:1], ()) if SPECIAL.fullmatch(first) else ([], tuple(lines[:1]))
        return self._end_of_user

    async def _tokenize(self, payload: Mapping[str, Any]) -> list[int]:
        answer = await self._line.post("/tokenize", self._named(payload))
        tokens = answer.body.get("tokens")
        if not isinstance(tokens, list):
            raise EngineError(f"endpoint {self._line.base}: /tokenize answers {answer.refusal or answer.body}")
        return tokens

    async def _detokenize(self, tokens: Sequence[int]) -> str:
        answer = await self._line.post("/detokenize", self._named({"tokens": list(tokens)}))
        return str(answer.body.get("prompt", ""))

    def _named(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self._settings.model, **payload}

    # -- figures ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._totals["requests"] += 1
        self._asking += 1
        if self._asking == 1:
            self._busy_since = time.monotonic()

    def _end(self) -> None:
        self._asking -= 1
        if not self._asking:
            self._busy_s += time.monotonic() - self._busy_since
