"""Evol-Instruct: rewrite an instruction to a harder or a rarer instruction, over several rounds, and answer it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import cut_off, flat, refuse
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.template import Prompts, by_language, gap, slots, system_turn, template_for
from gristmill.cluster.text.words import UNSPACED_PER_WORD, num_words, tokens
from gristmill.generation.contracts import Ask, Draft, Method, Snapshot
from gristmill.generation.methods.evol_instruct.prompts import (
    BREADTH,
    COMPARE,
    COMPLICATE,
    CONCRETISE,
    CONSTRAIN,
    DEEPEN,
    REASON,
)
from gristmill.generation.prompting.choices import choose
from gristmill.generation.prompting.draws import wander

Operation = Literal["constrain", "deepen", "concretise", "reason", "complicate", "breadth"]
ANSWER = {
    "en": "You are an expert. Do what the user asks, completely and correctly, in plain sentences.",
    "zh": "你是一位专家。请完整、正确地完成用户的要求，用简明的话回答。",
}
"""System prompt of the answering model, by language; it is not part of the sample."""
OPERATIONS: tuple[Operation, ...] = ("constrain", "deepen", "concretise", "reason", "complicate", "breadth")
"""The five in-depth operations, and in-breadth as the last operation."""
COPIED = (
    r"\b(?:given|re-?written|created|evolved|original|new) prompts?\b",
    r"(?:给定|所给|改写后|改写|重写|新|创建|原|原始)的?(?:提示词|指令)",
)
"""Words of the evolving prompts that an evolved instruction must not contain, in English and Chinese."""
SORRY = r"\bsorry\b|抱歉|对不起|很遗憾|不好意思"
SORRY_WORDS = 80
"""An answer that apologises and has fewer words than this is a refusal."""
_STOP_WORDS = """
a an the and or but if then than so as of at by for with about against between into through to from in on off out up
down over under again further once here there when where why how all any both each few more most other some such no
nor not only own same too very can will just should now is am are was were be been being have has had do does did
having doing i me my we our you your he him his she her it its they them their what which who whom this that these
those because until while during before after above below would could
"""
STOP_WORDS = frozenset(_STOP_WORDS.split()) | frozenset(
    "的了是在我你他她它们这那和与及或就都也很又着过吧呢吗啊哦嗯呀而但被把给对于从到以为之其此个有不没"
)
"""English stop words and Chinese stop characters."""


class EvolInstruct(Method):
    """Evolve one parent by one of six operations chosen at random, and answer the result.

    Parents are seeds and kept rows that were evolved fewer than `max_rounds` times, so each round of the job deepens
    rows that earlier rounds have kept. A failed evolution is a dropped row. Its parent stays in the pool and may be
    drawn again. An evolution fails in four cases: the model judges that it gains no information over its parent; the
    answer apologises in fewer than 80 words; the answer has only punctuation and stop words; or the instruction copies
    words of the evolving prompt. The rules run as early as possible: a copy costs no call of the judge, and an
    evolution without gain costs no answer.

    Source: Xu et al. 2023, WizardLM, arXiv:2304.12244, section 3.2 and appendices A to F; M = 4 rounds, operations with
    equal chance. Departures: prompts are our own and begin the assistant's turn with evolved pairs, and an in-depth
    evolution also begins with its parent's first words; the judgement is a constrained choice with a threshold that can
    be set; parents are drawn at random, while the paper evolves each parent once a round; all rules have Chinese words
    too; only the first user turn of a parent is evolved.
    """

    kind: Literal["evol_instruct"] = "evol_instruct"
    guards: ClassVar[tuple[str, ...]] = ("standalone", "answer_kind")
    operations: tuple[Operation, ...] = Field(default=OPERATIONS, min_length=1)
    """Operations to choose from, with equal chances. An operation that is listed twice has twice the chance."""
    max_rounds: int = Field(default=4, gt=0)
    """Largest number of steps from a seed, by this or any other method. A row with this many steps is not evolved."""
    languages: tuple[str, ...] = ()
    """Languages of the parents, as ISO 639-1 codes; by default any language."""
    head_words: int = Field(default=3, ge=0)
    """Number of the parent's first words with which an in-depth evolution begins, but at most half of its words. They
    keep small models on the subject. With 0 the beginning is free, as in the paper."""
    max_words: int = Field(default=200, gt=0)
    """Longer parents are not evolved, and longer evolutions are dropped."""
    max_equal: float = Field(default=0.5, ge=0, le=1)
    """Largest probability that the evolution asks for the same as its parent. With 1 the model does not judge this."""
    max_tokens: int = Field(default=192, gt=0)
    """Largest number of tokens of the evolved instruction."""
    temperature: float = Field(default=0.5, ge=0, le=2)
    """Temperature of the evolution."""
    max_answer_tokens: int = Field(default=512, gt=0)
    """Largest number of tokens of the answer."""
    answer_temperature: float = Field(default=0.3, ge=0, le=2)
    """Temperature of the answer."""
    stop_loops: bool = True
    """Whether a reply ends when it repeats itself four times in a row."""
    constrain_prompts: Annotated[Prompts, slots("instruction")] = by_language(CONSTRAIN)
    """Templates by language: add a constraint."""
    deepen_prompts: Annotated[Prompts, slots("instruction")] = by_language(DEEPEN)
    """Templates by language: ask for more depth and breadth."""
    concretise_prompts: Annotated[Prompts, slots("instruction")] = by_language(CONCRETISE)
    """Templates by language: ask for specific things instead of general things."""
    reason_prompts: Annotated[Prompts, slots("instruction")] = by_language(REASON)
    """Templates by language: ask for several steps of reasoning."""
    complicate_prompts: Annotated[Prompts, slots("instruction")] = by_language(COMPLICATE)
    """Templates by language: give data to work on, such as a table, code, JSON or a formula."""
    breadth_prompts: Annotated[Prompts, slots("instruction")] = by_language(BREADTH)
    """Templates by language: ask something new and rarer in the same domain."""
    compare_prompts: Annotated[Prompts, slots("first", "second", verdict=2)] = by_language(COMPARE)
    """Templates by language: whether two instructions ask the same. The first word of `{verdict}` says that they do."""
    answer_prompts: Annotated[Prompts, slots()] = by_language(ANSWER)
    """System prompts of the answering call, by language. Without one, the chat template decides."""

    def draw(self, snapshot: Snapshot, turn: int, rng: Random) -> tuple[Sample, ...]:
        """Return one seed or kept row that may still be evolved; if none is found, any seed."""
        del turn
        for row in wander(rng, snapshot.seeds, snapshot.made):
            if row.round < self.max_rounds and self._fits(row):
                return (row,)
        return tuple(wander(rng, snapshot.seeds, tries=1))

    def _fits(self, row: Sample) -> bool:
        known = not self.languages or language_of(row) in self.languages
        return known and num_words(row.instruction) <= self.max_words

    async def expand(self, parents: Sequence[Sample], ask: Ask, rng: Random) -> list[Draft]:
        """Return one evolved instruction."""
        parent, operation = parents[0], rng.choice(self.operations)
        language = language_of(parent)
        prompts: Mapping[str, str] = getattr(self, f"{operation}_prompts")
        prompt = template_for(prompts, language).begin(instruction=flat(parent.instruction))
        prefix = prompt["prefix"]
        head = "" if operation == "breadth" or not prefix else beginning(parent.instruction, self.head_words)
        reply = await ask(
            prompt["messages"],
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=("\n\n", "\nGiven", "\n给定"),
            stop_loops=self.stop_loops,
            prefix=f"{prefix}{gap(prefix)}{head}" if head else prefix,
        )
        said = reply.text.strip()
        text = f"{head}{reply.text}".strip() if head and said else said.strip('"“”').strip()
        reason = self.refusal(text, reply.finish, parent.instruction)
        return [self.drafted(text, {"language": language, "operation": operation}, reason)]

    def refusal(self, text: str, finish: str, parent: str) -> str | None:
        """Return why an evolved instruction is dropped before it is answered, or None."""
        rules = {
            **cut_off(finish, "instruction"),
            "instruction is empty": not tokens(text),
            "instruction too long": num_words(text) > self.max_words,
            "copies words of the prompt": any(re.search(p, text, re.IGNORECASE) for p in COPIED),
            "no information gain": tokens(text) == tokens(parent),
        }
        return refuse(rules)

    async def answer(self, draft: Draft, ask: Ask) -> Draft:
        """Judge the gain over the parent, then answer. An apology or an answer of stop words is dropped."""
        language, evolved = draft.tags.get("language", "en"), draft.messages[-1]
        if self.max_equal < 1:
            equal, problem = await self._equal(language, ask.parents[0].instruction, evolved.text, ask)
            draft = draft if problem else replace(draft, scores={**draft.scores, "gain": 1.0 - equal})
            if problem or equal > self.max_equal:
                return replace(draft, dropped=f"{self.kind}: {problem or 'no information gain'}")
        reply = await ask(
            (*system_turn(self.answer_prompts, language), *draft.messages),
            max_tokens=self.max_answer_tokens,
            temperature=self.answer_temperature,
            stop_loops=self.stop_loops,
        )
        whole = self.answered(draft, reply)
        failed = failure(whole.messages[-1].text) if whole.dropped is None else None
        return replace(whole, dropped=f"{self.kind}: {failed}") if failed else whole

    async def _equal(self, language: str, first: str, second: str, ask: Ask) -> tuple[float, str]:
        """Return (the probability that two instructions ask the same, why it is unknown, or the empty string)."""
        template = template_for(self.compare_prompts, language)
        reply = await choose(ask, template.begin("verdict", first=flat(first), second=flat(second)), max_tokens=8)
        return (reply.choices[template.choices("verdict")[0]], "") if reply.choices else (0.0, reply.finish)


def beginning(text: str, words: int) -> str:
    """Return the first words of a text, at most half of them; one and a half Chinese characters count as a word."""
    line = text.strip().partition("\n")[0]
    if is_chinese(line):
        return line[: min(round(words * UNSPACED_PER_WORD), len(line) // 2)]
    found = line.split()
    return " ".join(found[: min(words, len(found) // 2)])


def failure(answer: str) -> str | None:
    """Return the reason why an answer shows that its instruction cannot be answered, or None."""
    found = tokens(answer)
    if re.search(SORRY, answer, re.IGNORECASE) and num_words(answer) < SORRY_WORDS:
        return "answer apologises"
    return "answer says nothing" if all(token in STOP_WORDS for token in found) else None
