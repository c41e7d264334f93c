"""Length: limits on the number of words of instructions and answers."""

from typing import ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.parts import request
from gristmill.cluster.text.replies import refuse
from gristmill.cluster.text.words import num_words
from gristmill.generation.contracts import Ask, Filter, Stage, Verdict


class Length(Filter):
    """Drop a sample if its instruction or its answer is too short to teach or too long to train on.

    Source: Wang et al. 2023, Self-Instruct, arXiv:2212.10560, released code (instructions of 4 to 150 words).
    Departures: the words of an instruction are counted without its input, as in the paper, where the input has a field
    of its own; answers are bounded too; 1.5 Chinese characters count as a word, because a Chinese text has no spaces.
    """

    revision: ClassVar[int] = 2
    kind: Literal["length"] = "length"
    stages: ClassVar[tuple[Stage, ...]] = ("instruction", "sample")
    min_instruction_words: int = Field(default=3, ge=0)
    """Smallest number of words of the first user turn."""
    max_instruction_words: int = Field(default=150, gt=0)
    """Largest number of words of the paragraph with the request in the first user turn; pasted text does not count."""
    max_pasted_words: int = Field(default=1000, gt=0)
    """Largest number of words of the rest of the first user turn: the document, table or code of the instruction."""
    min_answer_words: int = Field(default=1, ge=0)
    """Smallest number of words of the last assistant turn."""
    max_answer_words: int = Field(default=400, gt=0)
    """Largest number of words of the last assistant turn."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the instruction, and the answer if there is one."""
        del ask
        whole, asked, said = (num_words(t) for t in (sample.instruction, request(sample.instruction), sample.answer))
        rules = {
            "instruction too short": whole < self.min_instruction_words,
            "instruction too long": asked > self.max_instruction_words,
            "pasted text too long": whole - asked > self.max_pasted_words,
            "answer too short": bool(sample.answer) and said < self.min_answer_words,
            "answer too long": said > self.max_answer_words,
        }
        reason = refuse(rules)
        return Verdict(dropped=f"{self.kind}: {reason}" if reason else None)
