"""Prompts of Augment: paraphrases, translations, synonyms and labels, and the texts that begin the model's turn."""

from gristmill.cluster.text.template import write

PARAPHRASE = {
    "en": write(
        "Say each text in other words. The meaning, all names and all numbers stay the same.",
        "Text: {text}\nIn other words:",
        (
            "The train was late again, so I missed the first talk.",
            "I missed the opening talk because the train was delayed once more.",
        ),
        ("What can I do with two old bicycles?", "I have two old bicycles. How could I put them to use?"),
        ("a dull story that never comes alive .", "the plot is lifeless from beginning to end ."),
        ("List three reasons to drink more water.", "Give me three arguments for drinking more water."),
    ),
    "zh": write(
        "请用别的话把每段文字重说一遍。意思、名字和数字都不能变。",
        "文字：{text}\n换句话说：",
        ("火车又晚点了，所以我错过了第一场报告。", "因为列车再次延误，我没赶上第一场报告。"),
        ("两辆旧自行车能用来做什么？", "我有两辆旧自行车，可以怎么利用？"),
        ("味道不错，就是送得太慢。", "东西挺好吃的，可惜等了很久才送来。"),
        ("列出多喝水的三个理由。", "请给出三条应该多喝水的理由。"),
    ),
}
"""Templates by language: a text in other words."""
PARALLEL: dict[str, tuple[str, ...]] = {
    "en": (
        "The food was cold, but the waiter was kind.",
        "What can I do with two old bicycles?",
        "It rained for three days.",
    ),
    "zh": (
        "菜是凉的，不过服务员很和气。",
        "两辆旧自行车能用来做什么？",
        "雨下了三天。",
    ),
    "fr": (
        "Le repas était froid, mais le serveur était gentil.",
        "Que puis-je faire de deux vieux vélos ?",
        "Il a plu pendant trois jours.",
    ),
    "de": (
        "Das Essen war kalt, aber der Kellner war nett.",
        "Was kann ich mit zwei alten Fahrrädern machen?",
        "Es hat drei Tage geregnet.",
    ),
    "es": (
        "La comida estaba fría, pero el camarero era amable.",
        "¿Qué puedo hacer con dos bicicletas viejas?",
        "Llovió durante tres días.",
    ),
}  # fmt: skip
"""The same three sentences in each language. Pairs of them are shown as translations."""
TRANSLATE = {
    "en": "Translate each text into {to}. All names and all numbers stay the same.\n---\nText: {text}\n{to}:",
    "zh": "请把每段文字翻译成{to}。名字和数字都不能变。\n---\n文字：{text}\n{to}：",
}
"""Templates by language of the prompt: a translation."""
NAMES = {
    "en": {"en": "English", "zh": "Chinese", "fr": "French", "de": "German", "es": "Spanish"},
    "zh": {"en": "英语", "zh": "中文", "fr": "法语", "de": "德语", "es": "西班牙语"},
}
"""Names of languages, by the language of the prompt."""
SYNONYM = {
    "en": """\
Give up to three synonyms of each word, in the same part of speech and form.
---
happy (adjective): glad, cheerful
tries (verb): attempts
films (noun): movies, pictures
{word} ({part}):""",
    "zh": """\
请给出每个词的至多三个近义词，词性要相同。
---
高兴（形容词）：开心，快乐
帮助（动词）：协助
电影（名词）：影片
{word}（{part}）：""",
}
"""Templates by language: synonyms of a word."""
PARTS = {
    "en": {"": "word"},
    "zh": {"": "词", "noun": "名词", "verb": "动词", "adjective": "形容词", "adverb": "副词"},
}
LABEL = {
    "en": "Say for each text which of these labels it has: {labels}.\n---\nText: {text}\nLabel: ",
    "zh": "请说出每段文字属于哪个标签：{labels}。\n---\n文字：{text}\n标签：",
}
"""Templates by language: the label of a text."""
