"""Multi-turn: continue a conversation; the model writes the user's turns too."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import refuse
from gristmill.cluster.text.template import Prompts, by_language, slots, system_turn
from gristmill.cluster.text.words import num_words, tokens
from gristmill.generation.contracts import Ask, Draft, Method, Snapshot
from gristmill.generation.prompting.draws import wander

FAREWELLS = (
    r"\b(?:thanks|thank you|thx|cheers|bye|good-?bye|farewell|see you|good night|you're welcome|that's all)\b",
    r"谢谢|感谢|多谢|再见|拜拜|回头见|没有(?:其他|别的)?问题了|就这些|不客气|晚安|辛苦了",
)
"""Words that end a conversation, in English and Chinese."""
PLEASE = re.compile(
    r"[?？]|\b(?:but|also|could|can|what|how|why|which|who|when|where|tell|please)\b|请(?!慢)|吗|怎|什么", re.IGNORECASE
)
"""Signs that a turn with thanks also asks for something."""
MAX_FAREWELL_WORDS = 25
"""A turn with more words is not just a farewell."""


class MultiTurn(Method):
    """Continue a seed or a kept row with `turns` more user turns, each followed by an answer.

    The model writes the next user's turn by continuing the chat template, as it writes the first one in Magpie. The
    conversation ends early if the simulated user says good-bye, repeats an earlier turn, or writes no complete turn. It
    also ends before an answer that is cut off or empty, and after a call of a tool, because its result is unknown. The
    tag `ended` says why (`good-bye`, `repetition`, `no turn`, `answer`, `call`, else `turns`). The conversation is one
    sample. With fewer than `min_turns` new turns it is dropped. Conversations that this method has made are not
    continued again.

    Source: Xu et al. 2024, Magpie, arXiv:2406.08464, section 2 (multi-turn: the header of the user's turn is appended
    to the conversation; a system prompt keeps the model in the user's role); Ding et al. 2023, UltraChat,
    arXiv:2305.14233, section 3 (a second model plays the user; thanks and politeness are filtered out). Departures: one
    model plays both roles; there is no system prompt by default, because the small default models write better turns
    without one; thanks end the conversation here, while UltraChat filters them out.
    """

    kind: Literal["multi_turn"] = "multi_turn"
    instructs: ClassVar[bool] = False
    takes_tools: ClassVar[bool] = True
    turns: int = Field(default=2, ge=1)
    """Largest number of user turns to add."""
    min_turns: int = Field(default=1, ge=1)
    """Smallest number of user turns to add. A conversation with fewer is dropped."""
    languages: tuple[str, ...] = ()
    """Languages of the parents, as ISO 639-1 codes; by default any language."""
    max_overlap: float = Field(default=0.7, ge=0, le=1)
    """Largest share of words that a user turn may have in common with an earlier user turn. More is a repetition."""
    max_user_tokens: int = Field(default=96, gt=0)
    """Largest number of tokens of a user turn."""
    user_temperature: float = Field(default=0.8, ge=0, le=2)
    """Temperature of the user's turns."""
    max_tokens: int = Field(default=384, gt=0)
    """Largest number of tokens of an answer."""
    temperature: float = Field(default=0.3, ge=0, le=2)
    """Temperature of the answers."""
    stop_loops: bool = True
    """Whether a reply ends when it repeats itself four times in a row."""
    user_prompts: Annotated[Prompts, slots(partial=True)] = by_language({})
    """System prompts for writing the user's turns, by language; by default the conversation's own system turn."""
    answer_prompts: Annotated[Prompts, slots(partial=True)] = by_language({})
    """System prompts for writing the answers, by language; by default the conversation's own system turn."""

    def draw(self, snapshot: Snapshot, turn: int, rng: Random) -> tuple[Sample, ...]:
        """Return one seed or kept row that this method has not made; if none is found, any seed."""
        del turn
        for row in wander(rng, snapshot.seeds, snapshot.made):
            if row.method != self.kind and (not self.languages or language_of(row) in self.languages):
                return (row,)
        return tuple(wander(rng, snapshot.seeds, tries=1))

    async def expand(self, parents: Sequence[Sample], ask: Ask, rng: Random) -> list[Draft]:
        """Return one draft with the continued conversation."""
        del rng
        draft = Draft(parents[0].messages, {"language": language_of(parents[0])}, tools=parents[0].tools)
        if not any(turn.role == "user" for turn in draft.messages):
            return [replace(draft, dropped=f"{self.kind}: no conversation")]
        if not draft.complete:
            draft = await self._answered(draft, ask)
        added, ended = 0, ""
        while draft.dropped is None and not ended and added < self.turns:
            if draft.messages[-1].tool_calls:
                ended = "call"
                break
            asked, ended = await self._asked(draft, ask)
            if ended:
                break
            further = await self._answered(replace(draft, messages=(*draft.messages, asked)), ask)
            if further.dropped and added >= self.min_turns:
                ended = "answer"
            else:
                draft, added = further, added + 1
        short = f"{self.kind}: too few turns" if added < self.min_turns else None
        tags = {**draft.tags, "turns": str(added), "ended": ended or "turns"}
        return [replace(draft, tags=tags, dropped=draft.dropped or short)]

    async def _asked(self, draft: Draft, ask: Ask) -> tuple[Message, str]:
        """Return (the user's next turn, why the conversation ends before it, or the empty string)."""
        messages = _spoken(draft, self.user_prompts)
        reply = await ask(
            messages,
            max_tokens=self.max_user_tokens,
            temperature=self.user_temperature,
            stop_loops=self.stop_loops,
            role="user",
            tools=draft.tools or "",
        )
        text = reply.text.strip()
        earlier = [turn.text for turn in draft.messages if turn.role == "user"]
        rules = {
            "no turn": reply.finish != "stop" or not tokens(text),
            "good-bye": takes_leave(text),
            "repetition": any(overlap(text, before) > self.max_overlap for before in earlier),
        }
        return Message("user", text), refuse(rules) or ""

    async def _answered(self, draft: Draft, ask: Ask) -> Draft:
        reply = await ask(
            _spoken(draft, self.answer_prompts),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop_loops=self.stop_loops,
            tools=draft.tools or "",
        )
        return self.answered(draft, reply)


def _spoken(draft: Draft, prompts: Mapping[str, str]) -> tuple[Message, ...]:
    """Return the conversation with another system turn, if the prompts have one for its language."""
    system = system_turn(prompts, draft.tags["language"])
    return (*system, *(turn for turn in draft.messages if turn.role != "system" or not system))


def takes_leave(text: str) -> bool:
    """Return whether a turn says thanks or good-bye and asks for nothing more."""
    found = any(re.search(pattern, text, re.IGNORECASE) for pattern in FAREWELLS)
    return found and num_words(text) <= MAX_FAREWELL_WORDS and not PLEASE.search(text)


def overlap(one: str, other: str) -> float:
    """Return the share of words that two texts have in common: twice the common words over all words, 0 to 1."""
    first, second = Counter(tokens(one)), Counter(tokens(other))
    return 2 * (first & second).total() / max(1, first.total() + second.total())
