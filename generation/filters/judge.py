"""Judge: the model grades the sample from 1 to 5 by constrained decoding; the score is the expected grade."""

from typing import ClassVar, Literal

from pydantic import Field

from cluster.sample import Message, Sample
from generation.contracts import Ask, Filter, Stage, Verdict
from generation.words import is_chinese

GRADES = ("1", "2", "3", "4", "5")
RUBRIC = {
    "en": "Grade each answer from 1 (off the topic, wrong or empty) to 5 (correct, complete and clear).",
    "zh": "请给每个回答打分，从1分（离题、错误或空洞）到5分（正确、完整、清楚）。",
}
"""What the user asks for, by language; other languages use the English one."""
GRADED: dict[str, tuple[tuple[str, str, int], ...]] = {
    "en": (
        ("Name three colours.", "Red, blue and green.", 5),
        ("What is the capital of France?", "I like to swim in the sea with my friends.", 1),
        (
            "Rewrite this sentence politely: Give me the report.",
            "Could you please send me the report when you have a moment?",
            5,
        ),
        ("Explain in one sentence why plants need light.", "Plants need plants, and plants are plants.", 1),
        ("A pen costs 2 dollars. How much do four pens cost?", "Four pens cost 20 dollars.", 2),
        ("Give two tips for a job interview.", "Be on time.", 3),
        ("Is this review positive or negative? 'The food was cold and the waiter rude.'", "Negative", 5),
        (
            "Write a short greeting for a new neighbour.",
            "Hello, and welcome! I live next door. Tell me if you need anything.",
            4,
        ),
        ("Put these words in alphabetical order: pear, apple, fig.", "The capital of Spain is Madrid.", 1),
        ("What do bees make?", "Bees make honey from the nectar of flowers.", 5),
    ),
    "zh": (
        ("说出三种颜色。", "红色、蓝色和绿色。", 5),
        ("法国的首都是哪里？", "我喜欢和朋友一起去海边游泳。", 1),
        ("把这句话改得礼貌一些：把报告给我。", "您方便的时候，可以把报告发给我吗？", 5),
        ("用一句话解释植物为什么需要阳光。", "植物需要植物，植物就是植物。", 1),
        ("一支笔2元，四支笔多少钱？", "四支笔20元。", 2),
        ("给出两条面试建议。", "要准时。", 3),
        ("这条评论是正面还是负面？“菜是凉的，服务员也不礼貌。”", "负面", 5),
        ("给新邻居写一句问候。", "您好，欢迎搬来！我就住在隔壁，有需要请告诉我。", 4),
        ("把这些词按笔画排序：大、一、小。", "西班牙的首都是马德里。", 1),
        ("蜜蜂酿造什么？", "蜜蜂用花蜜酿造蜂蜜。", 5),
    ),
}
"""Graded answers that the judge's own turn begins with, by language."""
LAYOUT = {
    "en": ("Instruction: {0}\nAnswer: {1}\nGrade: ", "{2}\n\n"),
    "zh": ("指令：{0}\n回答：{1}\n分数：", "{2}\n\n"),
}


class Judge(Filter):
    """Grade each sample with the generating model itself and drop those below a threshold.

    The score `judge` is the sum of p_i * i over the grades, with p the model's probabilities of exactly the five
    digits: it is finer than the likeliest grade, and it can never fail to parse. The model continues a list of graded
    answers in its own turn: with the 135M default model this tells the answers of 100 English tasks from those of the
    next task with an AUC of 0.68 (the best of twelve layouts, chosen on these tasks); a rubric in the user's turn gave
    0.45 on 60 of them. The list is the same for all samples, so it is computed once.

    Source: Liu et al. 2024, DEITA, arXiv:2312.15685, section 2.2 (expected score from the logits of the score tokens);
    Yuan et al. 2024, Self-Rewarding Language Models, arXiv:2401.10020 (the model judges its own data). Departures: one
    grade on one five-point scale of our own, shown by ten graded answers; no sampling, so one call a sample.
    """

    kind: Literal["judge"] = "judge"
    stages: ClassVar[tuple[Stage, ...]] = ("model",)
    min_score: float = Field(default=2.5, ge=1, le=5)
    """Samples with a smaller expected grade are dropped. The default model's grades lie between 2.2 and 3.2."""
    rubrics: dict[str, str] = Field(default_factory=lambda: dict(RUBRIC))
    """What the user asks for, by language, `en` at least."""
    graded: dict[str, tuple[tuple[str, str, int], ...]] = Field(default_factory=lambda: dict(GRADED))
    """Instructions, answers and grades to begin with, by language."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Return the expected grade, 1 to 5, as the score `judge`."""
        language = "zh" if is_chinese(sample.instruction) else "en"
        question, grade = LAYOUT[language]
        rubric = self.rubrics.get(language, self.rubrics["en"])
        shown = "".join((question + grade).format(*known) for known in self.graded.get(language, ()))
        prefix = shown + question.format(sample.instruction, sample.answer)
        reply = await ask([Message("user", rubric)], max_tokens=1, temperature=0.0, prefix=prefix, choices=GRADES)
        if not reply.choices:
            return Verdict(dropped=f"{self.kind}: {reply.finish}")
        score = sum(int(digit) * chance for digit, chance in reply.choices.items())
        return Verdict({"judge": score}, f"{self.kind}: below threshold" if score < self.min_score else None)
