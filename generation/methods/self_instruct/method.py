"""Self-Instruct: continue a list of demonstrated instructions with a new one, then write its input and answer."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import cut_off, flat, refuse
from gristmill.cluster.text.template import Prompts, by_language, slots, system_turn, template_for
from gristmill.cluster.text.words import num_words, tokens
from gristmill.generation.contracts import Ask, Draft, Method, Snapshot, State
from gristmill.generation.methods.self_instruct.instances import (
    CLASSIFY,
    INPUTS,
    LABELLED,
    LABELS,
    classifies,
    input_of,
    joined,
    label_of,
    parted,
)
from gristmill.generation.prompting.draws import wander

ASK = {
    "en": (
        "Write a list of {count} different instructions that a person could give to a helpful assistant. Vary the "
        "topic, the verb and the length. Each instruction is clear, can be answered in text alone, and brings with it "
        "any text that it speaks of."
    ),
    "zh": (
        "请写出{count}条不同的指令，都是人们可能交给智能助手的任务。主题、动词和长短要有变化。"
        "每条指令要清楚明白，只用文字就能完成；如果涉及某段文字，就把那段文字一并写出来。"
    ),
}
"""The request for instructions, by language. Other languages use the English request with their own demonstrations."""
ASK_BARE = {
    "en": (
        "Write a list of {count} different tasks that a person could give to a helpful assistant. Vary the topic, the "
        "verb and the length; some tasks sort a text into classes. Each can be done in text alone. Where a task works "
        "on a text, only the task is written here and the text is given apart."
    ),
    "zh": (
        "请写出{count}个不同的任务，都是人们可能交给智能助手的。主题、动词和长短要有变化，其中有些是把文字归类的任务。"
        "每个任务只用文字就能完成；如果任务涉及某段文字，这里只写任务，文字另外给出。"
    ),
}
"""The request for instructions without an input, by language, for `instances`."""
ANSWER = {
    "en": "You are an expert. Do what the user asks, directly and correctly, in a few plain sentences.",
    "zh": "你是一位专家。请直接、正确地完成用户的要求，用几句简明的话回答。",
}
"""System prompt of the answering model, by language; it is not part of the sample."""
UNANSWERABLE = {
    "en": r"\b(?:images?|graphs?|pictures?|photos?|files?|maps?|draw|plot|go to|videos?|audio|attached)\b",
    "zh": r"图片|图像|图表|照片|文件|地图|绘制|画出|画一|视频|音频|附件|链接",
}
"""Words of instructions that cannot be answered by text only."""
MIN_ECHO_WORDS = 5
PROGRAM = r"(?:write|create) a (?:\w+ )?(?:program|script)|(?:请)?(?:编写|写)(?:一个|一段)?.{0,6}(?:程序|脚本|代码)"
"""Starts of instructions that ask for a program."""


class SelfInstruct(Method[State]):
    """Draft the next instruction after human and machine-made demonstrations, then make an instance of it.

    Without `instances` the instruction contains its own input and is answered in a second call. With `instances`, as in
    the paper's third step, the model says whether the draft is a classification task. If it is, the model lists the
    labels and writes an input for one of them, which is the answer. If not, it writes the input, if one is needed, and
    then the answer. The input becomes part of the user's turn, after a blank line.

    Source: Wang et al. 2023, Self-Instruct, arXiv:2212.10560, sections 2.2 and A; post-filters of the released code.
    Departures: the demonstrations are in the assistant's own turn, so that a chat model continues them; a call writes
    one instruction, and an instruction gets one instance, so no list is cut off at its end, and the novelty filter
    drops a second instance; the label is drawn from the model's list, so labels are balanced; a constrained choice
    after 10 demonstrations, instead of 31, decides on classification; a system prompt asks for short answers and is
    left out of the sample (context distillation, Askell et al. 2021, arXiv:2112.00861, section 2.2); demonstrations of
    one draft share a language; min-p replaces top-p and the presence penalty; a first character outside ASCII is
    allowed; more wordings count as asking for a program; novelty and length of answers are separate filters.
    """

    kind: Literal["self_instruct"] = "self_instruct"
    guards: ClassVar[tuple[str, ...]] = ("standalone", "answer_kind")
    group: int = Field(default=8, gt=0)
    """Number of drafts with the same demonstrations. Their prompts have a common prefix, which the engine caches."""
    num_human: int = Field(default=6, ge=1)
    """Number of demonstrations from the seeds."""
    num_machine: int = Field(default=2, ge=0)
    """Number of demonstrations from rows that settled rounds have kept. Before there are such rows, seeds are used."""
    languages: tuple[str, ...] = ()
    """Languages to draft in, as ISO 639-1 codes; by default the seeds' languages, in proportion to their number."""
    instances: bool = False
    """Whether inputs are made separately from instructions; for classification, the label is made first. This takes up
    to three more calls."""
    max_demo_words: int = Field(default=80, gt=0)
    """Longer instructions are not used as demonstrations."""
    min_words: int = Field(default=4, ge=1)
    """Smallest number of words of an instruction."""
    max_words: int = Field(default=150, gt=0)
    """Largest number of words of an instruction."""
    max_tokens: int = Field(default=128, gt=0)
    """Largest number of tokens of the drafted instruction."""
    temperature: float = Field(default=0.8, ge=0, le=2)
    """Temperature of the draft."""
    max_input_tokens: int = Field(default=192, gt=0)
    """Largest number of tokens of the input of an instance."""
    max_answer_tokens: int = Field(default=256, gt=0)
    """Largest number of tokens of the answer."""
    answer_temperature: float = Field(default=0.3, ge=0, le=2)
    """Temperature of the answer."""
    stop_loops: bool = True
    """Whether a reply ends when it repeats itself four times in a row. With the default model this saved 30 % of the
    tokens."""
    prompts: Annotated[Prompts, slots("count")] = by_language(ASK)
    """Templates by language; `{count}` is the length of the list."""
    bare_prompts: Annotated[Prompts, slots("count")] = by_language(ASK_BARE)
    """Templates by language with `instances`, where an instruction has no input."""
    classify_prompts: Annotated[Prompts, slots("instruction", verdict=2)] = by_language(CLASSIFY)
    """Templates by language: whether an instruction is a classification task. The first word of `{verdict}` means that
    it is."""
    label_prompts: Annotated[Prompts, slots("instruction")] = by_language(LABELS)
    """Templates by language: the labels of a classification task."""
    labelled_prompts: Annotated[Prompts, slots("instruction", "label")] = by_language(LABELLED)
    """Templates by language: an input of a classification task that has a given label."""
    input_prompts: Annotated[Prompts, slots("instruction")] = by_language(INPUTS)
    """Templates by language: the input of any other task, or `None`."""
    answer_prompts: Annotated[Prompts, slots()] = by_language(ANSWER)
    """System prompts of the answering call, by language. Without one, the chat template decides."""

    def draw(self, snapshot: Snapshot, turn: int, rng: Random) -> tuple[Sample, ...]:
        """Return human and machine demonstrations of one language, shuffled.

        Rows are read in random order until enough of them fit, because the pools may be long.
        """
        del turn
        total = self.num_human + self.num_machine
        human = self._some(wander(rng, snapshot.seeds), total, self.languages)
        human = human or [first for first, _ in zip(wander(rng, snapshot.seeds), range(total), strict=False)]
        language = language_of(human[0])
        chosen = self._some(wander(rng, snapshot.made), self.num_machine, (language,))
        chosen += [seed for seed in human if language_of(seed) == language][: total - len(chosen)]
        rng.shuffle(chosen)
        return tuple(chosen)

    def _some(self, rows: Iterator[Sample], count: int, languages: tuple[str, ...]) -> list[Sample]:
        """Return the first rows that are short and in these languages. All have the language of the first row."""
        chosen: list[Sample] = []
        for row in rows if count else ():
            language = language_of(row)
            if num_words(self._demo(row)) <= self.max_demo_words and (not languages or language in languages):
                chosen.append(row)
                languages = (language,)
            if len(chosen) == count:
                break
        return chosen

    def _demo(self, row: Sample) -> str:
        """Return the instruction of a row as it is demonstrated."""
        return parted(row.instruction) if self.instances else row.instruction

    async def expand(self, parents: Sequence[Sample], ask: Ask[State], rng: Random) -> list[Draft]:
        """Return one draft that ends with the user's turn."""
        del rng  # the whole group has the same order of demonstrations
        language = language_of(parents[0])
        number = len(parents) + 1
        template = template_for(self.bare_prompts if self.instances else self.prompts, language)
        listed = "".join(f"{i}. {flat(self._demo(p))}\n" for i, p in enumerate(parents, 1))
        reply = await ask(
            [Message("user", template.text(count=number))],
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=(f"\n{number + 1}", "\n\n"),
            stop_loops=self.stop_loops,
            prefix=f"{listed}{number}.",
        )
        text = reply.text.strip()
        return [self.drafted(text, {"language": language}, self.refusal(text, reply.finish))]

    def refusal(self, text: str, finish: str) -> str | None:
        """Return why an instruction is dropped before it is answered, or None."""
        words = num_words(text)
        rules = {
            **cut_off(finish, "instruction"),
            "instruction too short": words < self.min_words,
            "instruction too long": words > self.max_words,
            "instruction starts with punctuation": not text[:1].isalnum(),
            "asks for a program": re.match(PROGRAM, text, re.IGNORECASE) is not None,
            "text alone cannot answer it": any(re.search(p, text, re.IGNORECASE) for p in UNANSWERABLE.values()),
        }
        return refuse(rules)

    async def answer(self, draft: Draft, ask: Ask) -> Draft:
        """Answer the instruction. With `instances`, its input is made first."""
        if self.instances:
            draft = await self._instance(draft, ask)
            if draft.dropped or draft.complete:
                return draft
        reply = await ask(
            (*system_turn(self.answer_prompts, draft.tags.get("language", "en")), *draft.messages),
            max_tokens=self.max_answer_tokens,
            temperature=self.answer_temperature,
            stop_loops=self.stop_loops,
        )
        return self._kept(self.answered(draft, reply))

    async def _instance(self, draft: Draft, ask: Ask) -> Draft:
        """Return the draft with its input in the user's turn, and with its answer if that is a label."""
        instruction, language = draft.messages[-1].text, draft.tags.get("language", "en")
        labelled, problem = await classifies(self.classify_prompts, language, instruction, ask)
        values, label, given, prompts = {"instruction": instruction}, "", "", self.input_prompts
        if labelled and not problem:
            label, problem = await label_of(self.label_prompts, language, instruction, ask)
            values, prompts = {**values, "label": label}, self.labelled_prompts
        if not problem:
            given, problem = await input_of(prompts, language, ask, self.max_input_tokens, **values)
        if labelled and not problem and not given:
            problem = "input is empty"
        turns = [joined(instruction, given), *([Message("assistant", label)] if label and given else [])]
        tags = {**draft.tags, "is_classification": str(labelled).lower()}
        dropped = f"{self.kind}: {problem}" if problem else None
        whole = replace(draft, messages=(*draft.messages[:-1], *turns), tags=tags, dropped=dropped)
        return self._kept(whole)

    def _kept(self, draft: Draft) -> Draft:
        """Return an answered draft, dropped if its answer is the input, repeats the task, or ends with a colon."""
        if draft.dropped or not draft.complete:
            return draft
        asked, said = draft.messages[-2].text, draft.messages[-1].text
        given = asked.partition("\n\n")[2].strip()
        rules = {
            "answer is the input": said.casefold() in (given.casefold(), asked.casefold()),
            "answer repeats the instruction": _echoes(said, asked),
            "answer ends with a colon": said.endswith((":", "：")),
        }
        reason = refuse(rules)
        return replace(draft, dropped=f"{self.kind}: {reason}") if reason else draft


def _echoes(answer: str, instruction: str) -> bool:
    """Return whether the instruction contains the answer, for answers of five words or more.

    A shorter answer may be a correct extract.
    """
    said = f" {' '.join(tokens(answer))} "
    return num_words(answer) >= MIN_ECHO_WORDS and said in f" {' '.join(tokens(instruction))} "
