"""Judge: the model grades the sample on a rubric by constrained decoding; the score is the expected grade."""

import asyncio
import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.replies import one_line
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.template import NUMBERS, Prompts, by_language, slots, template_for
from gristmill.generation.contracts import Ask, ModelFilter, Verdict
from gristmill.generation.filters.judge.rubrics import PROMPTS, Rubric
from gristmill.generation.prompting.choices import choose, expected


class Judge(ModelFilter):
    """Grade each sample with the generating model, or with the model that `engine` names, and drop low grades.

    The score is the sum of p_i * i over the grades i, where p_i is the probability of the grade's digit among the
    digits of all grades. So it is finer than the likeliest grade, and it never fails to parse. The score is called
    `judge` for the rubric `quality`. For another rubric it has the rubric's name.

    The model continues a list of graded answers in its own turn. The list is the same for all samples, so it is
    computed once. With the 135M default model this distinguishes the answers of 100 English tasks from the answers of
    the next task with an AUC of 0.68. It is the best of twelve layouts, chosen on these tasks. A rubric in the user's
    turn gave 0.45 on 60 of these tasks. On the other rubrics this model is near chance (0.52 to 0.62), except on
    complexity (0.83 on 8 hard and 8 simple instructions).

    With `votes`, the model first writes that number of reasons, each followed by a constrained grade. The score is then
    the mean of the expected grades, and `…_spread` is their standard deviation; 0 is agreement. Reasons need a larger
    model: the default model distinguishes right from wrong answers better when it grades at once (AUC 0.69 on 60 tasks)
    than after one reason (0.55) or three (0.58).

    Source: Liu et al. 2024, DEITA, arXiv:2312.15685, section 2.2 (expected score from the logits of the score tokens;
    complexity is judged from the instruction, quality with the answer); Yuan et al. 2024, Self-Rewarding Language
    Models, arXiv:2401.10020, section 2 and figure 2 (the model judges its own data; five points that add up; reason
    first, mean of several judgements). Departures: scales of our own, 1 to 5, shown by graded answers; the points of
    the additive rubric are given at once, as one grade from 0 to 5; without votes no sampling, so one call a sample.
    """

    kind: Literal["judge"] = "judge"
    rubric: Rubric = "quality"
    """Rubric of the grade. `complexity` sees only the instruction."""
    min_score: float = Field(default=2.5, ge=0, le=5)
    """Samples with a smaller expected grade are dropped. The default model's grades are between 2.2 and 3.2, its
    additive points between 1.7 and 2.7."""
    votes: int = Field(default=0, ge=0)
    """Number of reasons, each written before a grade; with 0 the grade comes without a reason."""
    max_reason_tokens: int = Field(default=64, gt=0)
    """Largest number of tokens of a reason."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of the reasons."""
    prompts: Annotated[Prompts, slots("instruction", may=("answer", "reason"), grade=NUMBERS)] = by_language(
        PROMPTS, by="rubric"
    )
    """Templates by language; by default the rubric's templates. The line with `{reason}` is used only with votes."""

    @model_validator(mode="after")
    def _has_reasons(self) -> Self:
        lacking = [language for language, text in self.prompts.items() if "{reason}" not in text]
        if self.votes and lacking:
            raise ValueError(f"prompts.{lacking[0]}: lacks {{reason}}, must contain it where there are votes")
        return self

    @property
    def score(self) -> str:
        """Name of the score."""
        return self.kind if self.rubric == "quality" else self.rubric

    def title(self) -> str:
        """Return the kind and the rubric."""
        return f"{self.kind} {self.rubric}"

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Return the expected grade as the score."""
        template = template_for(self.prompts, "zh" if is_chinese(sample.instruction) else "en")
        values = {"instruction": asked(sample), "answer": sample.reply}
        reasons: list[dict[str, str]] = [{}]
        if self.votes:
            prompt = template.begin("reason", **values)
            most, heat = self.max_reason_tokens, self.temperature
            asking = (ask(**prompt, max_tokens=most, temperature=heat, stop=("\n",)) for _ in range(self.votes))
            reasons = [{"reason": one_line(reply.text)} for reply in await asyncio.gather(*asking)]
        else:
            template = template.without("reason")
        prompts = [template.begin("grade", **values, **reason) for reason in reasons]
        return self._verdict(await asyncio.gather(*(choose(ask, prompt, max_tokens=1) for prompt in prompts)))

    def _verdict(self, replies: list[Reply]) -> Verdict:
        grades = [expected(reply.choices) for reply in replies if reply.choices]
        if not grades:
            return Verdict(dropped=f"{self.kind}: {replies[0].finish}")
        mean = sum(grades) / len(grades)
        scores = {self.score: mean}
        if self.votes:
            scores[f"{self.score}_spread"] = math.sqrt(sum((grade - mean) ** 2 for grade in grades) / len(grades))
        what = "below threshold" if self.rubric == "quality" else f"{self.rubric} below threshold"
        return Verdict(scores, f"{self.kind}: {what}" if mean < self.min_score else None)


def asked(sample: Sample) -> str:
    """Return the text that the last answer replies to: the instruction, or all earlier turns if there are several."""
    turns = [turn for turn in sample.messages if turn.role in ("user", "assistant", "tool")]
    if turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    if len(turns) < 2:
        return sample.instruction
    names = {"user": "用户", "assistant": "助手", "tool": "工具"} if is_chinese(sample.instruction) else {}
    return "\n".join(f"{names.get(turn.role, turn.role.capitalize())}: {turn.said}" for turn in turns)
