"""Pairwise: a judge compares the reply of each model with that of the base model, in both orders.

Before it is believed, the judge is tested: on right answers beside answers to other items, or by its own consistency.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.models.engine import Choose, Engine, Reply
from gristmill.cluster.text.template import Prompts, by_language, slots, template_for, write
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Written

SAID = "length"
"""Name of the value that has the length of a reply in characters, and the reply itself."""
JUDGE = "judge"
"""Name in ITEMS, instead of a model's, for the test of the judge itself."""
TESTED = 30
"""Largest number of right answers that the judge is tested on. A judge takes both orders of each."""
FEWEST = 5
"""Smallest number of right answers for this test; with fewer, even a perfect judge would not pass at 5 %."""
PROMPTS = {
    "en": write(
        "Compare two replies to the same request. Judge how correct, helpful and clear they are, not how long.",
        "Request: {request}\nReply A: {first}\nReply B: {second}\nThe better reply is{better: A| B}",
        ("Which month comes after May?", "June.", "Months are parts of a year.", "A"),
        ("Give a synonym of 'big'.", "Small.", "Large.", "B"),
    ),
    "zh": write(
        "比较对同一请求的两个回复，看哪个更正确、更有用、更清楚，不看长短。",
        "请求：{request}\n回复A：{first}\n回复B：{second}\n更好的是{better:A|B}",
        ("五月之后是几月？", "六月。", "月份是一年的一部分。", "A"),
        ("写出“大”的近义词。", "小。", "巨大。", "B"),
    ),
}
"""Templates that ask which of two replies is better, by language. The first choice means the first reply."""


class Pairwise(Written):
    """Score 1 if a judge prefers the reply to the base model's in both orders, 0 if in neither, else 0.5.

    The report has the win rate, the win rate that replies of equal length would have, and the flip rate. The flip rate
    is the share of items for which only the order of the replies decided. The judge should not be related to the models
    that it compares.

    The judge is tested first. If at least 5 items have a right answer, the judge compares up to 30 right answers with
    answers to other items. It must prefer more right answers than wrong ones in both orders (sign test, 5 %). Without
    right answers, more of its choices must stay the same in both orders than change. If the judge fails, the suite has
    no verdict. Small models fail.

    Source: Zheng et al. 2023, Judging LLM-as-a-Judge, arXiv:2306.05685, section 3.4 (both orders; a win in one order is
    a tie); Dubois et al. 2024, Length-Controlled AlpacaEval, arXiv:2404.04475, section 3 (logistic model, its length
    term set to 0). Departures: the likelihood of a letter instead of a written verdict; no term for the item.
    """

    kind: Literal["pairwise"] = "pairwise"
    answered: ClassVar[bool] = False
    judge: Engine = Engine()
    """The engine of the judge. The default model cannot compare replies: set another model, or an endpoint."""
    prompts: Annotated[Prompts, slots("request", "first", "second", better=2)] = by_language(PROMPTS)
    """Templates by language. The first choice of `{better}` means that the first reply is better."""
    max_tokens: int = Field(default=512, gt=0)
    """Largest number of tokens in a reply."""

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return the `length` of the reply, with the reply. A judge gives the suite's own value later."""
        del item, shared
        said = replies[0].text.strip()
        return {SAID: Judgement(float(len(said)), said)}

    def duel(self, item: Item, said: str, base: str) -> list[Choose]:
        """Return the requests to the judge, one for each order of the replies; none if both replies are equal."""
        template = template_for(self.prompts, "zh" if item.chinese else "en")
        asked = "\n".join(turn.text for turn in item.prompt)
        orders = ((said, base), (base, said)) if said != base else ()
        prompts = [template.begin("better", request=asked, first=a, second=b) for a, b in orders]
        return [Choose(prompt["messages"], prompt["choices"], 0, prefix=prompt["prefix"]) for prompt in prompts]

    def known(self, items: Sequence[Item]) -> list[tuple[Item, str]]:
        """Return items that have a right answer, each with an answer to another item; none if they are too few."""
        answered = sorted((item for item in items if item.answer), key=lambda item: item.id)
        found = []
        for place, item in enumerate(answered):
            others = (*answered[place + 1 :], *answered[:place])
            other = next((one.answer for one in others if one.answer not in item.answers), None)
            found += [] if other is None else [(item, other)]
            if len(found) == TESTED:
                break
        return found if len(found) >= FEWEST else []

    def unfit(self, known: Sequence[float], choices: Sequence[float]) -> str:
        """Return why the judge cannot be believed, or the empty string.

        Args:
            known: values of the right answers beside answers to other items: 1 where the judge prefers the right one in
                both orders, 0 where the other, 0.5 where the order decides.
            choices: the values `flip` of all replies that the judge compared.
        """
        right, wrong = sum(value == 1 for value in known), sum(value == 0 for value in known)
        if known and _by_chance(right, wrong):
            return (
                f"the judge is not shown to tell right answers from wrong ones: of {len(known)} it prefers {right} "
                f"right and {wrong} wrong in both orders; set a better judge"
            )
        flips = sum(value == 1 for value in choices)
        if not known and choices and _by_chance(len(choices) - flips, flips):
            return (
                f"the choices of the judge are not shown to depend on the replies: {flips} of {len(choices)} change "
                "with their order; set a better judge"
            )
        return ""

    def verdict(self, item: Item, replies: Sequence[Reply]) -> Judgements:
        """Return the suite's own value from the judge's replies, and `flip`: 1 if only the order decided, else 0."""
        refused = next((reply.finish for reply in replies if not reply.choices), None)
        if refused is not None:
            return {OWN: Judgement(None, f"judge: {refused}"), "flip": Judgement(None, f"judge: {refused}")}
        words = template_for(self.prompts, "zh" if item.chinese else "en").choices("better")
        wins = [reply.choices[word] > 0.5 for reply, word in zip(replies, words, strict=False)]
        agreed = not wins or wins[0] == wins[1]
        value = 0.5 if not wins or not agreed else float(wins[0])
        chances = ", ".join(f"{reply.choices[word]:.3f}" for reply, word in zip(replies, words, strict=False))
        return {OWN: Judgement(value, chances), "flip": Judgement(float(not agreed))}


def _by_chance(more: int, fewer: int) -> bool:
    """Say whether a fair coin gives at least as many of the first with 5 % or more (one-sided sign test)."""
    from scipy.special import bdtr

    return float(bdtr(fewer, more + fewer, 0.5)) >= 0.05
