"""Length: limits on the number of words of instructions and answers."""

from typing import ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.words import num_words
from gristmill.generation.contracts import Ask, Filter, Stage, Verdict


class Length(Filter):
    """Drop what is too short to teach or too long to train on.

    Source: Wang et al. 2023, Self-Instruct, arXiv:2212.10560, released code (instructions of 4 to 150 words).
    Departures: answers are bounded too; 1.5 Chinese characters count as a word, where splitting at spaces would count a
    whole Chinese text as one.
    """

    kind: Literal["length"] = "length"
    stages: ClassVar[tuple[Stage, ...]] = ("instruction", "sample")
    min_instruction_words: int = Field(default=3, ge=0)
    """Least words of the first user turn."""
    max_instruction_words: int = Field(default=150, gt=0)
    """Most words of the first user turn."""
    min_answer_words: int = Field(default=1, ge=0)
    """Least words of the last assistant turn."""
    max_answer_words: int = Field(default=400, gt=0)
    """Most words of the last assistant turn."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the instruction, and the answer where there is one."""
        del ask
        bounds = [("instruction", sample.instruction, self.min_instruction_words, self.max_instruction_words)]
        if sample.answer:
            bounds.append(("answer", sample.answer, self.min_answer_words, self.max_answer_words))
        for what, text, fewest, most in bounds:
            words = num_words(text)
            if words < fewest:
                return Verdict(dropped=f"{self.kind}: {what} too short")
            if words > most:
                return Verdict(dropped=f"{self.kind}: {what} too long")
        return Verdict()
