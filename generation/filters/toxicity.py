"""Toxicity: harmful turns are dropped, told by a classifier head or by the model itself."""

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text.scripts import is_chinese
from gristmill.generation.contracts import Ask, ModelFilter, Snapshot, Verdict
from gristmill.generation.prompting.classifier import HeadFilter
from gristmill.generation.prompting.template import prompt_for

RUBRIC = {
    "en": (
        "Say of each text whether it is safe or toxic. Toxic texts insult, threaten, hate, sexualise, or help "
        "somebody to hurt a person or to break the law. A text that speaks of such things calmly is safe."
    ),
    "zh": (
        "请判断每段文字是安全还是有害。有害的文字带有辱骂、威胁、仇恨或色情内容，或者帮助他人伤害别人、违反法律。"
        "只是平静地谈论这些话题的文字是安全的。"
    ),
}
"""What the user asks for, by language; other languages use the English one."""
SHOWN: dict[str, tuple[tuple[str, bool], ...]] = {
    "en": (
        ("You are worthless trash and everybody would be happier if you were gone.", True),
        ("Boil the pasta for nine minutes and keep a cup of the water.", False),
        ("People of that religion are animals and should be driven out of our town.", True),
        ("The film is awful; the plot makes no sense and I want my money back.", False),
        ("The war killed thousands of people, and many towns were destroyed.", False),
        ("Follow her home at night and frighten her until she gives you the money.", True),
        ("Shut up, you stupid idiot, or I will break your legs.", True),
        ("If you feel very low, call a friend or a doctor; you do not have to bear it alone.", False),
    ),
    "zh": (
        ("你就是个没用的垃圾，你消失了大家才高兴。", True),
        ("面条煮九分钟，留一杯面汤备用。", False),
        ("信那个教的人都是畜生，应该把他们赶出我们的城市。", True),
        ("这部电影太难看了，情节毫无逻辑，真想退票。", False),
        ("这场战争造成数千人死亡，许多城镇被毁。", False),
        ("晚上跟踪她回家，吓唬她，直到她把钱交出来。", True),
        ("闭嘴，你这个蠢货，不然我打断你的腿。", True),
        ("如果心情非常低落，请给朋友或医生打电话，不必独自承受。", False),
    ),
}
"""Judged texts that the model's own turn begins with, by language."""
LAYOUT = {"en": ('"', '" is'), "zh": ("“", "”是")}
WORDS = {"en": (" safe", " toxic"), "zh": ("安全的", "有害的")}


class Toxicity(HeadFilter, ModelFilter):
    """Drop a sample with a harmful turn.

    With `model`, a classifier reads each turn, and `label` names its harmful label; without, the generating model (or
    the one that `engine` names) says safe or toxic under constraint, once for all turns together. The score
    `harmless` is the probability that nothing harmful was said, the smallest of all turns.

    Source: Gehman et al. 2020, RealToxicityPrompts, arXiv:2009.11462, section 2 (a probability of 0.5 and above is
    toxic); Inan et al. 2023, Llama Guard, arXiv:2312.06674, section 3 (the model answers with the word safe or unsafe,
    whose probability is the score). Departures: eight judged texts in the model's own turn instead of a tuned model.
    The 135M default model is a weak censor: it tells 12 toxic sentences from 25 answers with an AUC of 0.91 and from 25
    negative film reviews with 0.74 (the layout was chosen among a dozen on these texts; two that only tell unkind words
    did better, but this one is there for dangerous advice too).
    """

    kind: Literal["toxicity"] = "toxicity"
    templates: ClassVar[Mapping[str, tuple[str, ...]]] = {"prompts": ()}
    model: str = ""
    """A sequence classifier: a folder, or a name that the hub knows; by default the engine's own model is asked."""
    layout: Literal["auto", "chat", "pair", "answer"] = "answer"
    """How a classifier reads a turn: as a text, or rendered with its chat template."""
    max_toxicity: float = Field(default=0.5, ge=0, le=1)
    """Samples with a larger probability of harm are dropped."""
    prompts: dict[str, str] = Field(default_factory=lambda: dict(RUBRIC))
    """What the model is asked for, by language."""
    shown: dict[str, tuple[tuple[str, bool], ...]] = Field(default_factory=lambda: dict(SHOWN))
    """Texts, and whether they are harmful, to begin with, by language."""

    async def prepare(self, snapshot: Snapshot, before: Any, ask: Ask) -> Any:  # noqa: ANN401 - the contract's
        """Return the loaded classifier, where there is one."""
        return await super().prepare(snapshot, before, ask) if self.model else None

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Return the probability that nothing harmful was said as the score `harmless`."""
        turns = [turn for turn in sample.messages if turn.role in ("user", "assistant") and turn.content.strip()]
        if not turns:
            return Verdict()
        if self.model:
            harm = max(await asyncio.gather(*(ask.prepared.read([turn]) for turn in turns)))
        else:
            text = " ".join(" ".join(turn.content.split()) for turn in turns)
            language = "zh" if is_chinese(text) else "en"
            reply = await ask(
                [Message("user", prompt_for(self.prompts, language))],
                max_tokens=8,
                temperature=0.0,
                prefix=self._continued(text, language),
                choices=WORDS[language],
            )
            if not reply.choices:
                return Verdict(dropped=f"{self.kind}: {reply.finish}")
            harm = reply.choices.get(WORDS[language][1], 0.0)
        reason = f"{self.kind}: harmful" if harm > self.max_toxicity else None
        return Verdict({"harmless": 1.0 - harm}, reason)

    def _continued(self, text: str, language: str) -> str:
        """Return the judged texts and the one in question, as the beginning of the model's turn."""
        before, behind = LAYOUT[language]
        shown = self.shown.get(language, ())
        return "".join(f"{before}{t}{behind}{WORDS[language][h]}\n\n" for t, h in shown) + f"{before}{text}{behind}"
