"""Respond: answer existing prompts; the best of several answers or a majority may decide."""

from asyncio import gather
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.finals import final_answer
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.template import Prompts, by_language, slots, system_turn, template_for
from gristmill.generation.contracts import Ask, Draft, EachInput, Input

STEPS = {
    "en": "Think step by step. End with one last line that has #### and then the final answer alone.",
    "zh": "请一步一步地思考，最后单独用一行写出“#### ”和最终答案。",
}
"""The additional request for a marked final answer, by language. It is not part of the sample."""


class Respond(EachInput):
    """Answer each prompt with `n` candidates. Each candidate is a row.

    The prompt is all turns of an input up to its last user turn, or the complete input if it ends with the result of a
    tool. An answer that the input already has is not used. Requests have the input's tools, and an answer may call
    them. `best_of` names a score that a filter gives, such as `judge` or `reward`: the candidate with the largest score
    is kept, and the others are dropped. With `votes` above 1, that number of answers is sampled for each candidate. The
    candidate is the first answer with the most frequent final answer. The score `self_consistency` is the share of
    votes for it. Answers that are cut off or have no final answer do not vote. With `known_answer` a candidate must
    have the same final answer as the input's answer, as in rejection sampling.

    The instructions are the inputs' own, so a novelty filter does not judge rows of this method.

    Source: Wang et al. 2022, Self-Consistency, arXiv:2203.11171, section 2 (unweighted majority over sampled reasoning;
    its tables sample 40, at temperature 0.7 and more); Nakano et al. 2021, WebGPT, arXiv:2112.09332, section 3
    (best-of-n by a reward); Yuan et al. 2023, arXiv:2308.01825, section 3 (rejection sampling). Departures: the system
    turn asks for `#### `, instead of eight solved problems that show it; of equally frequent final answers the first
    wins; min-p replaces top-k.
    """

    revision: ClassVar[int] = 2  # `答：` marks a final answer
    kind: Literal["respond"] = "respond"
    instructs: ClassVar[bool] = False
    takes_tools: ClassVar[bool] = True
    feeds: ClassVar[tuple[Input, ...]] = ("seeds", "documents")
    n: int = Field(default=1, ge=1)
    """Number of candidates for each prompt."""
    best_of: str = ""
    """Name of the score by which one candidate is chosen. By default all candidates that pass the filters are kept."""
    votes: int = Field(default=1, ge=1)
    """Number of sampled answers that vote on each candidate; with 1 there is no vote."""
    labels: tuple[str, ...] = ()
    """Possible final answers, such as `["yes", "no"]`; by default numbers and words that are marked or come last."""
    min_agreement: float = Field(default=0.0, ge=0, le=1)
    """A candidate with a smaller share of the votes is dropped."""
    known_answer: bool = False
    """Whether a candidate is dropped if its final answer differs from the final answer of the input."""
    max_tokens: int = Field(default=512, gt=0)
    """Largest number of tokens of an answer."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of an answer. It must be above 0 for candidates or votes to differ."""
    stop_loops: bool = True
    """Whether a reply ends when it repeats itself four times in a row."""
    vote_prompts: Annotated[Prompts, slots()] = by_language(STEPS)
    """Text that is added to the system turn, by language, if final answers are compared."""
    answer_prompts: Annotated[Prompts, slots(partial=True)] = by_language({})
    """System prompts, by language, for inputs without a system turn. They are not part of the sample. By default there
    are none."""

    async def expand(self, parents: Sequence[Sample], ask: Ask, rng: Random) -> list[Draft]:
        """Return `n` drafts with the same prompt."""
        del ask, rng
        prompt, tags = prompt_of(parents[0]), {"language": language_of(parents[0])}
        if not prompt:
            return [Draft(parents[0].messages, tags, f"{self.kind}: no prompt")]
        return [Draft(prompt, tags, tools=parents[0].tools) for _ in range(self.n)]

    async def answer(self, draft: Draft, ask: Ask) -> Draft:
        """Answer the prompt, once for each vote."""
        asked = self._asked(draft)
        asking = [
            ask(
                asked,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                stop_loops=self.stop_loops,
                tools=draft.tools or "",
            )
            for _ in range(self.votes)
        ]
        whole = self._voted(draft, await gather(*asking)) if self.votes > 1 else self.answered(draft, await asking[0])
        if not self.known_answer or whole.dropped:
            return whole
        known, found = (final_answer(text, self.labels) for text in (ask.parents[0].answer, whole.messages[-1].text))
        return whole if known and known == found else replace(whole, dropped=f"{self.kind}: not the known answer")

    def _asked(self, draft: Draft) -> tuple[Message, ...]:
        """Return the prompt with the additional request in its system turn."""
        language = draft.tags.get("language", "en")
        own = [turn for turn in draft.messages if turn.role == "system"]
        system = [turn.text for turn in own or system_turn(self.answer_prompts, language)]
        if self.votes > 1 or self.known_answer:
            system = [*system, template_for(self.vote_prompts, language).text()]
        said = (Message("system", "\n\n".join(system)),) if system else ()
        return (*said, *(turn for turn in draft.messages if turn.role != "system"))

    def _voted(self, draft: Draft, replies: Sequence[Reply]) -> Draft:
        """Return the draft with the answer of the majority; it is dropped if there is none."""
        finals = [final_answer(reply.text, self.labels) if reply.finish == "stop" else None for reply in replies]
        votes = Counter(final for final in finals if final)
        if not votes:
            whole = self.answered(draft, replies[0])
            return whole if whole.dropped else replace(whole, dropped=f"{self.kind}: no final answer")
        winner, count = votes.most_common(1)[0]  # of those with the most frequent final answer, the first
        share = count / len(replies)
        whole = self.answered(draft, replies[finals.index(winner)])
        reason = f"{self.kind}: votes disagree" if share < self.min_agreement else None
        scores = {**draft.scores, "self_consistency": share}
        return replace(whole, scores=scores, dropped=whole.dropped or reason)

    def choose(self, rows: Sequence[Sample]) -> Sequence[Sample]:
        """Return the candidates of a prompt. With `best_of`, all except the one with the highest score are dropped."""
        if not self.best_of:
            return rows
        rated = [place for place, row in enumerate(rows) if row.dropped is None and self.best_of in row.scores]
        if not rated:
            return [row.drop(f"{self.kind}: no score to choose by") for row in rows]
        best = max(rated, key=lambda place: rows[place].scores[self.best_of])  # of equal ones the first
        return [row if place == best else row.drop(f"{self.kind}: not the best") for place, row in enumerate(rows)]


def prompt_of(sample: Sample) -> tuple[Message, ...]:
    """Return a conversation up to its last user turn, or the complete conversation if it ends with a tool's turn.

    Without a user turn, return nothing.
    """
    if sample.messages and sample.messages[-1].role == "tool":
        return sample.messages
    last = max((place for place, turn in enumerate(sample.messages) if turn.role == "user"), default=-1)
    return sample.messages[: last + 1]
