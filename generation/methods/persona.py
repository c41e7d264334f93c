"""Persona: describe a reader of a text, then a person close to that reader, and write a request of that person."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import cut_off, flat, refuse, stripped
from gristmill.cluster.text.template import (
    Prompt,
    Prompts,
    by_language,
    for_language,
    slots,
    template_for,
)
from gristmill.cluster.text.words import num_words, tokens
from gristmill.generation.contracts import Ask, Draft, EachInput, Input, Snapshot

PERSONA = {
    "en": (
        "Who would write, read or need each text? Describe the person in one sentence: trade or situation, place or "
        "field, and what is particular. Give no names.\n---\n"
        "Text: How do I keep my tomatoes from getting blight in a wet summer?\n"
        "Person: A retired postman who grows vegetables in a rainy valley and sells the rest to neighbours.\n\n"
        "Text: Prove that the square root of two is irrational.\n"
        "Person: A first-year student of mathematics who works nights at a petrol station and likes short proofs.\n\n"
        "Text: The ferry leaves at 6:40 and takes cars only on weekdays.\n"
        "Person: A travelling vet who serves the farms of three islands and plans each day around the tides.\n\n"
        "Text: {text}\nPerson: A"
    ),
    "zh": (
        "什么人会写、会读或者需要下面的文字？请用一句话描述这个人：职业或处境、地方或领域、与众不同之处。不要写姓名。\n---\n"
        "文字：夏天雨水多，怎样防止番茄得晚疫病？\n"
        "人物：一位退休邮递员，在多雨的山谷里种菜，吃不完的就卖给邻居。\n\n"
        "文字：证明根号二是无理数。\n"
        "人物：一位在加油站上夜班的数学系新生，喜欢短小的证明。\n\n"
        "文字：渡轮六点四十分开船，只有工作日可以载车。\n"
        "人物：一位走遍三座小岛农场的兽医，每天按潮汐安排行程。\n\n"
        "文字：{text}\n人物：一位"
    ),
}
"""Templates by language: from a text to a persona."""
RELATED = {
    "en": (
        "Each person knows another one. Describe that other person in one sentence: trade or situation, place or "
        "field, and what is particular. Give no names.\n---\n"
        "Person: A retired postman who grows vegetables in a rainy valley and sells the rest to neighbours.\n"
        "Who: a relative of another generation\n"
        "Other person: A teenage granddaughter who films cooking videos and wants to live without meat.\n\n"
        "Person: A first-year student of mathematics who works nights at a petrol station and likes short proofs.\n"
        "Who: somebody from whom this person learns\n"
        "Other person: A strict professor of algebra who repairs old radios and answers letters by hand.\n\n"
        "Person: {persona}\nWho: {relation}\nOther person: A"
    ),
    "zh": (
        "每个人物都认识另一个人。请用一句话描述这另一个人：职业或处境、地方或领域、与众不同之处。不要写姓名。\n---\n"
        "人物：一位退休邮递员，在多雨的山谷里种菜，吃不完的就卖给邻居。\n"
        "关系：不同辈分的亲人\n"
        "另一人：一位十几岁的孙女，爱拍做饭的视频，打算从此吃素。\n\n"
        "人物：一位在加油站上夜班的数学系新生，喜欢短小的证明。\n"
        "关系：教导此人的人\n"
        "另一人：一位严格的代数教授，业余修理老收音机，回信只用手写。\n\n"
        "人物：{persona}\n关系：{relation}\n另一人：一位"
    ),
}
"""Templates by language: from a persona to another persona."""
RELATIONS: Mapping[str, tuple[str, ...]] = {
    "en": (
        "a colleague from another trade",
        "somebody whom this person serves or teaches",
        "somebody from whom this person learns",
        "a relative of another generation",
        "a friend who shares a hobby",
        "somebody who holds the opposite opinion",
        "a neighbour who is new in town",
    ),
    "zh": (
        "来自另一行业的合作者",
        "受此人服务或教导的人",
        "教导此人的人",
        "不同辈分的亲人",
        "爱好相同的朋友",
        "观点相反的人",
        "刚搬来的邻居",
    ),
}
"""Relations of the next person to the person before, by language."""
INSTRUCTION = {
    "en": (
        "What would each person type to an assistant? Write one request with the details that it needs.\n---\n"
        "Person: A travelling vet who serves the farms of three islands and plans each day around the tides.\n"
        "User prompt: I visit four farms today and the causeway is closed from 10:30 to 12:15. Make a timetable from "
        "7:00 with 40 minutes for each farm and 20 minutes for each drive.\n\n"
        "Person: A teenage granddaughter who films cooking videos and wants to live without meat.\n"
        "User prompt: Suggest five names for a video channel about cheap vegetarian dinners.\n\n"
        "Person: A strict professor of algebra who repairs old radios and answers letters by hand.\n"
        "User prompt: Explain in plain words why an old radio hums, and which part I should check first.\n\n"
        "Person: {persona}\nUser prompt:"
    ),
    "zh": (
        "下面的人物会对智能助手输入什么？请写出一条请求，把所需的细节都写进去。\n---\n"
        "人物：一位走遍三座小岛农场的兽医，每天按潮汐安排行程。\n"
        "用户请求：我今天要去四个农场，堤道十点半到十二点一刻封闭。请从七点起排一张时间表，每个农场四十分钟，路上各二十分钟。\n\n"
        "人物：一位十几岁的孙女，爱拍做饭的视频，打算从此吃素。\n"
        "用户请求：我想开一个教人做便宜素食晚餐的视频号，请取五个名字。\n\n"
        "人物：一位严格的代数教授，业余修理老收音机，回信只用手写。\n"
        "用户请求：请用通俗的话解释老收音机为什么会有嗡嗡声，应该先检查哪个零件。\n\n"
        "人物：{persona}\n用户请求："
    ),
}
"""Templates by language: a request that a persona makes. The last line begins with the marker of the request."""
MATH = {
    "en": (
        "Write a mathematics problem from the life of each person, with the numbers that it needs and one answer. Do "
        "not solve it.\n---\n"
        "Person: A travelling vet who serves the farms of three islands and plans each day around the tides.\n"
        "Math problem: A vet drives 18 km to one farm, 27 km to the next and 15 km home. Her car needs 7 litres of "
        "petrol for 100 km. How many litres does the trip take?\n\n"
        "Person: A teenage granddaughter who films cooking videos and wants to live without meat.\n"
        "Math problem: A cook has 1400 g of lentils. She puts 200 g into a salad and serves 150 g to each guest. How "
        "many guests can she serve?\n\n"
        "Person: {persona}\nMath problem:"
    ),
    "zh": (
        "请从每个人物的生活中出一道数学题，给出所需的数字，只有一个答案。不要写解答。\n---\n"
        "人物：一位走遍三座小岛农场的兽医，每天按潮汐安排行程。\n"
        "数学题：兽医开车18公里到第一个农场，再开27公里到第二个，最后开15公里回家。汽车每百公里耗油7升，这趟路一共耗油多少升？\n\n"
        "人物：一位十几岁的孙女，爱拍做饭的视频，打算从此吃素。\n"
        "数学题：小厨师有1400克扁豆，先用200克做沙拉，再给每位客人盛150克，可以招待几位客人？\n\n"
        "人物：{persona}\n数学题："
    ),
}
"""Templates by language: a mathematics problem from the life of a persona."""
LOGIC = {
    "en": (
        "Write a puzzle of logical reasoning from the life of each person, with the facts that it needs and one "
        "answer. Do not solve it.\n---\n"
        "Person: A retired postman who grows vegetables in a rainy valley and sells the rest to neighbours.\n"
        "Logic problem: Four neighbours each grow one of beans, leeks, peas and squash. Ann grows neither beans nor "
        "peas. Bo grows leeks. Cem does not grow beans. Who grows squash?\n\n"
        "Person: A strict professor of algebra who repairs old radios and answers letters by hand.\n"
        "Logic problem: A radio hums whenever both the lamp and the heater are on. It does not hum now, and the lamp "
        "is on. Is the heater on?\n\n"
        "Person: {persona}\nLogic problem:"
    ),
    "zh": (
        "请从每个人物的生活中出一道逻辑推理题，给出所需的事实，只有一个答案。不要写解答。\n---\n"
        "人物：一位退休邮递员，在多雨的山谷里种菜，吃不完的就卖给邻居。\n"
        "逻辑题：四位邻居分别种豆角、大葱、豌豆和南瓜。甲不种豆角也不种豌豆，乙种大葱，丙不种豆角。谁种南瓜？\n\n"
        "人物：一位严格的代数教授，业余修理老收音机，回信只用手写。\n"
        "逻辑题：只要台灯和电暖器同时开着，收音机就会嗡嗡响。现在它没有响，而台灯开着。电暖器开着吗？\n\n"
        "人物：{persona}\n逻辑题："
    ),
}
"""Templates by language: a puzzle from the life of a persona."""
Want = Literal["instruction", "math", "logic"]
ECHOES = re.compile(
    r"user prompt\s*:|(?:math|logic) problem\s*:|(?:other )?person\s*:|\bpersona\b"
    r"|(?:用户请求|数学题|逻辑题|人物|另一人)\s*[:：]"
    r"|(?:^|\n)\s*(?:solution|answer|assistant|解答|答案|助手)\s*[:：]",
    re.IGNORECASE,
)
"""Words of the prompt or of an answer that a request must not contain."""


class Personas:
    """A fixed collection of personas, each as a set of words. `near` uses the exact Jaccard index."""

    def __init__(self, personas: Iterable[str]) -> None:
        """Index the personas. Personas with the same set of words are indexed once."""
        self._sets = [*dict.fromkeys(words for persona in personas if (words := frozenset(tokens(persona))))]
        self._places: dict[str, list[int]] = {}  # the personas with each word
        for place, words in enumerate(self._sets):
            for word in words:
                self._places.setdefault(word, []).append(place)

    def near(self, words: frozenset[str], similarity: float) -> bool:
        """Return whether the Jaccard index of the words and any persona is at least `similarity`.

        Then both sets share at least c = ceil(similarity * n) words, where n is the size of `words`. So the persona has
        at least one of the n - c + 1 rarest words of `words`. Only these words are looked up.
        """
        rarest = sorted(words, key=lambda word: (len(self._places.get(word, ())), word))
        looked = rarest[: len(words) - ceil(similarity * len(words)) + 1] if words else []
        found = {place for word in looked for place in self._places.get(word, ())}
        return any(len(words & self._sets[place]) >= similarity * len(words | self._sets[place]) for place in found)


@dataclass(frozen=True)
class PersonaIndex:
    """The personas of settled rows. Each round adds an index, so earlier rounds still see only their own personas."""

    layers: tuple[Personas, ...] = ()
    rows: int = 0
    """Number of kept rows that were read so far."""

    def near(self, persona: str, similarity: float) -> bool:
        """Return whether a persona is the same as one of these personas, or nearly the same."""
        words = frozenset(tokens(persona))
        return any(layer.near(words, similarity) for layer in self.layers)


class Persona(EachInput[PersonaIndex]):
    """Make a persona from a text, go to other persons by relations, and write a request of the last person.

    The same text and the same relations lead to the same person, and each worker asks for this person once. A persona
    that settled rounds have used is not used again, nor a persona that is nearly the same. Then one more step is taken;
    if no step is left, the draw is dropped. The persona is in the tag `persona`, and the number of steps from the text
    is in the tag `hops`.

    Source: Ge et al. 2024, Scaling Synthetic Data Creation with 1,000,000,000 Personas, arXiv:2406.20094, sections 2
    (text-to-persona, persona-to-persona up to six times, near-duplicates at a similarity of 0.9) and 4 (problems and
    user prompts through a persona). Departures: two or three cases are shown, which the model continues;
    near-duplicates are found by the exact Jaccard index of words (the paper estimates it by MinHash of 1-grams, and
    compares embeddings as well); they are compared with settled rounds only, so draws of one text in one round may
    share a person; relations are drawn from a list; all numbers of steps have equal chances.
    """

    kind: Literal["persona"] = "persona"
    guards: ClassVar[tuple[str, ...]] = ("standalone", "answer_kind")
    learns: ClassVar[bool] = True  # personas of settled rows are not made again
    feeds: ClassVar[tuple[Input, ...]] = ("seeds", "documents")
    wants: tuple[Want, ...] = Field(default=("instruction",), min_length=1)
    """What the persona asks for, with equal chances: a user's request, a mathematics problem, a puzzle."""
    languages: tuple[str, ...] = ()
    """Languages to write in, as ISO 639-1 codes, with equal chances; by default the language of the text."""
    max_hops: int = Field(default=2, ge=0, le=6)
    """Largest number of steps from the text's person to another person. The number is drawn between 0 and this."""
    max_similarity: float = Field(default=0.9, gt=0, le=1)
    """A persona is used before if the Jaccard index of its words with an earlier persona's words is at least this."""
    max_text_chars: int = Field(default=2000, gt=0)
    """Number of characters at the beginning of a text that the model sees."""
    max_persona_tokens: int = Field(default=80, gt=0)
    """Largest number of tokens of a persona."""
    persona_temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of the personas."""
    min_words: int = Field(default=5, ge=1)
    """Smallest number of words of a persona and of a request."""
    max_words: int = Field(default=200, gt=0)
    """Largest number of words of a request."""
    max_tokens: int = Field(default=200, gt=0)
    """Largest number of tokens of a request."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of the request."""
    max_answer_tokens: int = Field(default=512, gt=0)
    """Largest number of tokens of the answer."""
    answer_temperature: float = Field(default=0.3, ge=0, le=2)
    """Temperature of the answer."""
    stop_loops: bool = True
    """Whether a reply ends when it repeats itself four times in a row."""
    relations: dict[str, tuple[str, ...]] = Field(default_factory=lambda: dict(RELATIONS))
    """Relations of the next person to the person before, by language. `en` must be among the languages."""
    persona_prompts: Annotated[Prompts, slots("text")] = by_language(PERSONA)
    """Templates by language: from a text to a persona."""
    related_prompts: Annotated[Prompts, slots("persona", "relation")] = by_language(RELATED)
    """Templates by language: from a persona to another persona."""
    instruction_prompts: Annotated[Prompts, slots("persona")] = by_language(INSTRUCTION)
    """Templates by language: a request that a persona makes."""
    math_prompts: Annotated[Prompts, slots("persona")] = by_language(MATH)
    """Templates by language: a mathematics problem from the life of a persona."""
    logic_prompts: Annotated[Prompts, slots("persona")] = by_language(LOGIC)
    """Templates by language: a puzzle from the life of a persona."""

    async def prepare(self, snapshot: Snapshot, before: PersonaIndex | None, ask: Ask) -> PersonaIndex:
        """Return the personas that settled rounds have used; only rows that are new since `before` are read."""
        del ask
        last = before or PersonaIndex()
        new = (snapshot.made[place].tags.get("persona", "") for place in range(last.rows, len(snapshot.made)))
        return PersonaIndex((*last.layers, Personas(new)), len(snapshot.made))

    async def expand(self, parents: Sequence[Sample], ask: Ask[PersonaIndex], rng: Random) -> list[Draft]:
        """Return one draft that ends with the request of a persona."""
        language = rng.choice(self.languages) if self.languages else language_of(parents[0])
        want = rng.choice(self.wants)
        tags = {"language": language, "want": want}
        persona, hops, reason = await self._person(parents[0], language, ask, rng)
        if persona:
            tags |= {"persona": persona, "hops": str(hops)}
        if reason:
            return [self.drafted("", tags, reason)]
        prompts = {"instruction": self.instruction_prompts, "math": self.math_prompts, "logic": self.logic_prompts}
        template = template_for(prompts[want], language)
        prompt = template.begin(persona=persona)
        reply = await ask(
            **prompt,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=("\n\n", *template.stops(-1)),
            stop_loops=self.stop_loops,
        )
        text = stripped(reply.text, template.head(-1))
        reason = self.refusal(text, reply.finish, prompt["prefix"])
        return [self.drafted(text, tags, reason)]

    def refusal(self, text: str, finish: str, shown: str = "") -> str | None:
        """Return why a request is dropped before it is answered, or None; `shown` is the prompt's text before it."""
        words = num_words(text)
        rules = {
            **cut_off(finish, "request"),
            "request too short": words < self.min_words,
            "request too long": words > self.max_words,
            "request repeats words of the prompt": ECHOES.search(text) is not None or text in shown,
        }
        return refuse(rules)

    async def answer(self, draft: Draft, ask: Ask) -> Draft:
        """Answer the request. The model does not see the persona."""
        reply = await ask(
            draft.messages,
            max_tokens=self.max_answer_tokens,
            temperature=self.answer_temperature,
            stop_loops=self.stop_loops,
        )
        return self.answered(draft, reply)

    async def _person(
        self, parent: Sample, language: str, ask: Ask[PersonaIndex], rng: Random
    ) -> tuple[str, int, str | None]:
        """Return (a persona, the number of steps from the text, why it cannot be used, or None)."""
        text = "\n\n".join(turn.text for turn in parent.messages if turn.role != "system")[: self.max_text_chars]
        prompt = template_for(self.persona_prompts, language).begin(text=flat(text))
        hops, least = 0, rng.randint(0, self.max_hops)
        while True:
            persona, reason = await self._persona(prompt, ask)
            if reason:
                return persona, hops, reason
            near = ask.prepared.near(persona, self.max_similarity)
            if hops >= least and not near:
                return persona, hops, None
            if hops == self.max_hops:
                return persona, hops, "persona used before"
            relation = rng.choice(for_language(self.relations, language))
            prompt = template_for(self.related_prompts, language).begin(persona=persona, relation=relation)
            hops += 1

    async def _persona(self, prompt: Prompt, ask: Ask) -> tuple[str, str | None]:
        """Return (a persona with the beginning that the prompt gives, why it cannot be used, or None)."""
        prefix = prompt["prefix"]
        reply = await ask.shared(
            **prompt,
            max_tokens=self.max_persona_tokens,
            temperature=self.persona_temperature,
            stop=("\n",),
            stop_loops=self.stop_loops,
        )
        persona = (re.split(r"[:：]", prefix.rsplit("\n", 1)[-1])[-1].strip() + reply.text).strip()
        rules = {
            **cut_off(reply.finish, "persona"),
            "persona too short": num_words(persona) < self.min_words,
            "persona repeats words of the prompt": ECHOES.search(persona) is not None or persona in prefix,
        }
        return persona, refuse(rules)
