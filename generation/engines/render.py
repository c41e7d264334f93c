"""Rendering of a request to the text and the token ids that the model reads. This file does not import vLLM."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Conversation
from gristmill.cluster.models.template import ChatTemplate, UnrenderableError, opened_thought

MARK = "XGRISTMILLX"
"""Represents the next turn while a template is rendered; letters only, so that no template trims or escapes it."""
_ASKED = Message("user", MARK)
TAIL = 8
"""Number of tokens at the end of a prompt that may merge with the beginning of a choice."""


class RefusedError(Exception):
    """An error for a request that cannot be rendered; the message says why."""


@dataclass(slots=True)
class Node:
    """A place where choices branch: the tokens up to it, and the choices after each next token."""

    ids: list[int]
    branches: dict[int, "Node | str"] = field(default_factory=dict)


class Renderer:
    """A tokenizer with its chat template, further arguments of the template, and the limit on a prompt."""

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401 - any of transformers'
        max_model_len: int,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the tokenizer, the model's length in tokens, and arguments of the template.

        Raises:
            ValueError: when the template does not read an argument.
        """
        self._tokenizer, self._max_model_len, self._kwargs = tokenizer, max_model_len, dict(kwargs or {})
        self._chat = ChatTemplate(tokenizer)
        self._require_read(self._kwargs)

    @property
    def folds_system(self) -> bool:
        """Whether a system turn goes into the user turn after it, because the template takes no system turn."""
        turns = [Message("system", MARK), _ASKED]
        return self._chat.fitted(turns) is not turns

    def text(self, request: Conversation) -> str:
        """Return the prompt as text: the conversation, the header of the next turn, and the prefix.

        Raises:
            RefusedError: when the chat template does not accept the conversation.
        """
        messages = request.messages
        how: dict[str, Any] = {"tools": request.tools or None, **self._own(request)}
        if request.role == "user":
            if messages and messages[-1].role == "user":
                raise RefusedError("the last turn is the user's, must be another for the user to go on")
            return self._template([*messages, _ASKED], **how).split(MARK)[0] + request.prefix
        head = self._template(messages, add_generation_prompt=True, **how) if messages else self._header
        opened = opened_thought(head) if request.begun else None
        if opened:
            head = f"{head.rstrip()}\n\n{opened[1]}\n\n"
        return head + request.prefix

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a rendered text.

        Raises:
            RefusedError: when the tokens leave no room for a reply.
        """
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        if len(found) >= self._max_model_len:
            raise RefusedError(f"prompt has {len(found)} tokens, must be below {self._max_model_len}")
        return found

    def _own(self, request: Conversation) -> dict[str, Any]:
        """Return the template's arguments that the request sets itself."""
        own: dict[str, Any] = json.loads(request.chat_template_kwargs) if request.chat_template_kwargs else {}
        try:
            self._require_read(own)
        except ValueError as error:
            raise RefusedError(str(error)) from error
        return own

    def _require_read(self, kwargs: Mapping[str, Any]) -> None:
        if not kwargs:
            return
        template = self.template
        unread = [name for name in kwargs if not re.search(rf"\b{re.escape(name)}\b", template)]
        if unread:
            raise ValueError(f"chat_template_kwargs has {', '.join(unread)}, which the model's template does not read")

    @property
    def template(self) -> str:
        """The chat template as text."""
        found = self._tokenizer.chat_template
        return found if isinstance(found, str) else "\n".join(map(str, (found or {}).values()))

    def _template(self, messages: Sequence[Message], **how: Any) -> str:  # noqa: ANN401 - of the template
        if any(message.reasoning for message in messages) and not self._chat.thinks:
            messages = [
                message._replace(reasoning=None) for message in messages
            ]  # as the template does with earlier thoughts
        try:
            text: str = self._chat.render(messages, tokenize=False, **{**self._kwargs, **how})
        except UnrenderableError as error:
            raise RefusedError(f"the chat template does not take this conversation: {error}") from error
        return text

    @cached_property
    def _header(self) -> str:
        """The header of the assistant's turn, for a prompt without any earlier turn."""
        return self._template([_ASKED], add_generation_prompt=True).removeprefix(self._template([_ASKED]))

    @cached_property
    def user_end(self) -> tuple[list[int], list[str]]:
        """The end of a user's turn, as (token ids, strings): token ids if it is a special token, else strings."""
        after = self._template([_ASKED, Message("assistant", MARK)]).split(MARK)[1]
        first: list[int] = self._tokenizer.encode(after, add_special_tokens=False)[:1]
        if first and first[0] in self._tokenizer.all_special_ids:
            return first, []
        lines = [line for line in after.strip().splitlines() if line.strip()]
        return [], lines[:1]

    def choices(self, ids: Sequence[int], choices: Sequence[str]) -> tuple[list[int], Node | str]:
        """Return the first tokens of the prompt, and the tree of the tokens that follow them for each choice.

        A choice is tokenised together with the end of the prompt. In the texts that the model has learned from, tokens
        may merge across that border. A choice that another choice begins with ends with the end-of-text token.

        Raises:
            RefusedError: when two choices are the same.
        """
        head, tail = list(ids[:-TAIL]), list(ids[-TAIL:])
        seam: str = self._tokenizer.decode(tail, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if self._tokenizer.encode(seam, add_special_tokens=False) != tail:
            head, tail, seam = list(ids), [], ""
        paths = {choice: self._tokenizer.encode(seam + choice, add_special_tokens=False) for choice in choices}
        if len(set(choices)) != len(choices) or len({tuple(path) for path in paths.values()}) != len(choices):
            raise RefusedError(f"choices {list(choices)} must differ from each other")
        return head, self._tree([], {choice: list(path) for choice, path in paths.items()})

    def _tree(self, ids: list[int], paths: dict[str, list[int]]) -> Node | str:
        """Return the tree of the paths after `ids`; steps that all paths have in common are merged."""
        if len(paths) == 1:
            return next(iter(paths))
        groups: dict[int, dict[str, list[int]]] = {}
        for choice, path in paths.items():
            token = path[len(ids)] if len(path) > len(ids) else self._tokenizer.eos_token_id
            groups.setdefault(token, {})[choice] = path
        if len(groups) == 1:
            return self._tree([*ids, next(iter(groups))], paths)
        return Node(ids, {token: self._tree([*ids, token], inner) for token, inner in groups.items()})
