"""Magpie: an aligned model writes the user's turn itself, from the template before it, and then answers."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.choices import BLANK
from gristmill.cluster.text.replies import cut_off, refuse
from gristmill.cluster.text.template import (
    SOME,
    Prompts,
    by_language,
    for_language,
    slots,
    system_turn,
    template_for,
    write,
)
from gristmill.generation.contracts import Ask, Draft, Input, Method, Snapshot
from gristmill.generation.prompting.choices import choose

SYSTEMS = {
    "en": {
        "general": "",
        "math": "You are a tutor of mathematics. People bring you problems, stated in full, and you solve them.",
        "code": "You are a programmer. People want a short piece of code from you, or an explanation of one.",
        "writing": "You are a writer. People want a text of a given kind on a given subject from you.",
        "advice": "You give advice. People tell you of a situation in their lives and want to know what to do.",
    },
    "zh": {
        "general": "你是一位中文助手。用户用中文提问，你用中文回答。",
        "math": "你是一位数学助手。用户用中文提出一道条件完整的数学题，你用中文解答。",
        "code": "你是一位编程助手。用户用中文请你写一小段代码或解释一段代码，你用中文回答。",
        "writing": "你是一位写作助手。用户用中文请你就某个题目写一段文字，你用中文回答。",
        "advice": "你是一位生活助手。用户用中文描述自己的处境并请你出主意，你用中文回答。",
    },
}
"""System prompts by language and domain. An empty prompt leaves the template as it is."""
FOLLOW = {
    "en": "You are a helpful assistant in a conversation of several turns, each about what was said before.",
    "zh": "你是一位中文助手，正在与用户进行多轮对话。用户会就前面说过的内容继续用中文追问。",
}
"""System prompt for later turns of the user, by language."""
QUALITIES = ("very poor", "poor", "average", "good", "excellent")
DIFFICULTIES = ("very easy", "easy", "medium", "hard", "very hard")
CATEGORIES = (
    "information seeking",
    "reasoning",
    "planning",
    "editing",
    "coding and debugging",
    "math",
    "data analysis",
    "creative writing",
    "role playing",
    "advice seeking",
    "brainstorming",
    "others",
)
REQUEST = "\n".join(
    (
        "Request: {request}",
        f"Quality: {{quality:{'|'.join(QUALITIES)}}}",
        f"Difficulty: {{difficulty:{'|'.join(DIFFICULTIES)}}}",
        f"Category: {{category:{'|'.join(CATEGORIES)}}}",
    )
)
RATE = {
    "en": write(
        "Rate each request to an assistant. Quality says how clear, specific and complete it is: "
        f"{', '.join(QUALITIES)}. Difficulty says how much knowledge and thought it takes: {', '.join(DIFFICULTIES)}. "
        f"Category is one of: {', '.join(CATEGORIES)}.",
        REQUEST,
        ("Name the three largest rivers in Africa and the sea that each flows into.", "good", "easy", CATEGORIES[0]),
        ("asdf the the what it", "very poor", "very easy", CATEGORIES[11]),
        (
            "I have 20 minutes, two eggs and a tin of beans. Suggest a dinner for one and list the steps in order.",
            "excellent",
            "easy",
            CATEGORIES[9],
        ),
        ("Can you help me?", "poor", "very easy", CATEGORIES[11]),
        ("Prove that the sum of two odd numbers is always even.", "good", "medium", CATEGORIES[5]),
        ("Write something about stuff.", "poor", "easy", CATEGORIES[7]),
        (
            "Write a Python function that merges two sorted lists in linear time, and explain why it is linear.",
            "excellent",
            "medium",
            CATEGORIES[4],
        ),
        ("What is the meaning of words?", "average", "hard", CATEGORIES[1]),
        ("Thank you for your help.", "very poor", "very easy", CATEGORIES[11]),
        ("Plan a week of training for somebody who wants to run 10 km in May.", "good", "medium", CATEGORIES[2]),
    ),
    "zh": write(
        f"请评价下面每条提给智能助手的请求。Quality表示是否清楚、具体、完整：{', '.join(QUALITIES)}。"
        f"Difficulty表示需要多少知识和思考：{', '.join(DIFFICULTIES)}。Category是下列之一：{', '.join(CATEGORIES)}。",
        REQUEST,
        ("说出非洲最长的三条河，并说明各自流入哪片海。", "good", "easy", CATEGORIES[0]),
        ("的的啊什么那个", "very poor", "very easy", CATEGORIES[11]),
        (
            "我有二十分钟、两个鸡蛋和一罐豆子，请推荐一人份的晚餐，并按顺序写出步骤。",
            "excellent",
            "easy",
            CATEGORIES[9],
        ),
        ("能帮我吗？", "poor", "very easy", CATEGORIES[11]),
        ("证明两个奇数之和一定是偶数。", "good", "medium", CATEGORIES[5]),
        ("随便写点东西。", "poor", "easy", CATEGORIES[7]),
        (
            "用Python写一个函数，在线性时间内合并两个有序列表，并解释为什么是线性的。",
            "excellent",
            "medium",
            CATEGORIES[4],
        ),
        ("话的意思是什么？", "average", "hard", CATEGORIES[1]),
        ("谢谢你的帮助。", "very poor", "very easy", CATEGORIES[11]),
        ("为想在五月跑完十公里的人制定一周训练计划。", "good", "medium", CATEGORIES[2]),
    ),
}
"""Quality, difficulty and category of a request, by language."""
ENDS_OPEN = (":", "：")


class Magpie(Method):
    """Let the model continue its chat template up to the end of the user's turn, and then answer that turn.

    The method needs a model that was trained on user turns too. If the template cannot be cut before the user's words,
    each row has an error. The tags `quality`, `difficulty` and `category` are chosen by constrained decoding. The score
    `request_quality` is the expected place on the scale of qualities, 1 to 5. Other parts of the published filter are
    separate steps: the filter `reward` for the reward of the answer (the paper keeps rewards above -10), and a selector
    for near-duplicates (distance below 0.05).

    Source: Xu et al. 2024, Magpie, arXiv:2406.08464, section 2 (steps 1 and 2, multi-turn), section 3 and appendix
    (tags, filter); released code: one line a request, T 1, top-p 1, greedy answers. Departures: min-p is 0.05 instead
    of 0, because 4 of 16 requests of the default model had words of no language without it, and none with it; tags are
    constrained choices after rated requests, calibrated by an empty request (Zhao et al. 2021, arXiv:2102.09690),
    instead of JSON after a rubric; tags come before the answer, so a poor request costs no answer; Chinese has a
    Chinese system prompt, because most models write English after the bare template; a system prompt is not part of the
    sample.
    """

    kind: Literal["magpie"] = "magpie"
    feeds: ClassVar[tuple[Input, ...]] = ()
    learns: ClassVar[bool] = False

    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Languages of the requests, as ISO 639-1 codes, with equal chances. Each needs system prompts in `systems`."""
    domains: tuple[str, ...] = Field(default=("general",), min_length=1)
    """Domains of the system prompts, with equal chances. In English, `general` is the template without a system
    prompt."""
    systems: dict[str, dict[str, str]] = Field(default_factory=lambda: {k: dict(v) for k, v in SYSTEMS.items()})
    """System prompts by language and domain."""
    turns: int = Field(default=1, ge=1, le=8)
    """Largest number of questions of a conversation. It ends earlier if the next question is not usable."""
    single_line: bool = True
    """Whether a request ends at its first line break, as in the released code."""
    temperature: float = Field(default=1.0, gt=0, le=2)
    """Temperature of the user's turns; at 0 all draws would be the same."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """`top_p` of the user's turns."""
    min_p: float = Field(default=0.05, ge=0, le=1)
    """`min_p` of the user's turns."""
    max_tokens: int = Field(default=256, gt=0)
    """Largest number of tokens of a request."""
    answer_temperature: float = Field(default=0.0, ge=0, le=2)
    """Temperature of the answers."""
    max_answer_tokens: int = Field(default=512, gt=0)
    """Largest number of tokens of an answer."""
    stop_loops: bool = True
    """Whether a reply ends when it repeats itself four times in a row."""
    qualities: tuple[str, ...] = ("good", "excellent")
    """Qualities of requests that are kept. If it is empty, all requests are kept and the quality is not asked for."""
    tag: bool = True
    """Whether difficulty and category are asked for too."""
    calibrate: bool = True
    """Whether the tags are calibrated by the model's answers for an empty request."""
    follow_prompts: Annotated[Prompts, slots()] = by_language(FOLLOW)
    """System prompts for the user's later turns, by language."""
    rate_prompts: Annotated[Prompts, slots("request", quality=SOME, difficulty=SOME, category=SOME)] = by_language(RATE)
    """Templates by language for quality, difficulty and category of a request. The words of `{quality}` must go from
    the worst to the best."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        absent = [f"{lang}.{name}" for lang in self.languages for name in self.domains if not self._has(lang, name)]
        if absent:
            raise ValueError(f"systems has no {', '.join(absent)}, must have one for each of languages and domains")
        templates = (template_for(self.rate_prompts, language) for language in self.languages)
        known = dict.fromkeys(quality for template in templates for quality in template.choices("quality"))
        unknown = [quality for quality in self.qualities if quality not in known]
        if unknown:
            raise ValueError(f"qualities has {', '.join(unknown)}, must be of {', '.join(known)}")
        return self

    def _has(self, language: str, domain: str) -> bool:
        return domain in self.systems.get(language, {})

    def draw(self, snapshot: Snapshot, turn: int, rng: Random) -> tuple[Sample, ...]:
        """Return no parents, because the model gets only the template."""
        del snapshot, turn, rng
        return ()

    async def expand(self, parents: Sequence[Sample], ask: Ask, rng: Random) -> list[Draft]:
        """Return one draft that ends with a user turn and has its tags. It is dropped if its quality is not wanted."""
        del parents
        language, domain = rng.choice(self.languages), rng.choice(self.domains)
        tags = {"language": language, "domain": domain}
        text, reason = await self._request(ask, system_turn(self.systems[language], domain))
        draft = self.drafted(text, tags, reason)
        return [draft if reason else await self._tagged(draft, text, ask)]

    async def answer(self, draft: Draft, ask: Ask) -> Draft:
        """Answer, then write and answer further turns of the user, up to `turns` in all."""
        language = draft.tags["language"]
        system = system_turn(self.systems[language], draft.tags["domain"])
        follow = (Message("system", template_for(self.follow_prompts, language).text()),)
        whole = await self._answer(draft, system, ask)
        for _ in range(1, self.turns):
            if whole.dropped is not None:
                break
            text, reason = await self._request(ask, (*follow, *whole.messages))
            if reason or any(text == turn.text for turn in whole.messages):
                break
            longer = await self._answer(replace(whole, messages=(*whole.messages, Message("user", text))), system, ask)
            if longer.dropped is not None:
                break
            whole = longer
        return replace(whole, tags={**whole.tags, "turns": str(len(whole.messages) // 2)})

    async def _request(self, ask: Ask, messages: tuple[Message, ...]) -> tuple[str, str | None]:
        """Return (the user's next turn, why it cannot be used, or None)."""
        reply = await ask(
            messages,
            role="user",
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            min_p=self.min_p,
            stop=("\n",) if self.single_line else (),
            stop_loops=self.stop_loops,
        )
        text = reply.text.strip()
        rules = {
            reply.finish: reply.finish.startswith("error"),
            "instruction is empty": not text,
            **cut_off(reply.finish, "instruction"),
            "instruction ends with a colon": text.endswith(ENDS_OPEN),
        }
        return text, refuse(rules)

    async def _answer(self, draft: Draft, system: tuple[Message, ...], ask: Ask) -> Draft:
        reply = await ask(
            (*system, *draft.messages),
            max_tokens=self.max_answer_tokens,
            temperature=self.answer_temperature,
            stop_loops=self.stop_loops,
        )
        return self.answered(draft, reply)

    async def _tagged(self, draft: Draft, text: str, ask: Ask) -> Draft:
        """Return the draft with its tags, dropped if its quality is not wanted. The quality is asked for first."""
        language, tags, scores = draft.tags["language"], dict(draft.tags), dict(draft.scores)
        template, known = template_for(self.rate_prompts, language), dict[str, str]()
        asked = [*(["quality"] if self.qualities else []), *(["difficulty", "category"] if self.tag else [])]
        for name in asked:
            prompt, empty = (
                template.begin(name, **known, request=one) for one in (text, for_language(BLANK, language))
            )
            reply = await choose(ask, prompt, max_tokens=8, blank=[empty] if self.calibrate else ())
            if not reply.choices:
                return replace(draft, tags=tags, dropped=f"{self.kind}: {reply.finish}")
            tags[name] = known[name] = max(reply.choices, key=lambda word: reply.choices[word])
            if name == "quality":
                places = enumerate(template.choices(name), 1)
                scores["request_quality"] = sum(place * reply.choices[word] for place, word in places)
                if tags[name] not in self.qualities:
                    return replace(draft, tags=tags, scores=scores, dropped=f"{self.kind}: quality is low")
        return replace(draft, tags=tags, scores=scores)
