"""The instance step of Self-Instruct: an input for a drafted task; for classification the label comes first."""

import re
from collections.abc import Mapping

from gristmill.cluster.contract.ids import stream
from gristmill.cluster.contract.sample import Message
from gristmill.cluster.text.template import template_for
from gristmill.generation.contracts import Ask
from gristmill.generation.prompting.choices import choose

CLASSIFY = {
    "en": """\
Say of each task whether it is a classification task: one whose answer is one of a few fixed labels.
---
Task: Say whether this film review is positive or negative.
Classification: Yes

Task: Write a short poem about the first snow of the year.
Classification: No

Task: Which of these four subjects does the question belong to: maths, history, biology or music?
Classification: Yes

Task: Translate the sentence into Spanish.
Classification: No

Task: Decide whether the two sentences mean the same. Answer yes or no.
Classification: Yes

Task: Give three tips for growing tomatoes on a balcony.
Classification: No

Task: Explain how a rainbow comes about.
Classification: No

Task: Label the message as spam or not spam.
Classification: Yes

Task: Summarise the paragraph in one sentence.
Classification: No

Task: Rate the tone of the e-mail as friendly, neutral or rude.
Classification: Yes

Task: {instruction}
Classification:{verdict: Yes| No}""",
    "zh": """\
请判断每个任务是不是分类任务，也就是答案只能是几个固定标签之一的任务。
---
任务：判断这条影评是正面还是负面。
分类任务：是

任务：写一首关于初雪的短诗。
分类任务：否

任务：下面的问题属于数学、历史、生物还是音乐？
分类任务：是

任务：把这句话翻译成英文。
分类任务：否

任务：判断两个句子的意思是否相同，回答是或否。
分类任务：是

任务：给出三条在阳台上种番茄的建议。
分类任务：否

任务：解释彩虹是怎样形成的。
分类任务：否

任务：把这条短信标为垃圾短信或正常短信。
分类任务：是

任务：用一句话概括这段文字。
分类任务：否

任务：判断这封邮件的语气是友好、中性还是粗鲁。
分类任务：是

任务：{instruction}
分类任务：{verdict:是|否}""",
}
"""Templates by language: whether a task is a classification task. The first word means that it is."""
LABELS = {
    "en": """\
List the labels of each classification task.
---
Task: Say whether this film review is positive or negative.
Labels: positive; negative

Task: Which of these four subjects does the question belong to: maths, history, biology or music?
Labels: maths; history; biology; music

Task: Decide whether the two sentences mean the same.
Labels: yes; no

Task: Rate the tone of the e-mail.
Labels: friendly; neutral; rude

Task: {instruction}
Labels:""",
    "zh": """\
请列出每个分类任务的标签。
---
任务：判断这条影评是正面还是负面。
标签：正面；负面

任务：下面的问题属于数学、历史、生物还是音乐？
标签：数学；历史；生物；音乐

任务：判断两个句子的意思是否相同。
标签：相同；不同

任务：判断这封邮件的语气。
标签：友好；中性；粗鲁

任务：{instruction}
标签：""",
}
LABELLED = {
    "en": """\
Write for each classification task an input to which the label belongs.
---
Task: Say whether this film review is positive or negative.
Label: negative
Input: The jokes fall flat, the story drags, and I looked at my watch more often than at the screen.

Task: Which of these four subjects does the question belong to: maths, history, biology or music?
Label: biology
Input: Why do leaves turn yellow in autumn?

Task: Decide whether the two sentences mean the same.
Label: yes
Input: 1. The shop closes at six. 2. You cannot buy anything there after six o'clock.

Task: Rate the tone of the e-mail.
Label: friendly
Input: Hi Ana, thank you so much for your help yesterday. Coffee is on me next time!

Task: {instruction}
Label: {label}
Input:""",
    "zh": """\
请为每个分类任务写一个属于该标签的输入。
---
任务：判断这条影评是正面还是负面。
标签：负面
输入：笑点很生硬，情节拖沓，我看表的次数比看银幕还多。

任务：下面的问题属于数学、历史、生物还是音乐？
标签：生物
输入：为什么树叶到了秋天会变黄？

任务：判断两个句子的意思是否相同。
标签：相同
输入：1. 这家店六点关门。2. 六点以后在那里就买不到东西了。

任务：判断这封邮件的语气。
标签：友好
输入：小安你好，昨天多亏你帮忙，下次我请你喝咖啡！

任务：{instruction}
标签：{label}
输入：""",
}
INPUTS = {
    "en": """\
Write an input for each task, or None where the task needs nothing more than what it says.
---
Task: Summarise the paragraph in one sentence.
Input: Bees visit flowers to collect nectar. On the way they carry pollen from one flower to the next, so that fruit \
and seeds can grow. Many farmers keep hives near their orchards for this reason.

Task: Give three tips for growing tomatoes on a balcony.
Input: None

Task: Translate the sentence into Spanish.
Input: The train to the coast leaves at half past nine.

Task: Explain how a rainbow comes about.
Input: None

Task: Sort the words by the alphabet.
Input: pear, apple, walnut, cherry

Task: Make this sentence more polite: Give me the report.
Input: None

Task: {instruction}
Input:""",
    "zh": """\
请为每个任务写一个输入；如果任务本身已经完整，就写“无”。
---
任务：用一句话概括这段文字。
输入：蜜蜂飞到花上采蜜，同时把花粉从一朵花带到另一朵花，果实和种子才能长出来。因此许多果农在果园旁边养蜂。

任务：给出三条在阳台上种番茄的建议。
输入：无

任务：把这句话翻译成英文。
输入：开往海边的火车九点半出发。

任务：解释彩虹是怎样形成的。
输入：无

任务：把这些数字从小到大排列。
输入：42，7，19，3

任务：把这句话改得礼貌一些：把报告给我。
输入：无

任务：{instruction}
输入：""",
}
SEPARATORS = re.compile(r"[;；|/、,，\n]|\s+or\s+|还是|或者")
NOTHING = re.compile(r"(?:none|no input|n/?a|<?noinput>?|nothing|无|没有|不需要)(?:输入)?[.。]?", re.IGNORECASE)
MAX_LABELS, MAX_LABEL_CHARS = 12, 40
STOPS = ("\n\n", "\nTask:", "\nOutput:", "\n任务：", "\n输出：")


async def classifies(prompts: Mapping[str, str], language: str, instruction: str, ask: Ask) -> tuple[bool, str]:
    """Return (whether an instruction is a classification task, why this is unknown, or the empty string)."""
    template = template_for(prompts, language)
    reply = await choose(ask, template.begin("verdict", instruction=instruction), max_tokens=4)
    return reply.text.strip() == template.choices("verdict")[0].strip(), "" if reply.choices else reply.finish


async def label_of(prompts: Mapping[str, str], language: str, instruction: str, ask: Ask) -> tuple[str, str]:
    """Return (a random label from the model's list for a task, why there is none, or the empty string)."""
    prompt = template_for(prompts, language).begin(instruction=instruction)
    reply = await ask(**prompt, max_tokens=48, temperature=0.0, stop=("\n",), stop_loops=True)
    if reply.finish.startswith("error"):
        return "", reply.finish
    found = (part.strip(" .。:：\"'“”") for part in SEPARATORS.split(reply.text))
    labels = list(dict.fromkeys(label for label in found if label and len(label) <= MAX_LABEL_CHARS))
    if reply.finish != "stop" or not 2 <= len(labels) <= MAX_LABELS:
        return "", "labels unclear"
    return stream("label", instruction, labels).choice(labels), ""


async def input_of(
    prompts: Mapping[str, str], language: str, ask: Ask, max_tokens: int, **values: str
) -> tuple[str, str]:
    """Return (an input for a task, why it could not be made). Both are empty if the task needs no input."""
    prompt = template_for(prompts, language).begin(**values)
    reply = await ask(**prompt, max_tokens=max_tokens, stop=STOPS, stop_loops=True)
    text = reply.text.strip()
    if reply.finish.startswith("error"):
        return "", reply.finish
    if reply.finish != "stop":
        return "", "input cut off"
    return ("", "") if NOTHING.fullmatch(text) else (text, "")


def joined(instruction: str, given: str) -> Message:
    """Return the user's turn of an instruction with its input, in the form of ingested seeds."""
    return Message("user", f"{instruction}\n\n{given}" if given else instruction)


def parted(text: str) -> str:
    """Return the instruction of a user's turn without its input, which begins after the first blank line."""
    return re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0]
