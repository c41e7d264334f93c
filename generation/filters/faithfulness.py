"""Faithfulness: the passages from which a sample was made must support its answer."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import one_line
from gristmill.cluster.text.template import Prompts, by_language, parse, slots, template_for
from gristmill.cluster.text.words import tokens
from gristmill.generation.contracts import Ask, ModelFilter, Verdict
from gristmill.generation.prompting.choices import choose

PROMPTS = {
    "en": """\
For each passage, say of the answer whether the passage supports all of it: YES when everything that the answer says \
stands in the passage or follows from it, NO when any of it is missing there or contradicts it.
---
Passage: The lighthouse at Kesh Point was built in 1871 from granite. Its lamp burned whale oil until 1884, when the \
keepers changed to paraffin because the smoke blackened the glass.
Question: When did the keepers change to paraffin?
Answerable: YES
Answer: They changed to paraffin in 1884.
Supported: YES

Passage: To dry mint, cut the stems in the morning and hang them in a dark, airy room for ten days. Mint dried in the \
sun is ready in two days but loses its colour.
Question: How long does mint take to dry in a dark room?
Answerable: YES
Answer: It takes two days, after which it should be kept in the refrigerator.
Supported: NO

Passage: The ferry to Holm leaves Arden at eight, noon and six. The crossing takes forty minutes.
Question: Who owns the ferry to Holm?
Answerable: NO
Answer: The ferry belongs to the Arden Shipping Company, founded by two brothers.
Supported: NO

Passage: Red clover is sown between the rows in spring. Its roots bind nitrogen, so that the wheat of the next year \
needs less manure, and its flowers feed the bees.
Question: Why does wheat need less manure after red clover?
Answerable: YES
Answer: Because the roots of the clover bind nitrogen in the soil.
Supported: YES

Passage: The bridge of Orun carries the road over the river on five stone arches. The middle arch fell in the flood of \
1932 and was built again in concrete.
Question: What happened to the bridge of Orun in 1932?
Answerable: YES
Answer: A flood destroyed the whole bridge, and a new one was built of steel.
Supported: NO

Passage: The library lends books for four weeks. Whoever returns one late pays ten cents a day, but never more than \
two euros.
Question: What does it cost to return a book late?
Answerable: YES
Answer: Ten cents a day, and two euros at most.
Supported: YES

Passage: {passage}
Question: {question}
Answerable:{answerable: YES| NO}
Answer: {answer}
Supported:{supported: YES| NO}""",
    "zh": """\
请判断每段文字是否支持后面的回答：回答中的内容全部见于文字或能由文字推出，答“是”；\
有任何内容文字中没有或与之矛盾，答“否”。
---
文字：白塔灯塔建于1871年，用花岗岩砌成。灯一直烧鲸油，到1884年因为烟熏黑玻璃才改用煤油。
问题：看守人是哪一年改用煤油的？
可答：是
回答：1884年。
支持：是

文字：晾干薄荷要在早上剪下枝条，挂在阴暗通风的房间里十天。太阳下晒两天就干，但会褪色。
问题：薄荷在阴暗的房间里要晾多久？
可答：是
回答：要晾两天，之后应当放进冰箱保存。
支持：否

文字：开往霍姆岛的渡船八点、十二点和十八点从阿登出发，航程四十分钟。
问题：开往霍姆岛的渡船归谁所有？
可答：否
回答：归两兄弟创办的阿登航运公司所有。
支持：否

文字：春天在行间种下红三叶草。它的根能固氮，第二年种小麦就可以少施肥，花还能供蜜蜂采蜜。
问题：种过红三叶草之后，小麦为什么可以少施肥？
可答：是
回答：因为红三叶草的根能固氮。
支持：是

文字：奥伦桥有五个石拱，公路从桥上过河。中间的桥拱在1932年的洪水中坍塌，后来用混凝土重建。
问题：1932年奥伦桥发生了什么？
可答：是
回答：洪水冲毁了整座桥，后来新建了一座钢桥。
支持：否

文字：图书馆的书可以借四个星期。逾期每天付一角，但最多付二十元。
问题：还书逾期要付多少钱？
可答：是
回答：每天一角，最多二十元。
支持：是

文字：{passage}
问题：{question}
可答：{answerable:是|否}
回答：{answer}
支持：{supported:是|否}""",
}
"""Templates by language: whether a passage supports an answer. The first word means yes."""

_NAME = re.compile(r"\d+|(?<=[^\s.!?:\"“(]\s)[A-Z][^\W\d_]+")


class Faithfulness(ModelFilter):
    """Drop an answer if its words are not in the sample's passages, or if the model judges that they do not support it.

    Passages are the parents without an answer, except the question itself: chunks of a document, retrieved texts. A
    sample without passages passes. The score `extractive` is the share of the answer's words (characters in Chinese)
    that are in the passages or the question. It costs no call, and the model is not asked about samples that it drops.
    The score `faithfulness` is the model's probability of YES against NO. With the setting `relevance`, the score
    `relevance` is the probability that the passages answer the question.

    Measured on 14 true and 14 false answers to questions on the documents of `examples/`: the share of words separates
    them with an AUC of 0.93, and a threshold of 0.8 drops 11 false answers and 1 true answer. The 135M default model
    reaches 0.59, or 0.71 after it was asked for the relevance, and gives YES a probability of 0.6 to 0.9. So only the
    rules are useful with this model.

    Source: Es et al. 2023, RAGAS, arXiv:2309.15217, section 3 (faithfulness: what the context supports; the extractive
    share is ours); YES and NO decoded under constraint as InstructLab's pipelines ask for them. Departures: the whole
    answer is judged at once instead of its statements one by one, and by a probability instead of a word; the model
    continues a list of judged answers in its own turn.
    """

    kind: Literal["faithfulness"] = "faithfulness"
    min_score: float = Field(default=0.5, ge=0, le=1)
    """Samples with a smaller `faithfulness` are dropped."""
    min_extractive: float = Field(default=0.5, ge=0, le=1)
    """Smallest share of the answer's words that must be in the passages or the question; 0 turns the rule off."""
    exact_names: bool = False
    """Whether each number of the answer, and each capitalised word within a sentence, must also be in the passages or
    the question."""
    relevance: bool = False
    """Whether the model is first asked, in another call, if the passages answer the question."""
    min_relevance: float = Field(default=0.5, ge=0, le=1)
    """Samples with a smaller score `relevance` are dropped."""
    prompts: Annotated[Prompts, slots("passage", "question", "answer", may=("answerable",), supported=2)] = by_language(
        PROMPTS
    )
    """Templates by language. The line with `{answerable: YES| NO}` is used only with `relevance`. The first word means
    yes."""

    @model_validator(mode="after")
    def _asks_for_relevance(self) -> Self:
        lacking = [name for name, text in self.prompts.items() if len(parse(text).choices("answerable")) != 2]
        if self.relevance and lacking:
            raise ValueError(f"prompts.{lacking[0]}: lacks {{answerable: YES| NO}}, must have it with `relevance`")
        return self

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the last answer by the passages that are among the parents."""
        texts = (parent.instruction for parent in ask.parents if not parent.answer)
        passage = "\n".join(text for text in texts if not sample.instruction.endswith(text))
        if not passage:
            return Verdict()
        share = extractive(sample.answer, f"{passage}\n{sample.instruction}")
        scores = {"extractive": share}
        reason = self._ruled(sample, passage, share)
        if reason:
            return Verdict(scores, f"{self.kind}: {reason}")
        template = template_for(self.prompts, language_of(sample))
        values = {"passage": one_line(passage), "question": one_line(sample.instruction.replace(passage, ""))}
        if self.relevance:
            reply = await choose(ask, template.begin("answerable", **values), max_tokens=8)
            if not reply.choices:
                return Verdict(scores, f"{self.kind}: {reply.finish}")
            yes = template.choices("answerable")[0]
            scores["relevance"] = reply.choices[yes]
            if scores["relevance"] < self.min_relevance:
                return Verdict(scores, f"{self.kind}: passage does not answer the question")
            values["answerable"] = yes
        else:
            template = template.without("answerable")
        reply = await choose(ask, template.begin("supported", **values, answer=one_line(sample.answer)), max_tokens=8)
        if not reply.choices:
            return Verdict(scores, f"{self.kind}: {reply.finish}")
        scores["faithfulness"] = chance = reply.choices[template.choices("supported")[0]]
        return Verdict(scores, f"{self.kind}: not supported by the passage" if chance < self.min_score else None)

    def _ruled(self, sample: Sample, passage: str, share: float) -> str | None:
        """Return why the rules drop an answer, or None."""
        if share < self.min_extractive:
            return "few words are in the passage"
        there = {*tokens(f"{passage}\n{sample.instruction}")}
        lacks = self.exact_names and not names(sample.answer) <= there
        return "number or name is not in the passage" if lacks else None


def extractive(answer: str, passage: str) -> float:
    """Return the share of an answer's words that are in a passage, 0 to 1; 0 for an answer without words."""
    said, there = tokens(answer), frozenset(tokens(passage))
    return sum(word in there for word in said) / max(1, len(said))


def names(text: str) -> set[str]:
    """Return, in lower case, the numbers of a text and its capitalised words within sentences."""
    found = _NAME.findall(text)
    return {token for word in found for token in tokens(word)}
