"""A fake OpenAI-compatible server: replies that follow from the request alone, and trouble when told so."""

import asyncio
import json
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from gristmill.cluster.contract import ids

WORDS = ("river", "lamp", "winter", "baker", "stone", "window", "garden", "orange", "travel", "music", "letter", "sea")


@dataclass(frozen=True)
class Trouble:
    """One answer that is not the usual one."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    """Sent as it is; the usual reply by default."""
    delay_s: float = 0.0
    drop: bool = False
    """Close the connection without an answer."""


HEADS, END = {"system": "\x01", "user": "\x02", "assistant": "\x03"}, "\x04"


def rendered(payload: dict[str, Any]) -> str:
    """Return a conversation in the chat template of the fake server."""
    text = "".join(HEADS[m["role"]] + m["content"] + END for m in payload["messages"])
    if payload.get("continue_final_message"):
        return text.removesuffix(END)
    return text + (HEADS["assistant"] if payload.get("add_generation_prompt", True) else "")


def likelihood(token: int) -> float:
    """Return the probability of a token, wherever it stands."""
    return (1 + token % 5) / 20


class FakeServer:
    """`async with FakeServer() as server:` serves at `server.url` until the block ends."""

    def __init__(
        self, *troubles: Trouble, model: str = "fake", key: str = "", refuses: tuple[str, ...] = (), vllm: bool = False
    ) -> None:
        """Make the troubles with the first chats, in order; refuse the named parameters with a 400 that names them.

        With `vllm` it has the routes of vLLM's server too; its tokens are the letters of the text.
        """
        self.model, self.key, self.refuses, self.vllm = model, key, refuses, vllm
        self.troubles = deque(troubles)
        self.asked: list[dict[str, Any]] = []
        self.calls = 0
        self.in_flight = self.most_in_flight = 0
        self.capacity: int | None = None
        """Chats above this many at once get a 429."""
        self.delay_s = 0.0
        self.slow_from = 0
        """Tokens that a chat may have from which on `delay_s` and `piece_s` are for it."""
        self.fails_at = ""
        """Chats that have these words get a 500, always."""
        self.lists_models = self.reports_usage = True
        self.continues: str | None = "plain"
        """How it is asked to go on from the beginning of a turn (`plain`, `flags`, `prefix`); None: it never does."""
        self.holds_schema = self.tells_logprobs = self.repeats = self.streams = True
        """Inabilities of a server are silent: it ignores what it is asked."""
        self.schema_form = "json_schema"
        self.piece_s = 0.0
        """Seconds before each piece of a stream."""
        self.stops_after: int | None = None
        """A stream says nothing any more after so many pieces."""
        self.interrupts: bool | str = False
        """Another call ends a stream, without a word; `rudely` with the connection, as llama-cpp-python's does."""
        self.serial = False
        """It does one thing at a time; a question for its models waits too."""
        self.says: Callable[[dict[str, Any]], str | None] = lambda payload: None
        """What it writes, instead of words, where this is not None."""
        self.chances: Callable[[list[str]], list[float]] = lambda choices: [1 / len(choices)] * len(choices)
        self.url = ""
        self._turn = asyncio.Lock()
        self._chats = 0

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._count])
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        if self.vllm:
            app.router.add_post("/tokenize", self._tokenize)
            app.router.add_post("/detokenize", self._detokenize)
            app.router.add_post("/v1/completions", self._complete)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _count(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.calls += 1
        return await handler(request)

    def _locked(self, request: web.Request) -> web.Response | None:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        return None

    async def _models(self, request: web.Request) -> web.Response:
        if not self.lists_models:
            return web.json_response({"detail": "Not Found"}, status=404)
        if self.serial:
            async with self._turn:
                pass
        card = {"id": self.model, "owned_by": "vllm" if self.vllm else "fake", "max_model_len": 200}
        return self._locked(request) or web.json_response({"data": [card]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        payload = await request.json()
        text = payload["prompt"] if "prompt" in payload else rendered(payload)
        return web.json_response({"tokens": [ord(letter) for letter in text]})

    async def _detokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"prompt": "".join(map(chr, (await request.json())["tokens"]))})

    async def _complete(self, request: web.Request) -> web.Response:
        payload = await request.json()
        self.asked.append(payload)
        logprobs = {
            token: math.log(likelihood(token)) for token in (*payload["prompt"], *payload.get("logprob_token_ids", ()))
        }
        choice: dict[str, Any] = {"text": "?", "finish_reason": "length"}
        if "prompt_logprobs" in payload:
            told = [{str(token): {"logprob": logprobs[token]}} for token in payload["prompt"]]
            choice["prompt_logprobs"] = [None, *told[1:]]
        if "logprob_token_ids" in payload:
            top = {f"token_id:{token}": logprobs[token] for token in payload["logprob_token_ids"]}
            choice["logprobs"] = {"top_logprobs": [top]}
        usage = {"prompt_tokens": len(payload["prompt"]), "completion_tokens": 1}
        return web.json_response({"choices": [choice], "usage": usage})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.capacity is not None and self.in_flight > self.capacity:
                return web.json_response({"error": {"message": "slow down"}}, status=429)
            payload = await request.json()
            self.asked.append(payload)
            self._chats += 1
            number = self._chats
            trouble = self.troubles.popleft() if self.troubles else Trouble()
            async with self._turn if self.serial else nullcontext():
                await asyncio.sleep(trouble.delay_s or (self.delay_s if self._slow(payload) else 0))
            if trouble.drop:
                assert request.transport is not None
                request.transport.close()
            if self.fails_at and self.fails_at in json.dumps(payload):
                trouble = Trouble(500)
            if trouble.body is not None or trouble.status != 200:
                return web.Response(status=trouble.status, headers=trouble.headers, text=trouble.body or "busy")
            answer = self._locked(request) or self._served(payload)
            if payload.get("stream") and self.streams and answer.status == 200:
                body = json.loads(answer.text or "")
                if not payload.get("stream_options", {}).get("include_usage"):
                    body.pop("usage", None)
                return await self._stream(request, body, number, self.piece_s if self._slow(payload) else 0)
            return answer
        finally:
            self.in_flight -= 1

    def _slow(self, payload: dict[str, Any]) -> bool:
        return int(payload.get("max_tokens", self.slow_from)) >= self.slow_from

    async def _stream(
        self, request: web.Request, body: dict[str, Any], number: int, piece_s: float
    ) -> web.StreamResponse:
        """Send an answer in pieces, a word each, as servers do."""
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await reply.prepare(request)
        choice = body["choices"][0]
        message = dict(choice["message"])
        words = re.findall(r"\s*\S+|\s+", message.pop("content") or "")
        pieces: list[dict[str, Any]] = [{"delta": {"role": "assistant", "content": ""}}]
        pieces += [{"delta": {"content": word}} for word in words]
        pieces[-1]["logprobs"] = choice.get("logprobs")
        pieces += [{"delta": message}, {"delta": {}, "finish_reason": choice["finish_reason"]}]
        for place, piece in enumerate(pieces):
            await asyncio.sleep(piece_s)
            if self.interrupts and self._chats > number:
                if self.interrupts == "rudely":
                    assert request.transport is not None
                    request.transport.close()
                    return reply
                break
            if place == self.stops_after:
                await asyncio.sleep(600)
            event = {"choices": [{"index": 0, "finish_reason": None, **piece}]}
            await reply.write(f": still here\n\ndata: {json.dumps(event)}\r\n\r\n".encode())
        if "usage" in body:
            await reply.write(f"data: {json.dumps({'choices': [], 'usage': body['usage']})}\n\n".encode())
        await reply.write(b"data: [DONE]\n\n")
        return reply

    def _served(self, payload: dict[str, Any]) -> web.Response:
        unknown = next((name for name in self.refuses if name in payload), None)
        if unknown:
            error = {"message": f"Unrecognized request argument supplied: {unknown}", "param": None, "code": None}
            return web.json_response({"error": error}, status=400)
        if payload["model"] != self.model:
            return web.json_response({"error": {"message": "The model does not exist"}}, status=404)
        choice_made = self._choice(payload) if self.holds_schema else None
        text, tokens = choice_made or self._text(payload)
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if "allowed_token_ids" in payload:
            choice["logprobs"] = self._token_logprobs(payload)
        elif payload.get("logprobs") and self.tells_logprobs:
            choice["logprobs"] = {"content": tokens}
        body: dict[str, Any] = {"choices": [choice]}
        if self.reports_usage:
            body["usage"] = {"prompt_tokens": 40, "completion_tokens": len(tokens)}
            body["usage"]["prompt_tokens_details"] = {"cached_tokens": 30}
        return web.json_response(body)

    def _text(self, payload: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        said = self.says(payload)
        if said is None and self._goes_on(payload) and payload["messages"][-1]["content"].endswith("Wed"):
            said = "nesday, Thursday"
        if said is not None:
            return said, [{"token": letter, "logprob": -0.5, "top_logprobs": []} for letter in said]
        seed = payload.get("seed", 0) if self.repeats else len(self.asked)
        rng = Random(ids.digest(payload["messages"], seed))
        words = [rng.choice(WORDS) for _ in range(min(payload.get("max_tokens", 8), rng.randint(3, 8)))]
        return " ".join(words), [
            {"token": f" {word}", "logprob": -0.5, "top_logprobs": [{"token": t, "logprob": -0.5} for t in (word, "x")]}
            for word in words
        ]

    def _goes_on(self, payload: dict[str, Any]) -> bool:
        last = payload["messages"][-1]
        asked = {"flags": payload.get("continue_final_message"), "prefix": last.get("prefix"), "plain": True}
        return last["role"] == "assistant" and bool(asked.get(self.continues or ""))

    def _token_logprobs(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return what vLLM tells of some tokens in a chat."""
        top = [{"token": f"token_id:{t}", "logprob": math.log(likelihood(t))} for t in payload["logprob_token_ids"]]
        return {"content": [{**top[0], "top_logprobs": top}]}

    def _choice(self, payload: dict[str, Any]) -> tuple[str, list[dict[str, Any]]] | None:
        form = payload.get("response_format", {})
        if form.get("type") != self.schema_form:
            return None
        schema = form.get("schema") or form.get("json_schema", {}).get("schema", {})
        choices = schema.get("properties", {}).get("choice", {}).get("enum")
        if not choices:
            return None
        chances = dict(zip(choices, self.chances(choices), strict=True))
        said = max(choices, key=lambda choice: chances[choice])
        options = [{"token": choice, "logprob": math.log(p)} for choice, p in chances.items()]
        sure: list[dict[str, Any]] = [
            {"token": t, "logprob": 0.0, "top_logprobs": []} for t in ('{"', "choice", '":"', '"}')
        ]
        word = {"token": said, "logprob": math.log(chances[said]), "top_logprobs": options}
        return json.dumps({"choice": said}, separators=(",", ":")), [*sure[:3], word, sure[3]]
