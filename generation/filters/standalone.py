"""Standalone: a question must be understood without a text that is not there."""

import re
from typing import ClassVar, Literal

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.parts import request
from gristmill.generation.contracts import Ask, Filter, Stage, Verdict

_WRITING = (
    r"(?:passage|paragraph|text|article|excerpt|document|author|narrator|speaker|stanza|dialogue|conversation|"
    r"sentence|story|poem|chapter|section|table|figure|picture|image|photo|code|function|snippet|list|quote|scenario)s?"
)
_MORE = r"(?: \w+)? (?:of|that|which|who|whose|in(?! more\b)|with|from|between|where|you|i|we)\b"
"""Words after `the two` that say which two."""
_AUXILIARY = r"(?:did|does|do|was|were|is|are|has|have|had|can|could|will|would|should)"
ENGLISH = (
    rf"\b(?:this|these|following|above|given|provided|preceding|previous) (?:\w+ )?{_WRITING}\b",
    rf"\b(?:in|from|to|by|of|does|did) the {_WRITING}\b(?!{_MORE})",
    r"\b(?:mentioned|described|stated|shown|listed|discussed|given|quoted) (?:above|below|here|earlier|previously)\b",
    rf"\bthe (?:two|three|four|latter|former)\b(?! (?:\w+ )?(?:\w+est|most|main|major)\b)(?!{_MORE})",
    rf"\bthe other (?:one|two|person|man|woman|boy|girl|character|side|party|group|people)\b(?!{_MORE})",
    r"\b(?:both|neither|all|each|one) of (?:them|these|those)\b(?! (?:who|which|that)\b)",
    (
        rf"^(?:\w+ )?(?:who|whom|what|when|where|why|how|which)\b(?:,? (?-i:[a-z]+)){{0,6}}?,? {_AUXILIARY}(?:n't)? "
        rf"(?:he|she|they(?! call)|him|her|his|their|those|these)\b(?! (?:who|days)\b)"
    ),
    r"^if (?:he|she|they)\b",
    rf"^{_AUXILIARY} (?:he|she|they|his|her|their|those|these)\b(?! (?:who|days)\b)",
)
"""Phrases that point at something, in a sentence that nothing goes before."""
CHINESE = (
    (
        r"(?:这|那|该|此|上|以上|下|以下|上述|前述|给定的?|所给的?)(?:两|几|一|些)?(?:个|段|篇|句|首|则|幅|张|节|份)?"
        r"(?:话|文字|文章|文本|段落|句子|材料|短文|图片|图表|表格|故事|对话|诗歌?|文件|小说|代码|引文|列表|选段)"
    ),
    r"文中|本文|上文|该文|此文|原文中|段落中|文章(?:中|里|的作者)|作者(?:认为|指出|提到|在|对|为什么|是怎么|如何|想)",
    r"上述|前面提到|上面提到|如上所述|以上(?:提到|内容|信息|几)",
    r"这(?:两|三|几)(?:个|位|者|种|名|座|件|部|家|类)|[前后]者",
    r"另(?:外)?(?:一个人|一位|一方|那个)|(?:这|那)(?:个|位)(?:人|男人|女人|角色|孩子)",
    r"^(?:请问)?(?:为什么|为何|怎么|如何|什么时候|当时)?(?:他|她|他们|她们|它们)(?!人|乡|国|律)",
)
_POINTING = tuple(re.compile(pattern, re.IGNORECASE) for pattern in (*ENGLISH, *CHINESE))
_INTRODUCED = re.compile(r"\b(?:and|or|two|three|four|both|an? \w)|和|与|跟|及|、|两|一[个位篇段首句]", re.IGNORECASE)
"""Words before a phrase that name what it can point at."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")
_QUOTED = re.compile(r"[:：]\s*\S|[\"“”「『‘《].{4,}?[\"”」』’》]", re.DOTALL)
"""A text that an instruction brings along on the same line."""


class Standalone(Filter):
    """Drop a question that points at what is not there: `the two`, `this paragraph`, `why did she`, `上文`, `这段话`.

    Questions that are made from a text or from another question easily do. The first sentence alone is judged, because
    a later one may point at it; so is no instruction that brings a text along, in quotes, after a colon, below the
    request or as the system's turn.

    Source: rules of our own, in the manner of those that drop questions with `the passage` from sets made from texts.
    """

    kind: Literal["standalone"] = "standalone"
    stages: ClassVar[tuple[Stage, ...]] = ("instruction",)

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the instruction."""
        del ask
        text = sample.instruction.strip()
        told = any(turn.role == "system" for turn in sample.messages)
        if told or request(text) != text or _QUOTED.search(text):
            return Verdict()
        first = _SENTENCE.split(text)[0]
        points = any((hit := p.search(first)) and not _INTRODUCED.search(first[: hit.start()]) for p in _POINTING)
        return Verdict(dropped=f"{self.kind}: points at what is not there" if points else None)
