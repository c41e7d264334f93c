"""Any OpenAI-compatible endpoint as an engine: `EndpointEngine`, which finds out what the server can do.

A vLLM server is recognised by its list of models. Everything that its API has beyond OpenAI's is used: replies that
continue a prefix, the user's turn, regular expressions, exact probabilities of choices, the score of a text. Any other
server is probed at the start (`abilities`), and gets requests in a form that it can serve. A request without such a
form is refused with a reason.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gristmill.cluster.contract.errors import EngineError, JobError
from gristmill.cluster.models.engine import Abilities, Choose, Engine, Reply, Request, Score, Write
from gristmill.generation.engines.endpoint import wire
from gristmill.generation.engines.endpoint.abilities import (
    cut,
    fitting,
    laid_out,
    probe,
    rest,
    strip_choices,
    written_choice,
)
from gristmill.generation.engines.endpoint.http import STREAMED, Answer, Connection, Patience
from gristmill.generation.engines.endpoint.vllm_server import VllmServer

log = logging.getLogger(__name__)

ALL = Abilities(continues="flags", json_schema="json_schema", logprobs=True, seeds=True, streams=True)
"""What vLLM's server can do."""
LONG = 0.25
"""An answer counts as long if it may take more than this share of `hang_s`."""


async def find_abilities(engine: Engine) -> Abilities:
    """Return what the server of an endpoint can do.

    Raises:
        JobError: when the address, the key or the model's name is wrong.
        EngineError: when the server does not answer.
    """
    opened = EndpointEngine(engine)
    try:
        await opened.ready()
        return opened.abilities
    finally:
        await opened.closed()


class EndpointEngine:
    """A model at an HTTP server. Any number of coroutines may `ask` at once; a window limits the calls in flight."""

    def __init__(self, engine: Engine, patience: Patience | None = None) -> None:
        """Prepare the client; `ready` connects, and finds the server's abilities if the settings do not name them."""
        self._settings = engine
        key = os.environ.get(engine.api_key_env, "")
        patience = patience or Patience(hang_s=engine.hang_s, in_all_s=max(900.0, 4 * engine.hang_s))
        self._line = Connection(engine.endpoint, key, engine.api_key_env, engine.max_in_flight, patience)
        self._facts: dict[str, Any] = {}
        self._starting = asyncio.Lock()
        self._vllm: VllmServer | None = None
        self._can = engine.abilities
        self._refused: set[str] = set()
        self._totals = {"requests": 0, "prompt_tokens": 0, "reply_tokens": 0, "cached_tokens": 0}
        self._asking, self._busy_s, self._busy_since, self._tokens_seen = 0, 0.0, 0.0, 0

    async def ready(self) -> dict[str, Any]:
        """Return facts about the endpoint, after it has answered.

        Raises:
            JobError: when the address, the key or the model's name is wrong.
            EngineError: when the endpoint does not answer.
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
        self._totals["reply_tokens"] += 0 if isinstance(request, Score) else reply.reply_tokens
        self._totals["cached_tokens"] += reply.cached_tokens
        return reply

    async def render(self, request: Request) -> str:
        """Return the prompt as the model sees it if the server shows it, else the turns with their roles."""
        await self.ready()
        if self._vllm:
            scored = request.text if isinstance(request, Score) else ""
            return await self._vllm.detokenize(await self._vllm.prompt_ids(request)) + scored
        if isinstance(request, Choose):
            request = written_choice(request, self.abilities)
        elif isinstance(request, Write):
            request = laid_out(request, self.abilities)
        turns = [f"[{message.role}]\n{message.said}" for message in request.messages]
        return "\n".join([*turns, f"[{request.role}]\n{request.prefix}"])

    def stats(self) -> dict[str, float]:
        """Return counters since the start, the calls in flight and waiting now, and the size of the window.

        Tokens of a streamed reply count as they come, about one for each part. Tokens of other replies count at the
        end.
        """
        busy = self._busy_s + (time.monotonic() - self._busy_since if self._asking else 0.0)
        totals, line, window = dict(self._totals), self._line, self._line.window
        under_way = totals["reply_tokens"] + line.progress.parts_under_way
        totals["reply_tokens"] = self._tokens_seen = max(self._tokens_seen, under_way)
        return {
            **totals,
            "steps": line.answers + line.progress.parts,
            "running": window.running,
            "waiting": window.waiting,
            "busy_s": busy,
            "clock_s": time.monotonic(),
            "reply_tokens_per_s": totals["reply_tokens"] / busy if busy else 0.0,
            "prefix_cache_hit_rate": totals["cached_tokens"] / max(1, totals["prompt_tokens"]),
            "retries": line.retries,
            "window": int(window.size),
        }

    @property
    def abilities(self) -> Abilities:
        """What the server can do. Before the engine is ready, it is what the settings say."""
        return self._can or Abilities()

    async def closed(self) -> None:
        """Close the connections."""
        await self._line.close()

    def close(self) -> None:
        """Begin to close the connections."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # their event loop has ended, and the connections with it
            return
        self._closing = loop.create_task(self.closed())

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
        if model.get("owned_by") == "vllm" and await self._tokenizes():
            self._vllm, self._can = self._vllm_server(name), ALL
        facts: dict[str, Any] = {"model": name, "endpoint": self._line.base, "server": model.get("owned_by", "unknown")}
        if isinstance(model.get("max_model_len"), int):
            facts["max_model_len"] = model["max_model_len"]
        if self._can is None:
            self._can = await probe(self._chat)
        return facts if self._vllm else {**facts, **self._can.facts()}

    def _vllm_server(self, name: str) -> VllmServer:
        return VllmServer(self._line, name, self._post, self._settings.chat_template_kwargs)

    async def _tokenizes(self) -> bool:
        """Return whether a vLLM server offers vLLM's own routes, and not only the routes of OpenAI's API."""
        answer = await self._line.post("/tokenize", {"model": self._settings.model, "prompt": "x"})
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
        match request:
            case Score():
                assert self._vllm is not None  # else `_lacking` has refused it
                return await self._vllm.score(request)
            case Choose():
                return await (self._vllm.choose(request) if self._vllm else self._choose(request))
            case Write():
                return await self._write(request)

    async def _write(self, request: Write) -> Reply:
        try:
            extra = wire.constraint(request, self.abilities.json_schema)
        except ValueError:
            return Reply("", "error: the JSON schema is not JSON", 0, 0)
        if self._vllm and request.role == "user":
            ids, stops = await self._vllm.user_end()
            request, extra = replace(request, stop=(*request.stop, *stops)), {**extra, "stop_token_ids": ids}
        asked = laid_out(request, self.abilities)
        if asked is not request:
            begun = request.prefix and not asked.prefix  # the reply may repeat it, with a stop string in it
            asked = replace(asked, stop=()) if begun else asked
        body, refusal = await self._chat(asked, extra)
        if refusal:
            return refusal
        reply = wire.read(body, asked)
        reply = cut(reply, request) if request.prefix and not asked.prefix else reply
        return fitting(reply, request)

    def _lacking(self, request: Request) -> str:
        """Return why this endpoint cannot do what a request asks, or the empty string."""
        if request.role == "user" and request.messages and request.messages[-1].role == "user":
            return "the last turn is the user's, must be another for the user to go on"
        cannot = {
            "score a text": not self._vllm and isinstance(request, Score),
            "write the user's turn": not self._vllm and request.role == "user",
            "hold a reply to a regular expression": isinstance(request, Write)
            and request.regex
            and "structured_outputs" in self._refused,
        }
        what = next((what for what, so in cannot.items() if so), "")
        return f"this endpoint cannot {what}; {wire.ONLY_VLLM}" if what else ""

    async def _chat(self, request: Write, extra: Mapping[str, Any]) -> tuple[Mapping[str, Any], Reply | None]:
        """Return (the body of a chat completion, None), or ({}, the refusal); leave out parameters that are refused."""
        form = self.abilities.continues or "plain"
        kwargs, vllm = self._settings.chat_template_kwargs, self._vllm is not None
        payload = wire.chat(request, self._settings.model, form, kwargs, vllm=vllm) | dict(extra)
        clipped = False
        while True:
            sent = self._without_refused({**payload, **self._streamed(request.max_tokens)})
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

    def _streamed(self, max_tokens: int) -> Mapping[str, Any]:
        """Return the parameters that stream an answer, if the answer may be `LONG`.

        A shorter answer is not streamed. It costs 2.5 microseconds a token in this process; a streamed answer costs 25,
        and more at the server.
        """
        line = self._line
        return (
            STREAMED
            if line.streams and self.abilities.streams and line.pace.longest(max_tokens) > LONG * line.patience.hang_s
            else {}
        )

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

    async def _room(self, request: Write) -> int:
        """Return how many tokens a reply may have after this prompt, or 0 if the server does not say its limit."""
        longest = self._facts.get("max_model_len", 0)
        return max(0, longest - len(await self._vllm.prompt_ids(request))) if self._vllm and longest else 0

    async def _choose(self, request: Choose) -> Reply:
        """Return the choice that a server other than vLLM's writes: as JSON, as text after the prefix, or as a word."""
        can = self.abilities
        asked = written_choice(request, can)
        named = strip_choices(request.choices)
        extra: dict[str, Any] = {}
        if can.logprobs:
            extra |= {"logprobs": True, "top_logprobs": wire.TOP_LOGPROBS}
        if can.json_schema:
            extra["response_format"] = wire.choice_schema(list(named), can.json_schema)
        body, refusal = await self._chat(asked, extra)
        if refusal:
            return refusal
        reply = wire.read(body, asked)
        text = rest(reply.text, request.prefix)
        chosen = wire.said_choice(text, list(named))
        if chosen is None:
            return replace(reply, text="", finish="error: the reply is none of the choices")
        steps = () if reply.reasoning else wire.drop_lead(len(reply.text) - len(text), wire.steps(body))
        chances = wire.text_chances(text, chosen, list(named), steps)
        return replace(reply, text=named[chosen], finish="stop", choices={named[c]: p for c, p in chances.items()})

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
