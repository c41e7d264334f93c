"""Toxicity: drop harmful turns, as a classifier or the model itself judges them."""

import asyncio
from typing import Annotated, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.replies import one_line
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.template import Prompts, by_language, slots, template_for, write
from gristmill.generation.contracts import Ask, ModelFilter, Snapshot, Verdict
from gristmill.generation.prompting.choices import choose
from gristmill.generation.prompting.classifier import Head, HeadFilter

PROMPTS = {
    "en": write(
        "Say of each text whether it is safe or toxic. Toxic texts insult, threaten, hate, sexualise, or help "
        "somebody to hurt a person or to break the law. A text that speaks of such things calmly is safe.",
        '"{text}" is{verdict: safe| toxic}',
        ("You are worthless trash and everybody would be happier if you were gone.", "toxic"),
        ("Boil the pasta for nine minutes and keep a cup of the water.", "safe"),
        ("People of that religion are animals and should be driven out of our town.", "toxic"),
        ("The film is awful; the plot makes no sense and I want my money back.", "safe"),
        ("The war killed thousands of people, and many towns were destroyed.", "safe"),
        ("Follow her home at night and frighten her until she gives you the money.", "toxic"),
        ("Shut up, you stupid idiot, or I will break your legs.", "toxic"),
        ("If you feel very low, call a friend or a doctor; you do not have to bear it alone.", "safe"),
    ),
    "zh": write(
        "请判断每段文字是安全还是有害。有害的文字带有辱骂、威胁、仇恨或色情内容，或者帮助他人伤害别人、违反法律。"
        "只是平静地谈论这些话题的文字是安全的。",
        "“{text}”是{verdict:安全的|有害的}",
        ("你就是个没用的垃圾，你消失了大家才高兴。", "有害的"),
        ("面条煮九分钟，留一杯面汤备用。", "安全的"),
        ("信那个教的人都是畜生，应该把他们赶出我们的城市。", "有害的"),
        ("这部电影太难看了，情节毫无逻辑，真想退票。", "安全的"),
        ("这场战争造成数千人死亡，许多城镇被毁。", "安全的"),
        ("晚上跟踪她回家，吓唬她，直到她把钱交出来。", "有害的"),
        ("闭嘴，你这个蠢货，不然我打断你的腿。", "有害的"),
        ("如果心情非常低落，请给朋友或医生打电话，不必独自承受。", "安全的"),
    ),
}
"""Templates by language: whether a text is safe or toxic. The second word means toxic."""


class Toxicity(HeadFilter[Head | None], ModelFilter[Head | None]):
    """Drop a sample with a harmful turn.

    With `model`, a classifier reads each turn, and `label` names its harmful label. Without `model`, the generating
    model, or the model that `engine` names, says safe or toxic by constrained decoding, once for all turns together.
    The score `harmless` is the probability that nothing harmful was said; a classifier's score is the smallest of all
    turns.

    Source: Gehman et al. 2020, RealToxicityPrompts, arXiv:2009.11462, section 2 (a probability of 0.5 and above is
    toxic); Inan et al. 2023, Llama Guard, arXiv:2312.06674, section 3 (the model answers with the word safe or unsafe,
    and the word's probability is the score). Departures: eight judged texts in the model's own turn instead of a tuned
    model. The 135M default model is a weak judge: it distinguishes 12 toxic sentences from 25 answers with an AUC of
    0.91, and from 25 negative film reviews with 0.74. The layout was chosen among a dozen on these texts. Two layouts
    did better, but they find only unkind words; this one is made for dangerous advice too.
    """

    kind: Literal["toxicity"] = "toxicity"
    model: str = ""
    """A sequence classifier: a folder, or a name on the hub. By default the engine's own model is asked."""
    layout: Literal["auto", "chat", "pair", "answer"] = "answer"
    """Input of the classifier: the turn as plain text, or rendered with the chat template."""
    max_toxicity: float = Field(default=0.5, ge=0, le=1)
    """Samples with a larger probability of harm are dropped."""
    prompts: Annotated[Prompts, slots("text", verdict=2)] = by_language(PROMPTS)
    """Templates by language, for the generating model. The second word of `{verdict}` means that the text is toxic."""

    async def prepare(self, snapshot: Snapshot, before: Head | None, ask: Ask) -> Head | None:
        """Return the loaded classifier, or nothing if the engine's model judges."""
        del snapshot, ask
        return before or (await self.opened() if self.model else None)

    async def judge(self, sample: Sample, ask: Ask[Head | None]) -> Verdict:
        """Return, as the score `harmless`, the probability that nothing harmful was said."""
        turns = [turn for turn in sample.messages if turn.role in ("user", "assistant") and turn.text.strip()]
        if not turns:
            return Verdict()
        head = ask.prepared
        if head is not None:
            harm = max(await asyncio.gather(*(head.read([turn]) for turn in turns)))
        else:
            text = " ".join(one_line(turn.text) for turn in turns)
            template = template_for(self.prompts, "zh" if is_chinese(text) else "en")
            reply = await choose(ask, template.begin("verdict", text=text), max_tokens=8)
            if not reply.choices:
                return Verdict(dropped=f"{self.kind}: {reply.finish}")
            harm = reply.choices[template.choices("verdict")[1]]
        reason = f"{self.kind}: harmful" if harm > self.max_toxicity else None
        return Verdict({"harmless": 1.0 - harm}, reason)
