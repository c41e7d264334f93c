"""Refusal: answers that decline, or speak of being a model, instead of answering."""

import re
from typing import Literal

from pydantic import Field

from cluster.sample import Sample
from generation.contracts import Ask, Filter, Verdict

PATTERNS = (
    r"\b(?:as|i am|i'm)(?: just)? an? (?:helpful )?(?:ai|artificial intelligence|(?:large )?language model|chatbot)\b",
    r"\bi(?:'m| am) (?:not equipped|not able|unable|not capable|here to (?:help|assist|support))\b",
    r"\bi (?:do not|don't) have (?:the capability|the ability|access|personal)",
    r"\bi(?:'m| am) (?:so )?(?:sorry|afraid),? (?:but|i|that|for any|for the|to hear|to inform)\b",
    r"\bi (?:can(?:no|')t|can not|am (?:unable|not able) to|won't) (?:assist|help|answer|provide|comply|access|see|do)",
    r"\b(?:please|can you|could you) (?:please )?(?:provide|share|paste) (?:me with )?(?:the|your|more|some)\b",
    r"作为(?:一个|一名)?(?:人工智能|AI|语言模型|大型语言模型)",
    r"(?:很抱歉|对不起|抱歉)[，,]?\s*(?:但)?(?:我|这)",
    r"我(?:无法|不能|没有办法)(?:回答|提供|帮助|协助|完成|满足|访问|查看|生成)",
    r"请(?:您|你)?(?:先)?提供(?:更多|具体|相关|需要|您|你)",
)
"""Refusals in English and Chinese; a request for the missing text is one too."""


class Refusal(Filter):
    """Drop a sample whose answer begins with a refusal.

    Source: rules in the manner of WizardLM's elimination (Xu et al. 2023, arXiv:2304.12244, section 3.2: "sorry" in a
    short answer). Departures: patterns rather than one word, in two languages, in the first characters only, so that an
    answer may quote an apology further on.
    """

    kind: Literal["refusal"] = "refusal"
    patterns: tuple[str, ...] = PATTERNS
    """Regular expressions, matched without regard to case."""
    first_chars: int = Field(default=160, gt=0)
    """Characters of the answer to look at."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the beginning of the answer."""
        del ask
        head = sample.answer[: self.first_chars].replace("\u2019", "'")
        found = any(re.search(pattern, head, re.IGNORECASE) for pattern in self.patterns)
        return Verdict(dropped=f"{self.kind}: answer declines" if found else None)
