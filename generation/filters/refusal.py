"""Refusal: drop answers that decline, or that talk about being a model, instead of answering."""

import re
from functools import lru_cache
from typing import Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.generation.contracts import Ask, Filter, Verdict

PATTERNS = (
    r"\b(?:as|i am|i'm)(?: just| only)? an? (?:helpful )?(?:ai|artificial intelligence|(?:large )?language model)\b",
    r"\bi(?: am|'m) (?:just |only )?a chatbot\b",
    r"\bi(?:'m| am) (?:not equipped|not able|unable|not capable|here to (?:help|assist|support))\b",
    r"\bi (?:do not|don't) have (?:the capability|the ability|access|personal|feelings|real-time)",
    r"\bi(?:'m| am) (?:so |very )?(?:sorry|afraid),? (?:but|i|that i (?:can|do)|for any|for the|to hear|to inform)\b",
    r"\bi (?:can(?:no|')t|can not|am unable to|won't) (?:directly )?(?:assist|answer|provide|comply|access)\b",
    r"\bi (?:can(?:no|')t|can not|won't) (?:fulfil+|do (?:that|this)|help(?! but\b)(?! \w+ing\b))\b",
    r"\bi (?:can(?:no|')t|can not) (?:directly )?see (?:the|any|your|an?|this|that|images?|pictures?)\b",
    r"\b(?:unfortunately|regrettably),? i(?:'m| am)? (?:can|unable|not able|do not have|don't have)",
    r"\bi (?:must|have to|need to) (?:respectfully )?decline\b",
    r"\bi apologi[sz]e,? but\b",
    r"\bas of my (?:last|latest|knowledge|training)\b|\bmy (?:knowledge|training)(?: data)? (?:cut-?off|ends)",
    r"\b(?:please|can you|could you) (?:please )?(?:provide|share|paste) (?:me with )?(?:the|your|more|some)\b",
    r"(?:作为|我(?:只)?是)(?:一个|一名|一款)?(?:人工智能|AI|(?:大型|大)?语言模型|聊天机器人|智能助手)",
    r"(?:抱歉|对不起)[，,。！!]\s*(?:但)?(?:我|这|作为|您|目前)",
    r"(?:抱歉|对不起)我(?:无法|不能|没办法|没有|不会|不知道|并不)",
    r"我(?:还)?(?:无法|不能|没有办法|没办法)(?:直接|为您|为你|给您|给你)?(?:回答|提供|帮助|协助|完成|满足|访问|查看|生成)",
    r"我(?:没有|不具备)(?:个人|情感|感情|实时|能力|访问)",
    r"截至我的(?:知识|训练)|我的(?:知识|训练数据)(?:截止|更新)",
    r"请(?:您|你)?(?:先)?提供(?:更多|具体|相关|需要|您|你)",
)
"""Refusals in English and Chinese. A request for a missing text and a mention of a training date count as refusals."""


class Refusal(Filter):
    """Drop a sample whose answer begins with a refusal.

    Source: rules in the manner of WizardLM's elimination (Xu et al. 2023, arXiv:2304.12244, section 3.2: "sorry" in a
    short answer). Departures: patterns in two languages instead of one word; only the first characters are read, so an
    answer may quote an apology later.
    """

    kind: Literal["refusal"] = "refusal"
    patterns: tuple[str, ...] = PATTERNS
    """Regular expressions, matched without regard to case."""
    first_chars: int = Field(default=160, gt=0)
    """Number of characters at the beginning of the answer that are read."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the beginning of the answer."""
        del ask
        head = sample.answer[: self.first_chars].replace("\u2019", "'")
        found = any(pattern.search(head) for pattern in joined(self.patterns))
        return Verdict(dropped=f"{self.kind}: answer declines" if found else None)


@lru_cache
def joined(patterns: tuple[str, ...]) -> list[re.Pattern[str]]:
    r"""Return few expressions that find the same texts as the patterns: one for patterns in ASCII, one for the others.

    They take 18 microseconds a text. Twenty searches take 46, and one alternation of all patterns takes 47. The ASCII
    patterns begin with `\b`, which is tried first. Patterns with groups or flags stay separate.
    """
    alone = [pattern for pattern in patterns if re.compile(pattern).groups or re.compile(pattern).flags != re.UNICODE]
    plain = [pattern for pattern in patterns if pattern not in alone]
    scripts = ([p for p in plain if p.isascii()], [p for p in plain if not p.isascii()])
    alternations = ["|".join(f"(?:{pattern})" for pattern in some) for some in scripts if some]
    return [re.compile(pattern, re.IGNORECASE) for pattern in (*alternations, *alone)]
