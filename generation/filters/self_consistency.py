"""Self-consistency: fresh answers to the same instruction must agree with the sample's answer."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.finals import final_answer, marked_answer
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.template import Prompts, by_language, slots, template_for
from gristmill.cluster.text.words import num_words
from gristmill.generation.contracts import Ask, ModelFilter, Verdict

FREE = {
    "en": "You are an expert. Do what the user asks, directly and correctly, in a few plain sentences.",
    "zh": "你是一位专家。请直接、正确地完成用户的要求，用几句简明的话回答。",
}
"""System prompt of the answering model, by language; it is not part of the sample."""
RESULT = {
    "en": "Work out what the user asks in a few short steps. End with one line: The answer is ...",
    "zh": "请用简短的几步完成用户的要求，最后单独写一行：答案是……",
}
"""System prompt if the sample's answer is a result, by language."""


class SelfConsistency(ModelFilter):
    r"""Ask the sample's instruction again, and drop the sample if too few fresh answers agree with its answer.

    An answer has a result if its final answer is marked (`####`, `\boxed`, `the answer is`, `答案是`, `答：`), or if it
    has at most `short_words` words. Then the score `self_consistency` is the share of fresh answers with the same
    result, which is marked or in the last line. Other answers are compared by the cosine of their embeddings, and the
    score is the mean cosine.

    Source: Wang et al. 2022, Self-Consistency, arXiv:2203.11171, section 2 (sampled answers, the majority's result);
    Lin et al. 2023, Generating with Confidence, arXiv:2305.19187, section 4 (mean similarity for free text).
    Departures: fresh answers are compared with the sample's answer, not with the majority; free text is compared by the
    job's encoder instead of an entailment model. For Chinese, the encoder must know Chinese.
    """

    revision: ClassVar[int] = 3  # nothing is compared in a script that the encoder does not know
    kind: Literal["self_consistency"] = "self_consistency"
    samples: int = Field(default=5, ge=1)
    """Number of fresh answers."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of the fresh answers."""
    max_tokens: int = Field(default=256, gt=0)
    """Largest number of tokens of a fresh answer."""
    compare: Literal["auto", "exact", "embedding"] = "auto"
    """`exact` compares only results; without a mark, the result is in the last line. `embedding` compares only texts.
    With `auto`, results are compared if the sample's answer has one, else texts."""
    short_words: int = Field(default=5, ge=1)
    """Largest number of words of a result. A longer answer without a mark is compared as free text."""
    min_share: float = Field(default=0.5, ge=0, le=1)
    """Smallest share of fresh answers that must have the same result."""
    min_cosine: float = Field(default=0.5, ge=-1, le=1)
    """Smallest mean cosine of fresh answers in free text."""
    answer_prompts: Annotated[Prompts, slots()] = by_language(FREE)
    """System prompts of fresh answers in free text, by language. A sample with a system turn keeps its own."""
    result_prompts: Annotated[Prompts, slots()] = by_language(RESULT)
    """System prompts of fresh answers that must come to a result."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Return the score `self_consistency`; no score if the encoder does not know the script of the answer."""
        if not sample.messages or sample.messages[-1].role != "assistant" or not sample.messages[-1].text.strip():
            return Verdict(dropped=f"{self.kind}: no answer")
        answer = sample.messages[-1].text
        wanted = final_answer(answer) or "" if self.compare == "exact" else result(answer, self.short_words)
        exact = self.compare == "exact" or (self.compare == "auto" and bool(wanted))
        asked = self._asked(sample, self.result_prompts if exact else self.answer_prompts)
        replies = await asyncio.gather(
            *(
                ask(
                    asked,
                    max_tokens=self.max_tokens,
                    temperature=self.temperature,
                    stop_loops=True,
                    tools=sample.tools or "",
                )
                for _ in range(self.samples)
            )
        )
        if all(reply.finish.startswith("error") for reply in replies):
            return Verdict(dropped=f"{self.kind}: {replies[0].finish}")
        if exact:
            score, least = _share(wanted, replies), self.min_share
        else:
            score, least = await _cosine(answer, replies, ask), self.min_cosine
        if np.isnan(score):
            return Verdict()
        return Verdict({self.kind: score}, f"{self.kind}: answers disagree" if score < least else None)

    def _asked(self, sample: Sample, prompts: Mapping[str, str]) -> tuple[Message, ...]:
        before = sample.messages[:-1]
        if any(turn.role == "system" for turn in before):
            return before
        return (Message("system", template_for(prompts, language_of(sample)).text()), *before)


def result(text: str, short_words: int = 5) -> str:
    """Return the result of an answer in a comparable form: a number or a few words; empty for free text."""
    short = num_words(text) <= short_words
    found = marked_answer(text) or (final_answer(text) if short else None) or ""
    return found if num_words(found) <= short_words else ""


def _share(wanted: str, replies: Sequence[Reply]) -> float:
    """Return the share of replies with the wanted result."""
    return sum(reply.finish == "stop" and final_answer(reply.text) == wanted for reply in replies) / len(replies)


async def _cosine(answer: str, replies: Sequence[Reply], ask: Ask) -> float:
    """Return the mean cosine of the answer with the replies; an empty or failed reply counts as 0.

    The result is NaN if the encoder does not know the script of the answer. A reply in such a script counts as 0.
    """
    texts = [reply.text for reply in replies if reply.text.strip() and not reply.finish.startswith("error")]
    if not texts:
        return 0.0
    vectors = await ask.embed([answer, *texts])
    if np.isnan(vectors[0]).any():
        return float("nan")
    return float(np.nansum(vectors[1:] @ vectors[0])) / len(replies)
