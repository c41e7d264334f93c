"""Pairwise: the model compares the sample's answer with another answer to the same instruction, in both orders."""

import asyncio
from typing import Annotated, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.template import Prompts, by_language, slots, template_for, write
from gristmill.generation.contracts import Ask, ModelFilter, Verdict
from gristmill.generation.filters.judge.filter import asked
from gristmill.generation.prompting.choices import choose

PROMPTS = {
    "en": write(
        "Two answers are given to each instruction. Say which one is better: more correct, more complete, clearer.",
        "Instruction: {instruction}\nAnswer A: {first}\nAnswer B: {second}\nBetter:{better: A| B}",
        ("Name two fruits.", "Apples and pears.", "I walk to school.", "A"),
        ("What is 3 plus 4?", "3 plus 4 is 12.", "3 plus 4 is 7.", "B"),
        (
            "Why do we sleep?",
            "We sleep and sleep is sleep.",
            "Sleep rests the body and sorts what we have learned.",
            "B",
        ),
        ("Give a tip for saving water.", "Take shorter showers.", "Water is wet and blue.", "A"),
        ("Translate 'cat' into French.", "Chat", "Dog", "A"),
        ("Write a line to thank a teacher.", "Teachers work in schools.", "Thank you for your patience and help.", "B"),
    ),
    "zh": write(
        "每条指令有两个回答。请指出哪一个更好：更正确、更完整、更清楚。",
        "指令：{instruction}\n回答A：{first}\n回答B：{second}\n更好：{better:A|B}",
        ("说出两种水果。", "苹果和梨。", "我走路去上学。", "A"),
        ("3加4等于几？", "3加4等于12。", "3加4等于7。", "B"),
        ("人为什么要睡觉？", "睡觉就是睡觉。", "睡眠让身体休息，并整理学到的东西。", "B"),
        ("给出一条节水建议。", "缩短淋浴时间。", "水是湿的。", "A"),
        ("把“猫”翻译成英语。", "Cat", "Dog", "A"),
        ("写一句感谢老师的话。", "老师在学校工作。", "谢谢您的耐心和帮助。", "B"),
    ),
}
"""Templates by language: which of two answers is better. The first word means the first answer."""


class Pairwise(ModelFilter):
    """Compare the sample's answer with another answer in both orders, and drop the sample if it loses both times.

    The other answer is a parent's answer to the same instruction, or a fresh answer by the model. The score `pairwise`
    is the probability that the sample's answer is better. It is the mean of both orders, so a model that always prefers
    the first answer gives 0.5. The filter needs a model that can compare: the 135M default model prefers the right
    answer in 50 % of 60 pairs, which is chance.

    Source: Zheng et al. 2023, Judging LLM-as-a-Judge, arXiv:2306.05685, section 3.4 (positions swapped; a win counts
    only in both orders); Wang et al. 2023, Large Language Models are not Fair Evaluators, arXiv:2305.17926, section 3.2
    (mean over both orders). Departures: the probability of a constrained letter instead of a written verdict; no tie.
    """

    kind: Literal["pairwise"] = "pairwise"
    against: Literal["fresh", "parent"] = "fresh"
    """The other answer: a fresh answer, or the answer of the first parent with the same instruction. Without such a
    parent the sample passes without a score."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of the fresh answer."""
    max_tokens: int = Field(default=256, gt=0)
    """Largest number of tokens of the fresh answer."""
    prompts: Annotated[Prompts, slots("instruction", "first", "second", better=2)] = by_language(PROMPTS)
    """Templates by language. The first word of `{better}` means that the first answer is better."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Return, as the score `pairwise`, the probability that the sample's answer is better."""
        if not sample.reply:
            return Verdict(dropped=f"{self.kind}: no answer")
        if self.against == "fresh":
            reply = await ask(
                sample.messages[:-1],
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                stop_loops=True,
                tools=sample.tools or "",
            )
            if reply.finish.startswith("error"):
                return Verdict(dropped=f"{self.kind}: {reply.finish}")
            other = Message("assistant", reply.text.strip(), tool_calls=reply.tool_calls).said
        else:
            same = (p.reply for p in ask.parents if p.instruction == sample.instruction and p.reply != sample.reply)
            other = next(same, "")
        if not other or other == sample.reply:
            return Verdict({self.kind: 0.5} if other else {})
        template = template_for(self.prompts, "zh" if is_chinese(sample.instruction) else "en")
        orders = ((sample.reply, other), (other, sample.reply))
        prompts = [template.begin("better", instruction=asked(sample), first=a, second=b) for a, b in orders]
        replies = await asyncio.gather(*(choose(ask, prompt, max_tokens=1) for prompt in prompts))
        failed = next((reply for reply in replies if not reply.choices), None)
        if failed:
            return Verdict(dropped=f"{self.kind}: {failed.finish}")
        wins = [reply.choices[word] for reply, word in zip(replies, template.choices("better"), strict=True)]
        lost = f"{self.kind}: loses in both orders" if max(wins) < 0.5 else None
        return Verdict({self.kind: sum(wins) / 2}, lost)
