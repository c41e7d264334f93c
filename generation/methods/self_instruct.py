"""Self-Instruct: continue a list of demonstrated instructions with a new one, then answer it."""

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Literal

from pydantic import Field

from cluster.sample import Message, Sample
from generation.contracts import Ask, Draft, Method
from generation.languages import language_of
from generation.words import num_words, tokens

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
"""What the user asks for, by language; other languages use the English one with demonstrations of their own."""
ANSWER = {
    "en": "You are an expert. Do what the user asks, directly and correctly, in a few plain sentences.",
    "zh": "你是一位专家。请直接、正确地完成用户的要求，用几句简明的话回答。",
}
"""What the answering model is told, by language; it is not part of the sample."""
UNANSWERABLE = {
    "en": r"\b(?:images?|graphs?|pictures?|photos?|files?|maps?|draw|plot|go to|videos?|audio|attached)\b",
    "zh": r"图片|图像|图表|照片|文件|地图|绘制|画出|画一|视频|音频|附件|链接",
}
"""Words of instructions that text alone cannot answer."""
MIN_ECHO_WORDS = 5
PROGRAM = r"(?:write|create) a (?:\w+ )?(?:program|script)|(?:请)?(?:编写|写)(?:一个|一段)?.{0,6}(?:程序|脚本|代码)"
"""Starts of instructions that ask for a program."""


class SelfInstruct(Method):
    """Draft the next instruction of a list of demonstrations, human and machine-made, and answer it in a second call.

    Source: Wang et al. 2023, Self-Instruct, arXiv:2212.10560, sections 2.2 and A; post-filters of the released code.
    Departures: the demonstrations stand in the assistant's own turn, so that a chat model continues them; one
    instruction a call and one instance an instruction, its input written into the instruction, so classification tasks
    need no output-first branch; a system prompt asks for short answers and is left out of the sample (context
    distillation, Askell et al. 2021, arXiv:2112.00861, section 2.2); demonstrations of one draft share a language;
    min-p instead of top-p and the presence penalty; a first character outside ASCII is fine; asking for a program is
    matched in more wordings; novelty and length of answers are filters of their own.
    """

    kind: Literal["self_instruct"] = "self_instruct"
    group: int = Field(default=8, gt=0)
    """Drafts that share one set of demonstrations, and with it their prompt in the prefix cache."""
    num_human: int = Field(default=6, ge=1)
    """Demonstrations from the seeds."""
    num_machine: int = Field(default=2, ge=0)
    """Demonstrations from what closed rounds have kept; seeds stand in while there is none."""
    languages: tuple[str, ...] = ()
    """Languages to draft in, as ISO 639-1; by default those of the seeds. Each gets its share of the seeds."""
    max_demo_words: int = Field(default=80, gt=0)
    """Longer seeds are not used as demonstrations."""
    min_words: int = Field(default=4, ge=1)
    """Fewest words of an instruction."""
    max_words: int = Field(default=150, gt=0)
    """Most words of an instruction."""
    max_tokens: int = Field(default=128, gt=0)
    """Cap on the drafted instruction, in tokens."""
    temperature: float = Field(default=0.8, ge=0, le=2)
    """Of the draft."""
    max_answer_tokens: int = Field(default=256, gt=0)
    """Cap on the answer, in tokens."""
    answer_temperature: float = Field(default=0.3, ge=0, le=2)
    """Of the answer."""
    stop_loops: bool = True
    """End a reply that says the same four times in a row, which saved 30 % of the tokens with the default model."""
    prompts: dict[str, str] = Field(default_factory=lambda: dict(ASK))
    """What the user asks for, by language, with `{count}` for the length of the list."""
    answer_prompts: dict[str, str] = Field(default_factory=lambda: dict(ANSWER))
    """System prompts of the answering call, by language; without one, the chat template's own holds."""

    def draw(self, seeds: Sequence[Sample], made: Sequence[Sample], rng: Random) -> tuple[Sample, ...]:
        """Return human and machine demonstrations of one language, shuffled."""
        human = [s for s in seeds if num_words(s.instruction) <= self.max_demo_words] or list(seeds)
        wanted = [s for s in human if not self.languages or language_of(s) in self.languages] or human
        language = language_of(wanted[rng.randrange(len(wanted))])
        human = [s for s in wanted if language_of(s) == language]
        machine = [s for s in made if language_of(s) == language]
        chosen = rng.sample(machine, min(self.num_machine, len(machine)))
        total = self.num_human + self.num_machine
        chosen += rng.sample(human, min(total - len(chosen), len(human)))
        rng.shuffle(chosen)
        return tuple(chosen)

    async def expand(self, parents: Sequence[Sample], ask: Ask, rng: Random) -> list[Draft]:
        """Return one draft that ends with the user's turn."""
        del rng  # the order of the demonstrations is the group's
        language = language_of(parents[0])
        number = len(parents) + 1
        prompt = self.prompts.get(language, self.prompts["en"]).format(count=number)
        listed = "".join(f"{i}. {_flat(p.instruction)}\n" for i, p in enumerate(parents, 1))
        reply = await ask(
            [Message("user", prompt)],
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=(f"\n{number + 1}", "\n\n"),
            stop_loops=self.stop_loops,
            prefix=f"{listed}{number}.",
        )
        text = reply.text.strip()
        messages = (Message("user", text),) if text else ()
        reason = self.refuse(text, reply.finish)
        return [Draft(messages, {"language": language}, f"{self.kind}: {reason}" if reason else None)]

    def refuse(self, text: str, finish: str) -> str | None:
        """Return why an instruction is dropped at once, or None."""
        words = num_words(text)
        rules: Mapping[str, bool] = {
            finish: finish.startswith("error"),
            "instruction cut off": finish in ("length", "repetition"),
            "instruction too short": words < self.min_words,
            "instruction too long": words > self.max_words,
            "instruction starts with punctuation": not text[:1].isalnum(),
            "asks for a program": re.match(PROGRAM, text, re.IGNORECASE) is not None,
            "text alone cannot answer it": any(re.search(p, text, re.IGNORECASE) for p in UNANSWERABLE.values()),
        }
        return next((reason for reason, holds in rules.items() if holds), None)

    async def answer(self, draft: Draft, ask: Ask) -> Draft:
        """Answer the instruction; an echo or an answer that only announces is dropped."""
        system = self.answer_prompts.get(draft.tags.get("language", "en"))
        messages = (*([Message("system", system)] if system else []), *draft.messages)
        reply = await ask(
            messages,
            max_tokens=self.max_answer_tokens,
            temperature=self.answer_temperature,
            stop_loops=self.stop_loops,
        )
        whole = self.answered(draft, reply)
        text = reply.text.strip()
        if whole.dropped is None and _echoes(text, draft.messages[-1].content):
            return Draft(whole.messages, whole.tags, f"{self.kind}: answer repeats the instruction")
        if whole.dropped is None and text.endswith((":", "：")):
            return Draft(whole.messages, whole.tags, f"{self.kind}: answer ends with a colon")
        return whole


def _echoes(answer: str, instruction: str) -> bool:
    """Say whether an answer of five words or more stands in the instruction as it is; shorter ones may be extracted."""
    said = f" {' '.join(tokens(answer))} "
    return num_words(answer) >= MIN_ECHO_WORDS and said in f" {' '.join(tokens(instruction))} "


def _flat(text: str) -> str:
    """Return a text without blank lines, which end an entry of the list."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())
