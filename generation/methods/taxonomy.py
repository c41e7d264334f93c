"""Taxonomy: questions about key concepts, which the model lists by discipline, subject and session."""

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text.replies import cut_off, entries, refuse
from gristmill.cluster.text.template import Prompts, by_language, for_language, slots, template_for
from gristmill.cluster.text.words import num_words
from gristmill.generation.contracts import Ask, Draft, Input, Method, Snapshot

DISCIPLINES: Mapping[str, tuple[str, ...]] = {
    "en": (
        "Mathematics",
        "Statistics",
        "Physics",
        "Chemistry",
        "Biology",
        "Medicine and nursing",
        "Computer science",
        "Electrical engineering",
        "Mechanical engineering",
        "Civil engineering",
        "Earth science",
        "Ecology",
        "Agriculture",
        "Economics",
        "Accounting and finance",
        "Business management",
        "Law",
        "Political science",
        "History",
        "Geography",
        "Philosophy",
        "Psychology",
        "Sociology",
        "Education",
        "Linguistics",
        "Literature and writing",
        "Journalism",
        "Music",
        "Visual art and design",
        "Cooking and nutrition",
        "Sports science",
        "Household and repair",
    ),
    "zh": (
        "数学",
        "统计学",
        "物理",
        "化学",
        "生物",
        "医学与护理",
        "计算机科学",
        "电气工程",
        "机械工程",
        "土木工程",
        "地球科学",
        "生态学",
        "农学",
        "经济学",
        "会计与金融",
        "企业管理",
        "法学",
        "政治学",
        "历史",
        "地理",
        "哲学",
        "心理学",
        "社会学",
        "教育学",
        "语言学",
        "文学与写作",
        "新闻学",
        "音乐",
        "美术与设计",
        "烹饪与营养",
        "体育科学",
        "家务与维修",
    ),
}
"""The disciplines, by language."""
DISCIPLINE = {
    "en": (
        "List {count} disciplines of human knowledge and skill, from academic to practical, a few words each.\n---\n1."
    ),
    "zh": "请列出{count}个人类知识与技能的学科领域，从学术的到实用的都要有，每个只用几个字。\n---\n1.",
}
"""Templates by language: asks for disciplines."""
SUBJECT = {
    "en": (
        "List {count} subjects that students of a discipline take, from first year to last, a few words each.\n---\n"
        "Discipline: Astronomy\n1. The solar system\n2. Telescopes and detectors\n3. Life of stars\n4. Galaxies\n\n"
        "Discipline: {discipline}\n1."
    ),
    "zh": (
        "请列出某个专业的学生从入门到高年级要学的{count}门课程，每门只写课程名称。\n---\n"
        "专业：天文学\n1. 太阳系\n2. 望远镜与探测器\n3. 恒星的一生\n4. 星系\n\n"
        "专业：{discipline}\n1."
    ),
}
"""Templates by language: asks for the subjects of a discipline."""
SESSION = {
    "en": (
        "A subject is taught in {count} class sessions. List the topic of each in order, a few words each.\n---\n"
        "Subject: Astronomy, Telescopes and detectors\n1. Lenses and mirrors\n2. Resolution and aperture\n"
        "3. Mounts and tracking\n4. Digital cameras\n\n"
        "Subject: {discipline}, {subject}\n1."
    ),
    "zh": (
        "一门课程分{count}次课讲授。请按顺序列出每次课的主题，每个只用几个字。\n---\n"
        "课程：天文学，望远镜与探测器\n1. 透镜与反射镜\n2. 分辨率与口径\n3. 支架与跟踪\n4. 数码相机\n\n"
        "课程：{discipline}，{subject}\n1."
    ),
}
"""Templates by language: asks for the sessions of a subject."""
CONCEPT = {
    "en": (
        "List {count} key concepts that students must understand after a class session, a few words each.\n---\n"
        "Session: Astronomy, Telescopes and detectors, Resolution and aperture\n1. Diffraction limit\n"
        "2. Light gathering power\n3. Focal length\n4. Seeing\n\n"
        "Session: {discipline}, {subject}, {session}\n1."
    ),
    "zh": (
        "请列出学生上完一次课后必须掌握的{count}个关键概念，每个只用几个字。\n---\n"
        "课：天文学，望远镜与探测器，分辨率与口径\n1. 衍射极限\n2. 聚光能力\n3. 焦距\n4. 视宁度\n\n"
        "课：{discipline}，{subject}，{session}\n1."
    ),
}
"""Templates by language: asks for the key concepts of a session."""
QUESTION = {
    "en": (
        "Write one homework question on a class session that needs the given concepts. State everything that the "
        "student must know to answer, ask one thing, and do not answer it.\n---\n"
        "Subject: Astronomy, Telescopes and detectors\nSession: Resolution and aperture\n"
        "Concepts: Diffraction limit, Light gathering power\n"
        "Question: Telescope A has a mirror of 10 cm and telescope B one of 20 cm. How many times more light does B "
        "gather, and how do their diffraction limits compare?\n\n"
        "Subject: History, The ancient world\nSession: Trade across the sea\nConcepts: Monsoon winds\n"
        "Question: Explain why merchants on the Indian Ocean sailed in one direction in summer and in the other in "
        "winter, and what this meant for the towns in which they waited.\n\n"
        "Subject: {discipline}, {subject}\nSession: {sessions}\nConcepts: {concepts}\nQuestion:"
    ),
    "zh": (
        "请就一次课出一道需要用到所给概念的作业题。写明答题所需的全部信息，只问一件事，不要写出答案。\n---\n"
        "课程：天文学，望远镜与探测器\n课：分辨率与口径\n概念：衍射极限、聚光能力\n"
        "题目：望远镜甲的口径为10厘米，乙的口径为20厘米。乙的聚光能力是甲的多少倍？两者的衍射极限有什么关系？\n\n"
        "课程：历史，古代世界\n课：海上贸易\n概念：季风\n"
        "题目：请解释印度洋上的商人为什么夏天朝一个方向航行、冬天朝另一个方向航行，这对他们等候季风的城镇有什么影响。\n\n"
        "课程：{discipline}，{subject}\n课：{sessions}\n概念：{concepts}\n题目："
    ),
}
"""Templates by language: asks for the question, and ends with the marker of a question."""
ANSWER = {
    "en": "You are an expert in {discipline}. Answer the student's question correctly, in a few plain sentences.",
    "zh": "你是{discipline}方面的专家。请正确回答学生的问题，用几句简明的话。",
}
"""System prompt of the answering model, by language; it is not part of the sample."""
MARKER = re.compile(r"^(?:question|题目)\s*[:：]\s*", re.IGNORECASE)
"""A marker that a reply may repeat at its beginning."""
ANSWERED = ("answer:", "solution:", "answers:", "答案：", "解答：", "答：", "解：", "答案:", "解答:", "答:", "解:")
BETWEEN = {"en": ", ", "zh": "、"}
LONGEST_NAME = 12
"""Largest number of words of an entry of a list. A longer entry is a sentence and not a name."""


class Taxonomy(Method):
    """Write a question about some key concepts of a discipline, a subject and one or two of its sessions.

    Each worker asks once for each list, so all draws of a worker use the same tree. The tags `discipline`, `subject`,
    `session` and `concepts` say what a question is about. Use a selector to remove overlap with test sets.

    Source: Li et al. 2024, GLAN, Synthetic Data (Almost) from Scratch, arXiv:2402.13064, section 2: taxonomy, subjects,
    syllabus, questions from one or two sessions and one to five key concepts, answers in a separate call. Departures:
    the disciplines are a list of 32 of our own, or the model's (the paper has 126, checked by people); a subject has no
    level and no introduction; the syllabus takes two kinds of calls, for the sessions and for the concepts of a
    session; each shows a numbered list before the list that the model continues, because a small model fails on an
    outline; the expert's prompt is left out of the sample.
    """

    kind: Literal["taxonomy"] = "taxonomy"
    feeds: ClassVar[tuple[Input, ...]] = ()
    guards: ClassVar[tuple[str, ...]] = ("standalone", "answer_kind")
    learns: ClassVar[bool] = False
    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Languages of the questions, as ISO 639-1 codes, with equal chances."""
    disciplines: dict[str, tuple[str, ...]] = Field(default_factory=lambda: dict(DISCIPLINES))
    """Disciplines by language. A language without disciplines uses the English disciplines."""
    num_disciplines: int = Field(default=0, ge=0)
    """Number of disciplines to ask the model for. If it is above 0, the model's disciplines replace `disciplines`."""
    num_subjects: int = Field(default=10, ge=1, le=50)
    """Number of subjects of a discipline."""
    num_sessions: int = Field(default=10, ge=1, le=50)
    """Number of class sessions of a subject."""
    num_concepts: int = Field(default=6, ge=1, le=20)
    """Number of key concepts of a session."""
    max_sessions: int = Field(default=2, ge=1, le=5)
    """Largest number of sessions that one question uses."""
    max_concepts: int = Field(default=5, ge=1, le=20)
    """Largest number of concepts that one question uses."""
    list_temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of the lists."""
    temperature: float = Field(default=0.8, ge=0, le=2)
    """Temperature of the question."""
    max_tokens: int = Field(default=200, gt=0)
    """Largest number of tokens of the question."""
    min_words: int = Field(default=5, ge=1)
    """Smallest number of words of a question."""
    max_answer_tokens: int = Field(default=512, gt=0)
    """Largest number of tokens of the answer."""
    answer_temperature: float = Field(default=0.3, ge=0, le=2)
    """Temperature of the answer."""
    stop_loops: bool = True
    """Whether a reply ends when it repeats itself four times in a row."""
    discipline_prompts: Annotated[Prompts, slots("count")] = by_language(DISCIPLINE)
    """Templates by language: asks for disciplines."""
    subject_prompts: Annotated[Prompts, slots("count", "discipline")] = by_language(SUBJECT)
    """Templates by language: asks for the subjects of a discipline."""
    session_prompts: Annotated[Prompts, slots("count", "discipline", "subject")] = by_language(SESSION)
    """Templates by language: asks for the sessions of a subject."""
    concept_prompts: Annotated[Prompts, slots("count", "subject", "session", may=("discipline",))] = by_language(
        CONCEPT
    )
    """Templates by language: asks for the concepts of a session."""
    question_prompts: Annotated[Prompts, slots("subject", "sessions", "concepts", may=("discipline",))] = by_language(
        QUESTION
    )
    """Templates by language: asks for the question."""
    answer_prompts: Annotated[Prompts, slots(may=("discipline",))] = by_language(ANSWER)
    """System prompts of the answering call, by language."""

    @model_validator(mode="after")
    def _some_disciplines(self) -> Self:
        if not self.num_disciplines and not self.disciplines.get("en") and not all(map(self._own, self.languages)):
            raise ValueError("disciplines is empty, must list some by language, or num_disciplines must be above 0")
        return self

    def _own(self, language: str) -> tuple[str, ...]:
        return self.disciplines.get(language) or self.disciplines.get("en", ())

    def draw(self, snapshot: Snapshot, turn: int, rng: Random) -> tuple[Sample, ...]:
        """Return no parents, because the model makes the tree."""
        del snapshot, turn, rng
        return ()

    async def expand(self, parents: Sequence[Sample], ask: Ask, rng: Random) -> list[Draft]:
        """Return one draft that ends with a question."""
        del parents
        language = rng.choice(self.languages)
        tags, chosen, wanted = {"language": language}, list[str](), list[str]()
        known: Sequence[str] = self._own(language)
        if self.num_disciplines:
            known = await self._list(ask, self.discipline_prompts, self.num_disciplines, tags)
        if known:
            tags["discipline"] = rng.choice(known)
            known = await self._list(ask, self.subject_prompts, self.num_subjects, tags)
        if known:
            tags["subject"] = rng.choice(known)
            known = await self._list(ask, self.session_prompts, self.num_sessions, tags)
            chosen = in_order(known, rng.randint(1, self.max_sessions), rng)
        for session in chosen:
            wanted += await self._list(ask, self.concept_prompts, self.num_concepts, {**tags, "session": session})
        if not wanted:
            below = {1: "disciplines", 2: "subjects", 3: "concepts" if chosen else "sessions"}
            return [Draft((), tags, f"{self.kind}: list of {below[len(tags)]} is empty")]
        between = for_language(BETWEEN, language)
        wanted = in_order(list(dict.fromkeys(wanted)), rng.randint(1, self.max_concepts), rng)
        tags |= {"session": between.join(chosen), "concepts": between.join(wanted)}
        return [await self._question(tags, ask)]

    async def answer(self, draft: Draft, ask: Ask) -> Draft:
        """Answer the question in a separate call that names only the discipline."""
        system = template_for(self.answer_prompts, draft.tags["language"]).text(**draft.tags)
        reply = await ask(
            (Message("system", system), *draft.messages),
            max_tokens=self.max_answer_tokens,
            temperature=self.answer_temperature,
            stop_loops=self.stop_loops,
        )
        return self.answered(draft, reply)

    async def _question(self, tags: Mapping[str, str], ask: Ask) -> Draft:
        names = {name: tags[name] for name in ("discipline", "subject", "concepts")}
        prompt = template_for(self.question_prompts, tags["language"]).begin(**names, sessions=tags["session"])
        reply = await ask(
            **prompt,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=("\n\n",),
            stop_loops=self.stop_loops,
        )
        text = MARKER.sub("", reply.text.strip())
        rules = {
            **cut_off(reply.finish, "question"),
            "question too short": num_words(text) < self.min_words,
            "question repeats the shown one": text in prompt["prefix"],
            "question ends with a colon": text.endswith((":", "：")),
            "question answers itself": any(mark in text.lower() for mark in ANSWERED),
        }
        return self.drafted(text, tags, refuse(rules))

    async def _list(
        self, ask: Ask, prompts: Mapping[str, str], count: int, values: Mapping[str, str]
    ) -> tuple[str, ...]:
        """Return the entries of a list; each worker asks for a list once. `values` fill the prompt."""
        reply = await ask.shared(
            **template_for(prompts, values["language"]).begin(**values, count=count),
            max_tokens=16 * count,
            temperature=self.list_temperature,
            stop=(f"\n{count + 1}", "\n\n"),
            stop_loops=self.stop_loops,
        )
        return (
            () if reply.finish.startswith("error") else listed(f"1.{reply.text}", count, whole=reply.finish == "stop")
        )


def listed(text: str, count: int, *, whole: bool) -> tuple[str, ...]:
    """Return the distinct names in a numbered list, at most `count`; a list that was cut off loses its last name."""
    found = entries(text)[: None if whole else -1]
    short = (entry.split(":")[0].split("：")[0].strip(' .。;；*"“”《》') for entry in found)
    return tuple(dict.fromkeys(name for name in short if 0 < num_words(name) <= LONGEST_NAME))[:count]


def in_order(values: Sequence[str], count: int, rng: Random) -> list[str]:
    """Return `count` random values, or all if there are fewer, in their original order."""
    return [values[place] for place in sorted(rng.sample(range(len(values)), min(count, len(values))))]
