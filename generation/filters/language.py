"""Language: a sample must be in the language that was asked for."""

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.language import probabilities
from gristmill.cluster.text.parts import prose, request
from gristmill.generation.contracts import Ask, Filter, Stage, Verdict

NAMES = {
    "ar": r"\barabic\b|阿拉伯[语文]",
    "de": r"\bgerman\b|德[语文]",
    "el": r"\bgreek\b|希腊[语文]",
    "en": r"\benglish\b|英[语文译]",
    "es": r"\bspanish\b|西班牙[语文]|西语",
    "fr": r"\bfrench\b|法[语文]",
    "hi": r"\bhindi\b|印地[语文]",
    "it": r"\bitalian\b|意大利[语文]|意语",
    "ja": r"\bjapanese\b|日[语文]",
    "ko": r"\bkorean\b|韩[语文]|韓[語文]",
    "la": r"\blatin\b|拉丁[语文]",
    "nl": r"\bdutch\b|荷兰[语文]",
    "pt": r"\bportuguese\b|葡萄牙[语文]|葡语",
    "ru": r"\brussian\b|俄[语文]",
    "th": r"\bthai\b|泰[语文]",
    "tr": r"\bturkish\b|土耳其[语文]",
    "vi": r"\bvietnamese\b|越南[语文]|越语",
    "zh": r"\b(?:chinese|mandarin|cantonese)\b|中[文译]|[汉漢][语語字]|译中|文言文|白话文",
}
"""Names of languages in an instruction, in English and Chinese."""
ANY = r"\b(?:translat|dialect|foreign language|pinyin|romani[sz])|翻译|翻譯|外语|方言|拼音|罗马字|译[成为]"
"""Words of an instruction that allow an answer in any language, if the instruction names none."""


class Language(Filter):
    """Drop a sample if its instruction or its answer is in none of the wanted languages.

    In an instruction, only the paragraph with the request is judged, not the text pasted below it. An answer may also
    be in a language that the instruction names, as in `Translate into German`, or in the language of the pasted text.
    Code, formulas and numbers are in no language and pass.

    Source: Joulin et al. 2016, fastText, arXiv:1607.01759 (the small lid.176 model of 176 languages, in the package).
    Departures: Chinese is recognised by its characters; texts under three words are not judged, because `Paris` is an
    answer in English and in German.
    """

    revision: ClassVar[int] = 2
    kind: Literal["language"] = "language"
    stages: ClassVar[tuple[Stage, ...]] = ("instruction", "sample")
    languages: tuple[str, ...] = ()
    """Languages to keep, as ISO 639-1 codes. By default the language in the sample's tag `language`; without the tag,
    any language."""
    min_probability: float = Field(default=0.25, ge=0, le=1)
    """Smallest sum of the probabilities of these languages. Short English sentences often get 0.3 to 0.5."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the instruction, and the answer if there is one."""
        del ask
        tagged = sample.tags.get("language")
        wanted = self.languages or ((tagged,) if tagged else ())
        if not wanted:
            return Verdict()
        if not self._is_in(wanted, prose(request(sample.instruction))):
            return Verdict(dropped=f"{self.kind}: instruction not in {' or '.join(wanted)}")
        if sample.answer and not self._answers(sample, wanted):
            return Verdict(dropped=f"{self.kind}: answer not in {' or '.join(wanted)}")
        return Verdict()

    def _answers(self, sample: Sample, wanted: Iterable[str]) -> bool:
        """Return whether the answer is in a wanted language, or in a language that the instruction allows."""
        answer = prose(sample.answer)
        if self._is_in(wanted, answer):
            return True
        named = [language for language, pattern in NAMES.items() if re.search(pattern, sample.instruction, re.I)]
        if not {*named} - {*wanted} and re.search(ANY, sample.instruction, re.IGNORECASE):
            return True
        return self._is_in({*wanted, *named, *_pasted(sample.instruction)}, answer)

    def _is_in(self, languages: Iterable[str], text: str) -> bool:
        found = probabilities(text)
        return not found or sum(found.get(language, 0.0) for language in languages) >= self.min_probability


def _pasted(instruction: str) -> Iterator[str]:
    """Yield the likeliest language of the text that is pasted below a request."""
    asked, whole = request(instruction), instruction.strip()
    found = probabilities(prose(whole.replace(asked, "", 1))) if len(asked) < len(whole) else {}
    if found:
        yield max(found, key=lambda language: found[language])
