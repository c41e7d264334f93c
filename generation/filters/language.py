"""Language: a sample must be in the language that was asked for."""

from typing import ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.language import probabilities
from gristmill.generation.contracts import Ask, Filter, Stage, Verdict


class Language(Filter):
    """Drop a sample whose instruction or answer is in none of the languages.

    Source: Joulin et al. 2016, fastText, arXiv:1607.01759 (the small lid.176 model of 176 languages, in the package).
    Departures: Chinese is told by its characters; texts under three words are not judged, because `Paris` is as good an
    answer in English as in German.
    """

    kind: Literal["language"] = "language"
    stages: ClassVar[tuple[Stage, ...]] = ("instruction", "sample")
    languages: tuple[str, ...] = ()
    """Languages to keep, as ISO 639-1; by default the one in the sample's tag `language`, or any without the tag."""
    min_probability: float = Field(default=0.25, ge=0, le=1)
    """Least probability of these languages together; short English sentences often get 0.3 to 0.5."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the instruction, and the answer where there is one."""
        del ask
        tagged = sample.tags.get("language")
        wanted = self.languages or ((tagged,) if tagged else ())
        texts = {"instruction": sample.instruction, "answer": sample.answer}
        for what, text in texts.items():
            found = probabilities(text) if wanted else {}
            if found and sum(found.get(language, 0.0) for language in wanted) < self.min_probability:
                return Verdict(dropped=f"{self.kind}: {what} not in {' or '.join(wanted)}")
        return Verdict()
