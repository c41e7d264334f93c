"""Backtranslation: write the instructions that good texts answer, and keep the pairs that are rated well."""

import re
from asyncio import gather
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import cut_off, flat, refuse
from gristmill.cluster.text.template import NUMBERS, Prompts, by_language, slots, template_for
from gristmill.cluster.text.words import num_words, tokens
from gristmill.generation.contracts import Ask, Draft, EachInput, Input
from gristmill.generation.prompting.choices import choose, expected

INSTRUCT = {
    "en": """\
Write for each text the instruction that a person gave to get exactly this text as the answer.
---
Text: First rinse the rice until the water runs clear. Then bring it to the boil with one and a half times as much \
water, cover it, and leave it on the lowest heat for twelve minutes.
Instruction: How do I cook rice in a pot so that it does not stick?

Text: The Danube rises in the Black Forest in Germany and flows through ten countries. It ends in a wide delta on the \
Black Sea, which is home to pelicans and sturgeon.
Instruction: Describe the river Danube from its source to its delta.

Text: Dear Ms Brown, thank you for your offer. I am glad to accept the position and look forward to starting on the \
first of May. Kind regards, Tim
Instruction: Write a short letter in which Tim accepts the position that Ms Brown has offered him.

Text: The swimming pool is open from nine to seven on weekdays and from ten to five on Sundays. Children under six \
swim for free.
Instruction: When is the swimming pool open, and who swims for free?

Text: The bridge was closed because rust had weakened its cables. Engineers feared that they could break in a storm.
Instruction: Explain why the bridge was closed.

Text: {text}
Instruction:""",
    "zh": """\
请为每段文字写出对应的指令：有人正是用这条指令得到了这段文字作为回答。
---
文字：先把米淘洗到水变清，再加一倍半的水烧开，盖上锅盖，用最小的火焖十二分钟。
指令：用锅煮米饭怎样才不会粘锅？

文字：多瑙河发源于德国的黑森林，流经十个国家，最后在黑海形成宽阔的三角洲，那里生活着鹈鹕和鲟鱼。
指令：请介绍多瑙河从源头到三角洲的流程。

文字：布朗女士您好，感谢您的录用通知。我很高兴接受这个职位，期待五月一日入职。此致敬礼，小田
指令：替小田写一封短信，接受布朗女士提供的职位。

文字：游泳池工作日九点到十九点开放，星期日十点到十七点开放。六岁以下儿童免费。
指令：游泳池什么时候开放，哪些人免费？

文字：这座桥因为锈蚀使钢缆变弱而关闭，工程师担心钢缆会在暴风雨中断裂。
指令：解释这座桥为什么关闭。

文字：{text}
指令：""",
}
"""Templates by language: the instruction for a text."""
CURATE = {
    "en": """\
Grade how well each answer does what its instruction asks, as an AI assistant should: 1 off the topic, incomplete or \
only advertising; 2 answers parts of it; 3 helpful, but written for another purpose; 4 a good answer from an \
assistant's view with small flaws; 5 a perfect, clear and focused answer by an expert.
---
Answer: Rinse the rice, add one and a half times as much water, bring it to the boil, cover it, and leave it on the \
lowest heat for twelve minutes.
Instruction: How do I cook rice in a pot so that it does not stick?
Grade: 5

Answer: Click here to subscribe to our newsletter! Contact. Imprint. All rights reserved.
Instruction: Which birds can be seen in winter?
Grade: 1

Answer: The swimming pool is open from nine to seven on weekdays and from ten to five on Sundays.
Instruction: When is the swimming pool open?
Grade: 5

Answer: The largest city of Italy is Rome.
Instruction: Name the three largest cities of Italy and their inhabitants.
Grade: 2

Answer: A comma parts the pieces of a sentence, such as the words of a list, so that it is easy to read.
Instruction: Explain what a comma is for.
Grade: 4

Answer: The steam engine was improved by James Watt in the eighteenth century.
Instruction: Write a recipe for tomato soup.
Grade: 1

Answer: The bridge was closed because rust had weakened its cables, and they could have broken in a storm.
Instruction: Explain why the bridge was closed.
Grade: 5

Answer: Last summer my brother and I walked up a mountain with boots, water and a map, and the view was wonderful.
Instruction: What should I take on a hike in the mountains?
Grade: 3

Answer: Bees visit flowers to collect nectar, and on the way they carry pollen from one flower to the next.
Instruction: How do I get a new passport?
Grade: 1

Answer: Read about the company beforehand, and be there ten minutes early.
Instruction: Give two tips for a job interview.
Grade: 5

Answer: {answer}
Instruction: {instruction}
Grade: {grade:1|2|3|4|5}""",
    "zh": """\
请评价每个回答作为智能助手的回答有多好：1分，离题、不完整或只是广告；2分，只回答了一部分；3分，有帮助，但不是为这个问题写的；\
4分，从助手的角度看是好回答，有小缺点；5分，专家写出的完美、清楚、切题的回答。
---
回答：把米淘净，加一倍半的水烧开，盖上锅盖，用最小的火焖十二分钟。
指令：用锅煮米饭怎样才不会粘锅？
分数：5

回答：点击这里订阅我们的新闻！联系我们。版权所有。
指令：冬天能看到哪些鸟？
分数：1

回答：游泳池工作日九点到十九点开放，星期日十点到十七点开放。
指令：游泳池什么时候开放？
分数：5

回答：意大利最大的城市是罗马。
指令：说出意大利最大的三个城市和它们的人口。
分数：2

回答：逗号把句子分成几部分，例如列举的词语，这样句子更容易读懂。
指令：解释逗号的用处。
分数：4

回答：瓦特在十八世纪改良了蒸汽机。
指令：写一份番茄汤的做法。
分数：1

回答：这座桥因为锈蚀使钢缆变弱而关闭，钢缆可能会在暴风雨中断裂。
指令：解释这座桥为什么关闭。
分数：5

回答：去年夏天我和弟弟带着登山鞋、水和地图上了山，风景美极了。
指令：去山里徒步应该带什么？
分数：3

回答：蜜蜂飞到花上采蜜，同时把花粉从一朵花带到另一朵花。
指令：怎样办理新护照？
分数：1

回答：事先了解这家公司，并提前十分钟到场。
指令：给出两条面试建议。
分数：5

回答：{answer}
指令：{instruction}
分数：{grade:1|2|3|4|5}""",
}
"""Templates by language: the five-point scale of self-curation. The answer comes before the instruction. With the
default model this distinguishes the answers of 48 English seeds from the answers of the next seed with an AUC of 0.69.
With the instruction first, the AUC is 0.63."""
SEED_SYSTEM = {"en": "Answer as a helpful AI assistant does.", "zh": "请以智能助手的方式回答。"}
"""System sentence of samples from the answers of seeds, with `system_sentences`."""
DOCUMENT_SYSTEM = {"en": "Answer with knowledge found on the web.", "zh": "请用网络上的知识回答。"}
"""System sentence of samples from documents."""
HEADING = re.compile(r"#{1,6}[^\n]*")
BLANK = re.compile(r"\n[^\S\n]*\n")

_STATED = re.compile(
    r"(?:the|this|that|these|those|it|there|he|she|they|an?|i(?: a|['’])m|we(?: a|['’])re)\b", re.IGNORECASE
)
"""Beginnings of a sentence that states something and asks for nothing."""
_SENTENCE = re.compile(r"(?<=[.!])\s+")


class Backtranslation(EachInput):
    """Write the instruction for an answer, which is a segment of a document or a seed's answer, and rate the pair.

    Each document is used, or each seed's answer if there are no documents. A document is cut at headings and blank
    lines into segments of at most `max_words`. Each segment becomes a row; the tag `segment` is its span of characters.
    The pair is graded after the filters that judge only an instruction. The score `curation`, 1 to 5, is the sum of p_i
    * i over the grades i with their probabilities p_i, so it cannot fail to parse.

    A second iteration is a second recipe with the same input. Fine-tune on the samples that the first recipe kept, and
    set `generate.engine.model` of the second recipe to the tuned model, which then gives the grades.

    Source: Li et al. 2024, Self-Alignment with Instruction Backtranslation, arXiv:2308.06259, sections 2 and 3.1 (keep
    grade 5, or at least 4; two iterations; distinct system sentences for seed and web data). Departures: the model that
    writes instructions is prompted with five texts and their instructions, instead of being tuned on reversed seeds
    (such a model can be named in `engine`); a second iteration writes the instructions again; the expected grade under
    constrained decoding replaces a sampled grade after a rationale; system sentences are off by default, because models
    are trained and asked without them here; the seeds are not mixed in, because they are the job's input; an English
    instruction that only states something is dropped.
    """

    revision: ClassVar[int] = 2  # an instruction that only states something is dropped
    kind: Literal["backtranslation"] = "backtranslation"
    feeds: ClassVar[tuple[Input, ...]] = ("documents", "seeds")
    min_words: int = Field(default=10, ge=1)
    """Shorter segments and answers are left out."""
    max_words: int = Field(default=250, gt=0)
    """Largest number of words of a segment. A longer paragraph or answer is left out."""
    max_segments: int = Field(default=4, gt=0)
    """Largest number of segments of one document. If there are more, some are chosen at random."""
    max_tokens: int = Field(default=96, gt=0)
    """Largest number of tokens of the instruction."""
    temperature: float = Field(default=0.5, ge=0, le=2)
    """Temperature of the instruction."""
    min_score: float = Field(default=2.2, ge=1, le=5)
    """Pairs with a lower expected grade are dropped. The default model's grades are between 2.1 and 2.5. For a model
    that grades well, 4 or 4.5 is closer to the paper."""
    system_sentences: bool = False
    """Whether samples begin with a system turn that distinguishes seeds from documents."""
    prompts: Annotated[Prompts, slots("text")] = by_language(INSTRUCT)
    """Templates by language: from a text to its instruction."""
    curation_prompts: Annotated[Prompts, slots("instruction", "answer", grade=NUMBERS)] = by_language(CURATE)
    """Templates by language: the grade of a pair."""
    seed_prompts: Annotated[Prompts, slots()] = by_language(SEED_SYSTEM)
    """System sentence of samples from seeds, by language."""
    document_prompts: Annotated[Prompts, slots()] = by_language(DOCUMENT_SYSTEM)
    """System sentence of samples from documents, by language."""

    def spans(self, parent: Sample) -> list[tuple[int, int]]:
        """Return the parts of a parent's text that get an instruction, as [begin, end) in characters."""
        if parent.answer:
            fits = self.min_words <= num_words(parent.answer) <= self.max_words
            return [(0, len(parent.answer))] if fits else []
        return segments(parent.instruction, self.min_words, self.max_words)

    async def expand(self, parents: Sequence[Sample], ask: Ask, rng: Random) -> list[Draft]:
        """Return one draft for each segment, ending with the user's turn."""
        parent, language = parents[0], language_of(parents[0])
        found = self.spans(parent)
        if not found:
            return [Draft(tags={"language": language}, dropped=f"{self.kind}: no text of fitting length")]
        spans = sorted(rng.sample(found, min(self.max_segments, len(found))))
        texts = [_text(parent)[begin:end] for begin, end in spans]
        replies = await gather(*(self._instruct(text, language, ask) for text in texts))
        return [self._draft(parent, language, span, reply) for span, reply in zip(spans, replies, strict=True)]

    async def _instruct(self, text: str, language: str, ask: Ask) -> Reply:
        prompt = template_for(self.prompts, language).begin(text=flat(text))
        stop = ("\n",)
        return await ask(**prompt, max_tokens=self.max_tokens, temperature=self.temperature, stop=stop, stop_loops=True)

    def _draft(self, parent: Sample, language: str, span: tuple[int, int], reply: Reply) -> Draft:
        instruction = reply.text.strip().strip('"“”').strip()
        rules = {
            **cut_off(reply.finish, "instruction"),
            "instruction is empty": not tokens(instruction),
            "instruction is the text": tokens(instruction) == tokens(_text(parent)[slice(*span)]),
            "instruction asks for nothing": asks_nothing(instruction),
        }
        reason = refuse(rules)
        systems = self.seed_prompts if parent.answer else self.document_prompts
        system = [Message("system", template_for(systems, language).text())] if self.system_sentences else []
        return Draft(
            (*system, Message("user", instruction)) if instruction else (),
            {"language": language, "segment": f"{span[0]}:{span[1]}"},
            f"{self.kind}: {reason}" if reason else None,
        )

    async def answer(self, draft: Draft, ask: Ask) -> Draft:
        """Use the segment as the answer, and rate the pair."""
        begin, end = map(int, draft.tags["segment"].split(":"))
        text, instruction = _text(ask.parents[0])[begin:end].strip(), draft.messages[-1].text
        template = template_for(self.curation_prompts, draft.tags["language"])
        prompt = template.begin("grade", instruction=flat(instruction), answer=flat(text))
        reply = await choose(ask, prompt, max_tokens=1)
        whole = replace(draft, messages=(*draft.messages, Message("assistant", text)))
        if not reply.choices:
            return replace(whole, dropped=f"{self.kind}: {reply.finish}")
        score = expected(reply.choices)
        below = f"{self.kind}: curated away" if score < self.min_score else None
        return replace(whole, scores={**draft.scores, "curation": score}, dropped=below)


def _text(parent: Sample) -> str:
    """Return the text of a parent: a seed's answer, or a document, which has only a user's turn."""
    return parent.answer or parent.instruction


def segments(text: str, fewest: int, most: int) -> list[tuple[int, int]]:
    """Return runs of complete paragraphs with `fewest` to `most` words, as [begin, end) in characters.

    Headings separate runs and are left out.
    """
    found: list[tuple[int, int]] = []
    begin, end, words = 0, 0, 0
    for first, last in _paragraphs(text):
        heading = HEADING.fullmatch(text, first, last) is not None
        more = num_words(text[first:last])
        if heading or (end > begin and words + more > most):
            found.append((begin, end))
            begin, end, words = first, first, 0
        if not heading:
            begin = first if end == begin else begin
            end, words = last, words + more
    found.append((begin, end))
    return [(b, e) for b, e in found if fewest <= num_words(text[b:e]) <= most]


def _paragraphs(text: str) -> list[tuple[int, int]]:
    """Return the paragraphs of a text without outer blanks, as [begin, end) in characters."""
    edges = [(0, 0), *(match.span() for match in BLANK.finditer(text)), (len(text), len(text))]
    found = []
    for (_, begin), (end, _) in pairwise(edges):
        body = text[begin:end].strip()
        if body:
            first = begin + text[begin:end].index(body)
            found.append((first, first + len(body)))
    return found


def asks_nothing(text: str) -> bool:
    """Return whether each sentence of an English text only states something, such as `The bridge is closed`.

    This is true of 9 of 70 instructions by the builtin model, and of none of 7,720 instructions by people.
    """
    sentences = [part for part in _SENTENCE.split(text.strip()) if part]
    return not re.search(r"[?:]", text) and all(_STATED.match(part) for part in sentences)
