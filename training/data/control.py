"""Control tokens in people's texts, which stay text: `<|im_end|>` in a question does not end a turn.

A tokenizer reads the characters of a control token as that token wherever they are. So before the template renders a
conversation, each control token in its texts is replaced by a letter from a private area of Unicode. In the rendered
text, these letters and the template's control tokens are exchanged. A second tokenizer, the twin, reads the result. For
the twin, such a letter is a control token, and the characters of a control token are ordinary text.
"""

import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from gristmill.cluster.contract.sample import ToolCall
from gristmill.training.data.answers import Talk

_FIRST = 0x100000
"""First letter of the private area in the last plane of Unicode, which texts do not use."""


class ControlTokens:
    """The control tokens of a tokenizer."""

    def __init__(self, tok: Any) -> None:  # noqa: ANN401 - transformers' tokenizers share no useful type
        """Read the control tokens of a fast tokenizer."""
        self._tok = tok
        added = {token.content: place for place, token in tok.added_tokens_decoder.items() if token.special}
        self.ids = {**dict(zip(tok.all_special_tokens, tok.all_special_ids, strict=True)), **added}
        """Ids of the control tokens, by their characters."""
        self.names = names = sorted(self.ids, key=lambda name: (-len(name), name))
        self._letters = {name: chr(_FIRST + n) for n, name in enumerate(names)}
        self._names = {letter: name for name, letter in self._letters.items()}
        self._pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._either = re.compile("|".join([*map(re.escape, names), *self._names]) or r"(?!)")
        self._beginnings = sorted({name[:2] for name in names})

    def within(self, sample: Talk) -> bool:
        """Say whether a text of a conversation has the characters of a control token."""
        return any(
            any(beginning in text for beginning in self._beginnings) and self._pattern.search(text) is not None
            for text in _texts(sample)
        )

    def hidden(self, sample: Talk) -> Talk:
        """Return the conversation with each control token in its texts replaced by a letter."""

        def hide(text: str | None) -> str | None:
            return text and self._pattern.sub(lambda found: self._letters[found[0]], text)

        def calls(found: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
            return tuple(c._replace(name=hide(c.name) or "", arguments=hide(c.arguments) or "") for c in found)

        turns = [
            turn._replace(
                content=hide(turn.content),
                reasoning=hide(turn.reasoning),
                name=hide(turn.name),
                tool_calls=calls(turn.tool_calls),
            )
            for turn in sample.messages
        ]
        return Talk(turns, hide(sample.tools))

    def shown(self, text: str) -> str:
        """Return a rendered text for people, with the characters of control tokens instead of the letters."""
        return self._either.sub(lambda found: self._names.get(found[0], found[0]), text)

    def swapped(self, text: str) -> str:
        """Return a rendered text for the twin, with letters and the characters of control tokens exchanged."""
        return self._either.sub(lambda found: self._names.get(found[0]) or self._letters[found[0]], text)

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]] | None:
        """Return token ids and character ranges of a `swapped` text.

        Returns None if the tokenizer cannot read the characters of a control token as text.
        """
        found = self.read(text)
        return found and (found[0], list(found[1].offsets))

    def read(self, text: str) -> tuple[list[int], Any] | None:
        """Return what `encode` does, but the whole `Encoding` of the package tokenizers instead of the ranges."""
        twin, real, own = self._twin
        read = twin.encode(text, add_special_tokens=False)
        if not own.isdisjoint(read.ids):
            return None
        return [real.get(token, token) for token in read.ids], read

    @cached_property
    def _twin(self) -> tuple[Any, dict[int, int], set[int]]:
        """The twin, a tokenizer that has letters as its control tokens; and two groups of ids.

        The first group has the original ids of the twin's added tokens. The second has the ids of control tokens that
        are also in the ordinary vocabulary. The twin may still read characters as tokens of the second group.
        """
        from tokenizers import Tokenizer

        spec = json.loads(self._tok.backend_tokenizer.to_str())
        spec["truncation"] = spec["padding"] = None
        known = {}
        for added in spec["added_tokens"]:
            content = added["content"]
            added["content"] = self._letters.get(content, content)
            known[added["content"]] = added["id"]
        twin: Any = Tokenizer.from_str(json.dumps(spec))
        own = {found for name in self.names if (found := twin.token_to_id(name)) is not None}
        return twin, {int(twin.token_to_id(content)): place for content, place in known.items()}, own


def _texts(sample: Talk) -> Iterator[str]:
    for turn in sample.messages:
        yield from filter(None, (turn.content, turn.reasoning, turn.name))
        for call in turn.tool_calls:
            yield from (call.name, call.arguments)
    if sample.tools:
        yield sample.tools
