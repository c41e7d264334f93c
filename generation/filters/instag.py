"""InsTag: the model names the intents of an instruction in its own words; nothing is dropped."""

import json
import re
import unicodedata
from typing import Annotated, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import flat
from gristmill.cluster.text.template import Prompts, by_language, slots, template_for
from gristmill.generation.contracts import Ask, ModelFilter, Verdict

PROMPTS = {
    "en": """\
Say what each instruction wants: the task, its subject and every further demand, each in one to three words, the most \
important first.
---
Instruction: Write a haiku about the first frost in which no word is longer than five letters.
{"intents": ["poetry writing", "haiku", "winter", "word length limit"]}

Instruction: Hello!
{"intents": ["greeting"]}

Instruction: At how many degrees does ethanol boil?
{"intents": ["factual question", "chemistry"]}

Instruction: Translate into French, as in a formal letter: We regret that your parcel was lost.
{"intents": ["translation", "french", "formal tone"]}

Instruction: Is this review positive or negative? The soup was cold and nobody cared.
{"intents": ["sentiment classification", "restaurant review"]}

Instruction: I earn 2400 euros a month, pay 900 in rent and want a bicycle of 700. Make a plan for three months as a \
table, with one tip for each month.
{"intents": ["budget planning", "arithmetic", "saving", "table format", "tips"]}

Instruction: Tell me why this function returns None, fix it and add a docstring: def area(w, h): w * h
{"intents": ["debugging", "python", "code explanation", "documentation"]}

Instruction: {instruction}
""",
    "zh": """\
请说出每条指令想要什么：任务、主题和每一项其他要求，各用一个短词，最重要的在前。
---
指令：写一首关于初霜的五言绝句，不要出现“冷”字。
{"intents": ["写诗", "五言绝句", "冬天", "用字限制"]}

指令：你好！
{"intents": ["问候"]}

指令：乙醇的沸点是多少度？
{"intents": ["事实问答", "化学"]}

指令：把这句话译成法语，用正式书信的语气：很遗憾，您的包裹丢失了。
{"intents": ["翻译", "法语", "正式语气"]}

指令：这条评论是正面还是负面？汤是凉的，也没人管。
{"intents": ["情感分类", "餐馆评论"]}

指令：我每月收入六千元，房租两千元，想买一辆三千元的自行车。请用表格做一个三个月的计划，每个月给一条建议。
{"intents": ["预算规划", "算术", "攒钱", "表格形式", "建议"]}

指令：请说明这个函数为什么返回None，改正它，并加上注释：def area(w, h): w * h
{"intents": ["调试", "python", "代码讲解", "注释"]}

指令：{instruction}
""",
}
"""Templates by language: instructions with their intents, and the instruction to tag."""
ENDS = r'^[^"\\\n]{1,40}$'
"""The form of an intent in the schema: no quotes, escapes or line ends, and at most 40 characters."""


class Instag(ModelFilter):
    """Name the intents of a sample's instruction, in an open vocabulary, and count them.

    The tag `intents` is a JSON list of lower-case strings, such as `["translation", "french", "formal tone"]`, in the
    language of the instruction. The score `num_intents` is their number, which the paper uses as the instruction's
    complexity. All turns of the user are read, but not the answers. If the model's reply is not such a list, for
    example because it was cut off, the sample has no intents. The filter needs a model that can name things. The 135M
    default model gives intents to 71 of the 72 seeds of `examples/`; many are vague, and the Chinese intents are
    useless.

    Source: Lu et al. 2023, #InsTag, arXiv:2308.07074, section 3 (open tags of intentions by a prompted model; tags in
    lower case, special characters as spaces; diversity is the share of all tags that a dataset covers, complexity the
    mean number of tags). Departures: a list of tagged instructions that the model continues, decoded under a schema,
    instead of a prompt that asks for tags with explanations; at most `max_intents` tags; no stemming, no filtering by
    frequency and no merging of similar tags, because these need the whole dataset.
    """

    kind: Literal["instag"] = "instag"
    max_intents: int = Field(default=6, gt=0)
    """Largest number of intents of an instruction."""
    max_tokens: int = Field(default=96, gt=0)
    """Largest number of tokens of the list."""
    prompts: Annotated[Prompts, slots("instruction")] = by_language(PROMPTS)
    """Templates by language: instructions with their intents, and the instruction to tag."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Return the intents as a tag and their number as the score `num_intents`."""
        instruction = flat("\n".join(turn.text for turn in sample.messages if turn.role == "user"))
        if not instruction:
            return Verdict()
        reply = await ask(
            **template_for(self.prompts, language_of(sample)).begin(instruction=instruction),
            max_tokens=self.max_tokens,
            temperature=0.0,
            json_schema=schema(self.max_intents),
            stop_loops=True,
        )
        found = intents(reply.text)[: self.max_intents]
        if not found:
            return Verdict()
        return Verdict({"num_intents": float(len(found))}, tags={"intents": json.dumps(found, ensure_ascii=False)})


def schema(most: int) -> str:
    """Return the schema of a list of intents. Its root is an object, because some endpoints accept no other root."""
    names = {"type": "array", "items": {"type": "string", "pattern": ENDS}, "minItems": 1, "maxItems": most}
    whole = {"type": "object", "properties": {"intents": names}, "required": ["intents"]}
    return json.dumps({**whole, "additionalProperties": False})


def intents(text: str) -> list[str]:
    """Return the intents of a reply, normalised, in order and without repetitions; none if the reply has no list."""
    try:
        names = json.loads(text)["intents"]
    except (ValueError, KeyError, TypeError):
        return []
    plain = (unicodedata.normalize("NFKC", str(name)).lower() for name in names) if isinstance(names, list) else ()
    words = (" ".join(re.sub(r"[^\w+#]+|_", " ", name).split()) for name in plain)  # c++ and c# stay different
    return list(dict.fromkeys(filter(None, words)))
