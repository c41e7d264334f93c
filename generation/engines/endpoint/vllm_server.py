"""The routes of vLLM's own server beyond OpenAI's API: tokens, the score of a text, exact probabilities of choices."""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gristmill.cluster.contract.chat import to_openai
from gristmill.cluster.contract.errors import EngineError
from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Choose, Conversation, Reply, Score
from gristmill.generation.engines.endpoint import wire
from gristmill.generation.engines.endpoint.http import Answer, Connection
from gristmill.generation.engines.render import MARK

SPECIAL = re.compile(r"<.+>|\[.+\]|[\x00-\x1f]+")
"""Forms of special tokens in common templates: `<|im_end|>`, `</s>`, `[/INST]`."""
LAST_WORD = re.compile(r"\s?\S{0,16}\s*\Z")
"""The end of a prefix: up to 16 characters of its last word, with a blank before it."""
SEAMS = 1024
"""Largest number of pairs of a prefix's last word and its choices for which tokens are cached."""
Post = Callable[[str, Mapping[str, Any], int], Awaitable[Answer]]
Weigh = Callable[[Sequence[int], list[int]], Awaitable[dict[int, float]]]
"""A function that takes a sequence of tokens and candidates, and returns the probability of each candidate after it."""


@dataclass(frozen=True, slots=True)
class _Seam:
    """How choices continue the last word of a prefix."""

    shared: Sequence[int]
    """The tokens, from the last word on, that all choices have in common."""
    text: str | None
    """The common tokens as text; None if the server's template would change it at the end of a chat."""
    paths: Mapping[str, Sequence[int]]
    """The tokens of each choice after the common tokens."""


class VllmServer:
    """A vLLM server, called through vLLM's own routes."""

    def __init__(self, line: Connection, model: str, post: Post, kwargs: Mapping[str, Any]) -> None:
        """Take the connection, the model's name, the function that asks for completions, and template arguments."""
        self._line, self._model, self._post, self._kwargs = line, model, post, kwargs
        self._end_of_user: tuple[list[int], tuple[str, ...]] | None = None
        self._seams: OrderedDict[tuple[str, ...], asyncio.Task[_Seam]] = OrderedDict()

    def named(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return a payload with the model's name."""
        return {"model": self._model, **payload}

    # -- choices ------------------------------------------------------------------------------------------------

    async def choose(self, request: Choose) -> Reply:
        """Return the likeliest choice with exact probabilities. Each place where choices branch costs a call.

        The first of these calls is a chat. So choices that differ in their first token cost one call, if the tokens of
        the choices and of the prefix's last word are cached. Later calls also need the tokens of the complete prompt.
        """
        before, last = _cut(request.prefix)
        seam = await self._seam(last, request.choices)
        if len({tuple(path) for path in seam.paths.values()}) < len(request.choices):
            return Reply("", "error: the choices must differ from each other", 0, 0)
        spent: list[Reply] = []
        head: list[int] = []

        async def weigh(after: Sequence[int], tokens: list[int]) -> dict[int, float]:
            if not after and seam.text is not None and request.messages:
                begun = wire.begun(replace(request, prefix=before + seam.text), "flags")
                chat = begun or {"messages": [to_openai(message) for message in request.messages]}
                chat |= wire.template_parts(request, self._kwargs)
                return await self._weights("chat/completions", chat, tokens, spent)
            if not head:
                ids = await self.tokenize({"prompt": before, "add_special_tokens": False}) if before else []
                head.extend([*await self.prompt_ids(replace(request, prefix="")), *ids, *seam.shared])
            return await self._weights("completions", {"prompt": [*head, *after]}, tokens, spent)

        chances = await self._parted(seam.paths, 0, weigh)
        refusal = next((reply for reply in spent if reply.finish != "stop"), None)
        if refusal or chances is None:
            return refusal or Reply("", "error: the endpoint gives no probabilities", 0, 0)
        prompt, cached = sum(reply.prompt_tokens for reply in spent), sum(reply.cached_tokens for reply in spent)
        best = max(chances, key=lambda choice: chances[choice])
        return Reply(best, "stop", prompt, len(spent), {c: chances[c] for c in request.choices}, cached)

    async def _parted(self, paths: Mapping[str, Sequence[int]], at: int, weigh: Weigh) -> dict[str, float] | None:
        """Return the probabilities of the paths, which sum up to 1. All paths have the same first `at` tokens."""
        if len(paths) == 1:
            return dict.fromkeys(paths, 1.0)
        groups: dict[int, dict[str, Sequence[int]]] = {}
        for choice, path in paths.items():
            token = path[at] if at < len(path) else await self._end_of_turn()
            groups.setdefault(token, {})[choice] = path
        if len(groups) == 1:
            return await self._parted(paths, at + 1, weigh)
        weights = await weigh(next(iter(paths.values()))[:at], list(groups))
        found: dict[str, float] = {}
        for token, inner in groups.items():
            below = await self._parted(inner, at + 1, weigh) if weights else None
            if below is None:
                return None
            found |= {choice: p * weights[token] for choice, p in below.items()}
        return found

    async def _weights(
        self, path: str, prompt: Mapping[str, Any], tokens: list[int], spent: list[Reply]
    ) -> dict[int, float]:
        """Return the probabilities of the tokens, which sum up to 1; empty if the server returns none."""
        payload: dict[str, Any] = {**prompt, "max_tokens": 1, "temperature": 0.0, "allowed_token_ids": tokens}
        payload |= {"logprobs": True if path == "chat/completions" else 1, "logprob_token_ids": tokens}
        answer = await self._post(path, self.named({**payload, "return_tokens_as_token_ids": True}), 1)
        if answer.refusal:
            spent.append(wire.refusal_reply(answer))
            return {}
        counts = wire.usage(answer.body)
        spent.append(Reply("", "stop", counts[0], counts[1], cached_tokens=counts[2]))
        return wire.token_weights(answer.body, tokens)

    async def _seam(self, last: str, choices: Sequence[str]) -> _Seam:
        """Return how choices continue the last word of a prefix.

        Tokens may merge between them, as in texts that the model has learned from.
        """
        key = (last, *choices)
        if key not in self._seams:
            self._seams[key] = asyncio.create_task(self._find_seam(last, choices))
            if len(self._seams) > SEAMS:
                self._seams.popitem(last=False)
        self._seams.move_to_end(key)
        try:
            return await asyncio.shield(self._seams[key])
        except EngineError:
            self._seams.pop(key, None)
            raise

    async def _find_seam(self, last: str, choices: Sequence[str]) -> _Seam:
        asked = (self.tokenize({"prompt": last + choice, "add_special_tokens": False}) for choice in choices)
        whole = await asyncio.gather(*asked)
        columns = enumerate(zip(*whole, strict=False))
        same = next((place for place, ids in columns if len(set(ids)) > 1), min(map(len, whole)))
        shared, paths = whole[0][:same], {choice: ids[same:] for choice, ids in zip(choices, whole, strict=True)}
        if not shared:
            return _Seam((), "", paths)
        text = await self.detokenize(shared)
        first = f"x{text}" if text[:1].isspace() else text  # templates strip a blank at the beginning of a turn
        seen = await self.prompt_ids(Conversation((Message("user", "x"),), prefix=first))
        return _Seam(shared, text if seen[-same:] == shared else None, paths)

    # -- tokens -------------------------------------------------------------------------------------------------

    async def score(self, request: Score) -> Reply:
        """Return the log-probability of a text as the next turn. The server must write one token, which is ignored."""
        prompt = await self.prompt_ids(request)
        text = await self.tokenize({"prompt": request.text, "add_special_tokens": False})
        payload = {"prompt": [*prompt, *text], "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        answer = await self._post("completions", self.named(payload), len(text))
        if answer.refusal:
            return wire.refusal_reply(answer)
        per_token = (wire.first_choice(answer.body) or {}).get("prompt_logprobs")
        if not isinstance(per_token, list) or len(per_token) != len(prompt) + len(text):
            return Reply("", f"error: this endpoint cannot score a text; {wire.ONLY_VLLM}", 0, 0)
        found = zip(text, per_token[len(prompt) :], strict=True)
        logprob = sum(float(entry[str(token)]["logprob"]) for token, entry in found)
        cached = wire.usage(answer.body)[2]
        return Reply("", "stop", len(prompt), len(text), cached_tokens=cached, logprob=logprob)

    async def prompt_ids(self, request: Conversation) -> list[int]:
        """Return the tokens of the prompt, as the server's own template makes them."""
        if not request.messages and request.role == "assistant":
            return await self._header(request.prefix)
        messages = [to_openai(m) for m in request.messages]
        parts = wire.template_parts(request, self._kwargs)
        if not request.prefix and request.role == "assistant":
            return await self.tokenize({"messages": messages, "add_generation_prompt": True, **parts})
        messages.append({"role": request.role, "content": request.prefix})
        flags = {"add_generation_prompt": False, "continue_final_message": True}
        return await self.tokenize({"messages": messages, **flags, **parts})

    async def _header(self, prefix: str) -> list[int]:
        """Return the tokens of the header of the assistant's turn, and of the prefix after it."""
        before = [{"role": "user", "content": "x"}]
        kwargs = {"chat_template_kwargs": dict(self._kwargs)} if self._kwargs else {}
        with_header = await self.tokenize({"messages": before, "add_generation_prompt": True, **kwargs})
        without = await self.tokenize({"messages": before, "add_generation_prompt": False, **kwargs})
        behind = await self.tokenize({"prompt": prefix, "add_special_tokens": False}) if prefix else []
        return [*with_header[len(without) :], *behind]

    async def user_end(self) -> tuple[list[int], tuple[str, ...]]:
        """Return the end of a user's turn, as (token ids, texts): a token id if it is a special token, else a text."""
        if self._end_of_user is None:
            asked, told = {"role": "user", "content": MARK}, {"role": "assistant", "content": MARK}
            flags = {"add_generation_prompt": False}
            whole = await self.tokenize({"messages": [asked, told], **flags})
            open_ = await self.tokenize({"messages": [asked], "continue_final_message": True, **flags})
            rest = whole[len(open_) :]
            first = (await self.detokenize(rest[:1])).strip()
            lines = (await self.detokenize(rest)).partition(MARK)[0].strip().splitlines()
            self._end_of_user = (rest[:1], ()) if SPECIAL.fullmatch(first) else ([], tuple(lines[:1]))
        return self._end_of_user

    async def tokenize(self, payload: Mapping[str, Any]) -> list[int]:
        """Return the tokens of a text or a chat."""
        answer = await self._line.post("/tokenize", self.named(payload))
        tokens = answer.body.get("tokens")
        if not isinstance(tokens, list):
            raise EngineError(f"endpoint {self._line.base}: /tokenize answers {answer.refusal or answer.body}")
        return tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        answer = await self._line.post("/detokenize", self.named({"tokens": list(tokens)}))
        return str(answer.body.get("prompt", ""))

    async def _end_of_turn(self) -> int:
        """Return the token that ends a turn; needed if one choice is the beginning of another."""
        ids, _ = await self.user_end()
        return ids[0] if ids else -1


def _cut(prefix: str) -> tuple[str, str]:
    """Cut a prefix before its last word, because tokens of that word may merge with the beginning of a choice."""
    found = LAST_WORD.search(prefix)
    place = found.start() if found else len(prefix)
    return prefix[:place], prefix[place:]
