"""Grounded: questions that one or two chunks of a document answer, and answers that use only these chunks."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import cut_off, one_line, refuse
from gristmill.cluster.text.template import Prompt, Prompts, by_language, slots, template_for
from gristmill.cluster.text.words import num_words
from gristmill.generation.contracts import Ask, Draft, EachInput, Input, Snapshot
from gristmill.generation.prompting.search import SearchIndex, index

SOLVED = {
    "en": """\
Read each passage and write questions that it answers, of the kind that is named. A question names what it is about, \
so that it can be understood without the passage. Each answer rests on the passage alone.
---
Passage: The lighthouse at Kesh Point was built in 1871 from granite that was cut on the mainland. Its lamp first \
burned whale oil, but the oil was dear and its smoke blackened the glass, so in 1884 the keepers changed to \
paraffin. Today the lamp is electric, and nobody lives in the tower.
Question (fact): What is the lighthouse at Kesh Point built from?
Answer: It is built from granite that was cut on the mainland.
Question (reason): Why did the keepers of the Kesh Point lighthouse give up whale oil?
Answer: Whale oil was expensive, and its smoke blackened the glass of the lamp.

Passage: To dry mint, cut the stems in the morning when the dew is gone. Tie them in small bundles and hang them \
upside down in a dark, airy room. After ten days the leaves crumble between the fingers. Mint dried in the sun is \
ready in two days, but it loses its colour and much of its taste.
Question (process): How do you dry mint so that it keeps its taste?
Answer: Cut the stems in the morning once the dew is gone, tie them in small bundles, and hang them upside down in a \
dark, airy room for about ten days.
Question (comparison): How does mint dried in the sun differ from mint dried in a dark room?
Answer: Mint dried in the sun is ready in two days instead of ten, but it loses its colour and much of its taste.

Passage 1: The ferry to Holm leaves Arden at eight, noon and six. The crossing takes forty minutes.
Passage 2: The museum on Holm opens at ten and closes at four. The last guided tour begins at three.
Question (connection): Which ferry from Arden must a visitor take at the latest to join the last guided tour of the \
museum on Holm?
Answer: The noon ferry: it arrives at twenty to one, before the tour at three, while the next one leaves only at six.

""",
    "zh": """\
阅读每段文字，写出能由它回答的问题，问题的类型见括号。问题要写明所问的对象，不看文字也能读懂。\
每个回答都只依据这段文字。
---
文字：白塔灯塔建于1871年，石料是从对岸运来的花岗岩。灯最初烧鲸油，但鲸油价格昂贵，烟又熏黑玻璃，所以1884年看守人改用煤油。如今灯塔用电，\
塔里已无人居住。
问题（事实）：白塔灯塔是用什么石料建成的？
回答：是用从对岸运来的花岗岩建成的。
问题（原因）：白塔灯塔的看守人为什么不再使用鲸油？
回答：因为鲸油价格昂贵，而且烟会熏黑灯的玻璃。

文字：晾干薄荷要在早上露水散去之后剪下枝条，扎成小束，倒挂在阴暗通风的房间里。十天之后，叶子用手一捻就碎。放在太阳下晒两天就能干，但颜色和香味\
都会失去不少。
问题（步骤）：怎样晾干薄荷才能保住香味？
回答：早上露水散去之后剪下枝条，扎成小束，倒挂在阴暗通风的房间里，大约晾十天。
问题（比较）：晒干的薄荷和阴干的薄荷有什么不同？
回答：晒干只要两天，阴干要十天，但晒干的薄荷会失去不少颜色和香味。

文字一：从阿登开往霍姆岛的渡船在八点、十二点和十八点出发，航程四十分钟。
文字二：霍姆岛博物馆十点开门，十六点关门，最后一场讲解从十五点开始。
问题（联系）：要赶上霍姆岛博物馆的最后一场讲解，最晚应该从阿登乘几点的渡船？
回答：十二点的渡船。它十二点四十分到达，赶得上十五点的讲解，而下一班十八点才出发。

""",
}
ONE = {
    "en": SOLVED["en"] + "Passage: {passage}\nQuestion ({kind}): {question}\nAnswer:",
    "zh": SOLVED["zh"] + "文字：{passage}\n问题（{kind}）：{question}\n回答：",
}
"""Questions on one passage and their answers, by language."""
TWO = {
    "en": SOLVED["en"] + "Passage 1: {first}\nPassage 2: {second}\nQuestion ({kind}): {question}\nAnswer:",
    "zh": SOLVED["zh"] + "文字一：{first}\n文字二：{second}\n问题（{kind}）：{question}\n回答：",
}
"""Questions on two passages and their answers. The solved cases are the same as in `ONE`, so they are computed once."""
PASSAGE = {
    "en": "Answer from this passage:\n\n{passage}",
    "zh": "请根据下面的文字回答：\n\n{passage}",
}
"""The system turn of a sample that contains its passage, by language."""
KINDS = {
    "fact": "事实",
    "reason": "原因",
    "process": "步骤",
    "comparison": "比较",
    "definition": "定义",
    "consequence": "结果",
    "condition": "条件",
    "summary": "概括",
}
"""Kinds of questions about one passage and their Chinese names."""
CHINESE = {**KINDS, "connection": "联系"}
CONNECTION = "connection"
"""The kind of a question about two passages."""
SILENT = (
    r"\b(?:passage|text|it)s? (?:does|do|did)(?: not|n't) (?:say|state|mention|tell|give|specify|provide)"
    r"|\bnot (?:stated|mentioned|specified|given) in\b|(?:没有|未)(?:提到|提及|说明|给出|写明|说)"
)
"""Expressions of an answer which says that the passage does not contain it."""
MIN_QUESTION_WORDS = 4
NEAR = 32
"""The second chunk is chosen among this many chunks before the first one and this many after it."""


class Grounded(EachInput[SearchIndex | None]):
    """Write questions of various kinds on each chunk of the documents, and answer them from the chunk alone.

    The row's parents are the chunks. The tags `document`, `chunk` and `span` name them; for two chunks a tag has two
    values, such as `"3; 7"`. The tag `question` is the kind of the question. Use this method with the filters
    `standalone`, which drops questions that refer to the passage ("the text", "文中"), and `faithfulness`.

    Source: Lewis et al. 2021, PAQ, arXiv:2102.07033, section 2 (questions from passages, kept when the passage answers
    them); Yang et al. 2018, HotpotQA, arXiv:1809.09600, section 2 (a question that needs two passages, comparison and
    bridge); chunks of 4,000 characters as in synthetic-data-kit's configuration. Departures: no answer is extracted
    first: the question is drafted from the passage and a kind; one call drafts and another call answers, with the same
    prompt, so the chunk is computed once.
    """

    revision: ClassVar[int] = 2  # the filter `standalone` drops questions that refer to the passage
    kind: Literal["grounded"] = "grounded"
    feeds: ClassVar[tuple[Input, ...]] = ("documents", "seeds")
    guards: ClassVar[tuple[str, ...]] = ("standalone", "answer_kind")

    questions: int = Field(default=1, gt=0)
    """Number of questions for each draw of a chunk. They are of different kinds if possible."""
    kinds: tuple[str, ...] = Field(default=tuple(KINDS), min_length=1)
    """Kinds of questions on one chunk, with equal chances. Any words are allowed. The default kinds have Chinese
    names."""
    multi_hop: float = Field(default=0.2, ge=0, le=1)
    """Share of the draws with a question that needs two chunks."""
    second: Literal["document", "corpus"] = "document"
    """Source of the second chunk. `document`: a chunk nearby in the same document. `corpus`: the chunk of all documents
    that is nearest by words (BM25)."""
    with_passage: bool = False
    """Whether the sample contains the passage, as its system turn."""
    max_question_words: int = Field(default=60, gt=0)
    """Longer questions are dropped."""
    max_tokens: int = Field(default=64, gt=0)
    """Largest number of tokens of the question."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of the question."""
    max_answer_tokens: int = Field(default=256, gt=0)
    """Largest number of tokens of the answer."""
    answer_temperature: float = Field(default=0.0, ge=0, le=2)
    """Temperature of the answer."""
    prompts: Annotated[Prompts, slots("passage", "kind", "question")] = by_language(ONE)
    """Templates by language: questions on one passage, and their answers."""
    pair_prompts: Annotated[Prompts, slots("first", "second", "kind", "question")] = by_language(TWO)
    """Templates by language: questions on two passages, and their answers."""
    passage_prompts: Annotated[Prompts, slots("passage")] = by_language(PASSAGE)
    """The system turn that contains the passage, by language."""

    def draw(self, snapshot: Snapshot, turn: int, rng: Random) -> tuple[Sample, ...]:
        """Return the next chunk, and another chunk of its document if the question must need two chunks."""
        chunks = self.inputs(snapshot)
        place = turn % len(chunks)
        first = chunks[place]
        if self.second != "document" or rng.random() >= self.multi_hop:
            return (first,)
        others = [chunk for chunk in _neighbours(chunks, place) if chunk.instruction != first.instruction]
        return (first, rng.choice(others)) if others else (first,)

    async def prepare(self, snapshot: Snapshot, before: SearchIndex | None, ask: Ask) -> SearchIndex | None:
        """Return the index for second chunks, if these come from the whole corpus."""
        if before is not None or self.second != "corpus" or not self.multi_hop:
            return before
        return await index(self.inputs(snapshot), "words", ask)

    def figures(self, prepared: SearchIndex | None) -> Mapping[str, float]:
        """Return the size of the corpus if second chunks come from all of it."""
        return {"corpus": float(len(prepared.samples))} if prepared else {}

    async def expand(self, parents: Sequence[Sample], ask: Ask[SearchIndex | None], rng: Random) -> list[Draft]:
        """Return a draft for each question, ending with the user's turn."""
        found: tuple[Sample, ...] = ()
        if ask.prepared is not None and rng.random() < self.multi_hop:
            hits = ask.prepared.find(parents[0].instruction, None, 1, without={parents[0].id})
            found = tuple(hit.sample for hit in hits)
        passages = (*parents, *found)
        language = language_of(passages[0])
        kinds = _picked(self.kinds, self.questions, rng) if len(passages) == 1 else [CONNECTION]
        replies = await asyncio.gather(*(self._question(passages, kind, language, ask) for kind in kinds))
        drafts: list[Draft] = []
        for kind, (question, finish) in zip(kinds, replies, strict=True):
            reason = self.refusal(question, finish)
            if reason is None and any(question == draft.messages[-1].text for draft in drafts if draft.messages):
                reason = "same question again"
            tags = {"language": language, "question": kind, **_place(passages)}
            messages = self._opened(question, passages, language)
            drafts.append(Draft(messages, tags, f"{self.kind}: {reason}" if reason else None, parents=found))
        return drafts

    async def answer(self, draft: Draft, ask: Ask) -> Draft:
        """Answer from the passages; the draft is dropped if the reply says that they do not contain the answer."""
        known = {passage.id: passage for passage in (*ask.parents, *draft.parents)}
        language, question = draft.tags["language"], draft.messages[-1].text
        reply = await ask(
            **self._prompt(tuple(known.values()), draft.tags["question"], language, question=question),
            max_tokens=self.max_answer_tokens,
            temperature=self.answer_temperature,
            stop=("\n",),
            stop_loops=True,
        )
        whole = self.answered(draft, reply)
        if whole.dropped is None and re.search(SILENT, whole.messages[-1].text, re.IGNORECASE):
            return replace(whole, dropped=f"{self.kind}: passage does not answer it")
        return whole

    def refusal(self, question: str, finish: str) -> str | None:
        """Return why a question is dropped before it is answered, or None."""
        words = num_words(question)
        rules = {
            **cut_off(finish, "question"),
            "no question": not question.endswith(("?", "？")),
            "question too short": words < MIN_QUESTION_WORDS,
            "question too long": words > self.max_question_words,
        }
        return refuse(rules)

    async def _question(self, passages: Sequence[Sample], kind: str, language: str, ask: Ask) -> tuple[str, str]:
        """Return (a question, cut after its first question mark, the finish of the reply)."""
        reply = await ask(
            **self._prompt(passages, kind, language),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=("\n",),
            stop_loops=True,
        )
        text = reply.text.strip()
        whole = re.match(r".*?[?？]+", text, re.DOTALL)
        return (whole[0], "stop") if whole else (text, reply.finish)

    def _prompt(self, passages: Sequence[Sample], kind: str, language: str, **question: str) -> Prompt:
        """Return the prompt for a question of a kind, or for an answer."""
        texts = [one_line(passage.instruction) for passage in passages]
        template = template_for(self.prompts if len(texts) == 1 else self.pair_prompts, language)
        names = ("passage",) if len(texts) == 1 else ("first", "second")
        values = {"kind": CHINESE.get(kind, kind) if language == "zh" else kind, **question}
        return template.begin("" if question else "question", **dict(zip(names, texts, strict=False)), **values)

    def _opened(self, question: str, passages: Sequence[Sample], language: str) -> tuple[Message, ...]:
        """Return the conversation up to the question, with the passage before it if the sample contains it."""
        if not question:
            return ()
        turns = (Message("user", question),)
        if not self.with_passage:
            return turns
        passage = "\n\n".join(passage.instruction for passage in passages)
        return (Message("system", template_for(self.passage_prompts, language).text(passage=passage)), *turns)


def _neighbours(chunks: Sequence[Sample], place: int) -> list[Sample]:
    """Return the chunks near a chunk in the same document. The chunks of a document are consecutive."""
    document = chunks[place].tags.get("document")
    found: list[Sample] = []
    for step in (-1, 1):
        for away in range(1, NEAR + 1):
            there = place + step * away
            if document is None or not 0 <= there < len(chunks) or chunks[there].tags.get("document") != document:
                break
            found.append(chunks[there])
    return found


def _picked(kinds: Sequence[str], count: int, rng: Random) -> list[str]:
    """Return `count` kinds in random order. A kind is repeated only after all kinds were used."""
    rounds = [rng.sample(kinds, len(kinds)) for _ in range(-(-count // len(kinds)))]
    return [kind for some in rounds for kind in some][:count]


def _place(passages: Sequence[Sample]) -> dict[str, str]:
    """Return the tags that name the chunks. The values of two chunks are joined by `; `."""
    tags = {}
    for name in ("document", "chunk", "span", "title"):
        words = [passage.tags.get(name, "") for passage in passages]
        if all(words):
            tags[name] = words[0] if name in ("document", "title") and len({*words}) == 1 else "; ".join(words)
    return tags
