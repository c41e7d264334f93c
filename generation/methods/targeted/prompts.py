"""Prompts of `targeted`, by task and language, and the attributes that it varies."""

from collections.abc import Mapping

ABOUT = {"en": "short texts", "zh": "短文本"}
"""Default name of the kind of texts, by language."""
WRITE = {
    "en": (
        "Write {about} for a data set, one a line. Before each stands its label, its length, and how it is to be. "
        "The labels: {labels}.\n---\n{label}, {words} words{details}:"
    ),
    "zh": (
        "请为一个数据集撰写{about}，每行一条。每条前面写明标签、长度和要求。标签有：{labels}。\n---\n"
        "{label}，{words}字{details}："
    ),
}
"""Templates by language for texts, one a line. The seeds at the beginning of the model's turn have the same form."""
INSTRUCTION = {
    "en": "Which label fits this text: {labels}?\n\n{text}",
    "zh": "下面这段文本属于哪一类：{labels}？\n\n{text}",
}
CHECK = {
    "en": "Say of each text which label fits it. The labels are: {labels}.\n---\nText: {text}\nLabel: ",
    "zh": "请判断每条文本属于哪个标签。标签有：{labels}。\n---\n文本：{text}\n标签：",
}
WRITE_MARKED = {
    "en": (
        "Write {about} for a data set, one a line. Every mention of a kind is marked as [words](kind). Before each "
        "stands a kind that is in it, its length, and how it is to be. The kinds: {labels}.\n---\n"
        "with {label}, {words} words{details}:"
    ),
    "zh": (
        "请为一个数据集撰写{about}，每行一条。凡是提到下列类别的词语，都标注为[词语](类别)。"
        "每条前面写明其中的一个类别、长度和要求。类别有：{labels}。\n---\n含{label}，{words}字{details}："
    ),
}
INSTRUCTION_MARKED = {
    "en": "List every mention of {labels} in this text as JSON with text, label, start and end.\n\n{text}",
    "zh": "请找出下面文本中的所有{labels}，用JSON列出text、label、start和end。\n\n{text}",
}
CHECK_MARKED = {
    "en": (
        "Say of the words in each text of which kind they are. The kinds are: {labels}.\n---\n"
        "Text: {text}\nWords: {words}\nLabel: "
    ),
    "zh": "请判断每条文本中的词语属于哪个类别。类别有：{labels}。\n---\n文本：{text}\n词语：{words}\n标签：",
}
DETAIL = {
    "en": {"style": ", {0}", "difficulty": ", {0}", "near_miss": ", easily taken for {0}"},
    "zh": {"style": "，{0}", "difficulty": "，{0}", "near_miss": "，容易误认为{0}"},
}
"""The words that ask for each attribute, by language."""
STYLES: Mapping[str, tuple[str, ...]] = {
    "en": ("casual", "plain", "excited", "dry humour", "polite", "terse"),
    "zh": ("口语", "平实", "激动", "冷幽默", "客气", "简短"),
}
DIFFICULTIES: Mapping[str, tuple[str, ...]] = {
    "en": ("obvious", "subtle", "implied"),
    "zh": ("一目了然", "比较含蓄", "没有明说"),
}
OTHER = {"en": "other", "zh": "其他"}
"""The second choice of the check if there is only one label."""
BETWEEN = {"en": ", ", "zh": "、"}
EXPLAINED = {"en": "{0} ({1})", "zh": "{0}（{1}）"}
"""The form of a label with its meaning, by language."""
CHARS_PER_WORD = {"zh": 1.5, "ja": 1.5}
"""Number of characters of a word, for languages in which lengths are asked for in characters."""
