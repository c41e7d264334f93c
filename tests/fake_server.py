"""A fake OpenAI-compatible server: replies that follow from the request alone, and trouble when told so."""

import asyncio
import json
import math
from collections import deque
from collections.abc import Callable
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
        self.in_flight = self.most_in_flight = 0
        self.capacity: int | None = None
        """Chats above this many at once get a 429."""
        self.delay_s = 0.0
        self.fails_at = ""
        """Chats that have these words get a 500, always."""
        self.lists_models = self.reports_usage = True
        self.chances: Callable[[list[str]], list[float]] = lambda choices: [1 / len(choices)] * len(choices)
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
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

    def _locked(self, request: web.Request) -> web.Response | None:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        return None

    async def _models(self, request: web.Request) -> web.Response:
        if not self.lists_models:
            return web.json_response({"detail": "Not Found"}, status=404)
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

    async def _chat(self, request: web.Request) -> web.Response:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.capacity is not None and self.in_flight > self.capacity:
                return web.json_response({"error": {"message": "slow down"}}, status=429)
            payload = await request.json()
            self.asked.append(payload)
            trouble = self.troubles.popleft() if self.troubles else Trouble()
            await asyncio.sleep(trouble.delay_s or self.delay_s)
            if trouble.drop:
                assert request.transport is not None
                request.transport.close()
            if self.fails_at and self.fails_at in json.dumps(payload):
                trouble = Trouble(500)
            if trouble.body is not None or trouble.status != 200:
                return web.Response(status=trouble.status, headers=trouble.headers, text=trouble.body or "busy")
            return self._locked(request) or self._served(payload)
        finally:
            self.in_flight -= 1

    def _served(self, payload: dict[str, Any]) -> web.Response:
        unknown = next((name for name in self.refuses if name in payload), None)
        if unknown:
            error = {"message": f"Unrecognized request argument supplied: {unknown}", "param": None, "code": None}
            return web.json_response({"error": error}, status=400)
        if payload["model"] != self.model:
            return web.json_response({"error": {"message": "The model does not exist"}}, status=404)
        text, tokens = self._choice(payload) or self._text(payload)
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if payload.get("logprobs"):
            choice["logprobs"] = {"content": tokens}
        body: dict[str, Any] = {"choices": [choice]}
        if self.reports_usage:
            body["usage"] = {"prompt_tokens": 40, "completion_tokens": len(tokens)}
            body["usage"]["prompt_tokens_details"] = {"cached_tokens": 30}
        return web.json_response(body)

    def _text(self, payload: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        rng = Random(ids.digest(payload["messages"], payload.get("seed", 0)))
        words = [rng.choice(WORDS) for _ in range(min(payload.get("max_tokens", 8), rng.randint(3, 8)))]
        return " ".join(words), [{"token": f" {word}", "logprob": -0.5, "top_logprobs": []} for word in words]

    def _choice(self, payload: dict[str, Any]) -> tuple[str, list[dict[str, Any]]] | None:
        schema = payload.get("response_format", {}).get("json_schema", {}).get("schema", {})
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
