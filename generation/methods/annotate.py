"""Annotate: labels, entities, extracted fields, translations and summaries for texts, by one or several annotators."""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from random import Random
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import json_in, one_line
from gristmill.cluster.text.template import (
    Prompt,
    Prompts,
    Template,
    by_language,
    for_language,
    gap,
    parse,
    slots,
    template_for,
)
from gristmill.cluster.text.words import num_words
from gristmill.generation.contracts import Ask, Draft, EachInput, Input, Sampling, Snapshot
from gristmill.generation.labels.annotators import ASKED_WITH, Annotator, Form, Vote, combined, entities
from gristmill.generation.prompting.choices import choose

PROMPTS: Mapping[Form, Mapping[str, str]] = {
    "label": {
        "en": "Which of these labels fits the text best: {labels}? Answer with the label alone.\n---\n"
        "Text: {text}\nLabel:",
        "zh": "下面哪个标签最符合这段文字：{labels}？只回答标签。\n---\n文字：{text}\n标签：",
    },
    "entities": {
        "en": "Find all names of these kinds in the text: {labels}. Copy each name exactly as it is written.\n---\n"
        "Text: {text}\nNames:",
        "zh": "找出文字中以下几类名称：{labels}。每个名称都要照原文抄写。\n---\n文字：{text}\n名称：",
    },
    "json": {
        "en": "Fill in a JSON object from the text. It must have this schema: {schema}\n---\nText: {text}\nJSON:",
        "zh": "根据文字填写一个JSON对象，格式为：{schema}\n---\n文字：{text}\nJSON：",
    },
    "translation": {
        "en": "Translate the text into {language}.\n---\nText: {text}\nTranslation:",
        "zh": "把这段文字翻译成{language}。\n---\n文字：{text}\n译文：",
    },
    "summary": {
        "en": "Summarise the text in at most {words} words.\n---\nText: {text}\nSummary:",
        "zh": "用不超过{words}个词概括这段文字。\n---\n文字：{text}\n概括：",
    },
}
"""Templates by form and language."""
LANGUAGES = {
    "en": {"en": "English", "zh": "Chinese", "de": "German", "fr": "French", "es": "Spanish", "ja": "Japanese"},
    "zh": {"en": "英文", "zh": "中文", "de": "德文", "fr": "法文", "es": "西班牙文", "ja": "日文"},
}
EMPTY = ("N/A", "...", "-")
"""Texts without content. With them the model's own bias to each label is measured."""
LEAST = 1e-6
"""Smallest divisor in the calibration. A smaller probability of a label for `EMPTY` texts counts as this."""


@dataclass(frozen=True)
class Demonstrations:
    """Labelled seeds, as texts by language. The model's turn begins with them."""

    texts: Mapping[str, tuple[str, ...]]

    def turned(self, language: str, order: int, orders: int) -> str:
        """Return the demonstrations of a language in one of several orders.

        Each order begins with a different demonstration.
        """
        texts = self.texts.get(language, ())
        first = order * len(texts) // orders
        return "".join((*texts[first:], *texts[:first]))


class VoteCall(NamedTuple):
    """A model call for the vote of one annotator."""

    annotator: Annotator
    order: int
    shown: str


class Annotate(EachInput[Demonstrations]):
    """Annotate each document, or each seed if there are no documents.

    The text is the user's turn, and the annotation is the assistant's turn. Labels, entities and JSON are decoded under
    a constraint, so they can be parsed. Each annotator's vote is in the tag `vote:<name>`, and its confidence is in the
    score `confidence:<name>`. The votes are combined to the answer and the score `confidence`: labels and single
    entities by majority; of several texts, the text that is most similar to the others is used. A label is also in the
    tag `label`. A label that the text had before is in the tag `gold`. Entities are a JSON array of text, label, start
    and end, verified against the text. With documents, seeds that have answers are shown as demonstrations.

    Source: confidence as the probability of a label over the labels, divided by its probability for a text without
    content: Zhao et al. 2021, Calibrate Before Use, arXiv:2102.09690, section 5; agreement of k samples: Wang et al.
    2022, arXiv:2203.11171, section 2; rules that vote or abstain: Ratner et al. 2017, Snorkel, arXiv:1711.10160,
    section 2. Departures: the confidence of free text is the geometric mean of its tokens' probabilities; votes are
    combined by majority here, and may be weighted in the review job.
    """

    kind: Literal["annotate"] = "annotate"
    example: ClassVar[Mapping[str, Any]] = {"labels": ["positive", "negative"]}
    instructs: ClassVar[bool] = False
    feeds: ClassVar[tuple[Input, ...]] = ("documents", "seeds")
    guards: ClassVar[tuple[str, ...]] = ("seed_label",)
    form: Form = "label"
    """Form of the annotation."""
    labels: tuple[str, ...] = ()
    """Labels of a text, or the kinds of entities in it."""
    json_schema: str = ""
    """JSON schema of the object to fill in, as JSON text."""
    to: str = "en"
    """Language of a translation, as an ISO 639-1 code."""
    max_words: int = Field(default=40, gt=0)
    """Largest number of words of a summary, named in the prompt."""
    annotators: tuple[Annotator, ...] = Field(default=(Annotator(name="model"),), min_length=1)
    """The annotators. Each of them has one vote."""
    calibrate: bool = True
    """Whether the probability of a label is divided by its probability for texts without content. Each worker asks for
    these once."""
    demonstrations: int = Field(default=8, ge=0)
    """Number of seeds with answers that are demonstrations if the job has documents. Their labels alternate."""
    max_demo_words: int = Field(default=100, gt=0)
    """Longer seeds are not shown."""
    with_prompt: bool | None = None
    """Whether the sample's user turn contains the request; by default not for labels and entities."""
    min_confidence: float = Field(default=0.0, ge=0, le=1)
    """Samples with a lower confidence are dropped."""
    max_tokens: int = Field(default=256, gt=0)
    """Largest number of tokens of an answer that is not a label."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature if an annotator gives several samples. A single sample has temperature 0."""
    prompts: Annotated[Prompts, slots("text", may=ASKED_WITH)] = by_language(PROMPTS, by="form")
    """Templates by language; by default the templates of the `form`. `{language}` is the name of the language `to`,
    `{words}` is `max_words`."""

    @model_validator(mode="after")
    def _fits(self) -> "Annotate":
        names = [annotator.name for annotator in self.annotators]
        if len({*names}) < len(names):
            raise ValueError("annotators: two have the same name, each must have its own")
        if self.form in ("label", "entities") and len({*self.labels}) < (2 if self.form == "label" else 1):
            raise ValueError(f"labels: form {self.form!r} needs {'two or more' if self.form == 'label' else 'some'}")
        if self.form == "json" and not isinstance(json_in(self.json_schema), dict):
            raise ValueError("json_schema: must be a JSON object, the schema of what is filled in")
        ruled = {label for annotator in self.annotators for _, label in annotator.rules}
        if ruled and (self.form != "label" or not ruled <= {*self.labels}):
            raise ValueError("annotators: rules vote for labels alone, and for those in `labels`")
        return self

    def engines(self) -> tuple[str, ...]:
        """Return the engines of all annotators that ask a model."""
        asked = {annotator.engine or self.engine_name() for annotator in self.annotators if not annotator.rules}
        return tuple(sorted(asked))

    async def prepare(self, snapshot: Snapshot, before: Demonstrations | None, ask: Ask) -> Demonstrations:
        """Return the demonstrations, which stay the same in all rounds."""
        del ask
        if before is not None:
            return before
        seeds = snapshot.seeds if len(snapshot.documents) else ()
        answered = [s for s in seeds if s.answer and num_words(f"{s.instruction} {s.answer}") <= self.max_demo_words]
        languages = sorted({language_of(seed) for seed in answered})
        return Demonstrations(
            {one: self._shown([s for s in answered if language_of(s) == one], one) for one in languages}
        )

    async def expand(self, parents: Sequence[Sample], ask: Ask[Demonstrations], rng: Random) -> list[Draft]:
        """Return the annotated text."""
        del rng
        parent = parents[0]
        text, language = parent.instruction, language_of(parent)
        known = {name: word for name, word in parent.tags.items() if name not in ("label", "language")}
        tags = {**known, **({} if self.form == "translation" else {"language": language})}
        if "label" in parent.tags:
            tags["gold"] = parent.tags["label"]
        votes, reason = await self._votes(text, language, ask)
        tags.update({f"vote:{name}": vote.answer for name, vote in votes.items()})
        scores = {f"confidence:{name}": vote.confidence for name, vote in votes.items()}
        told = template_for(self.prompts, language).text(**self._values(language))
        opened = Message("user", f"{told}\n\n{text}" if self._told else text)
        if not votes:
            return [Draft((opened,), tags, f"{self.kind}: {reason}")]
        whole = combined(list(votes.values()), self.form)
        scores["confidence"] = whole.confidence
        if self.form == "label":
            tags["label"] = whole.answer
        low = whole.confidence < self.min_confidence
        messages = (opened, Message("assistant", whole.answer))
        return [Draft(messages, tags, f"{self.kind}: confidence too low" if low else None, scores)]

    @property
    def _told(self) -> bool:
        return self.form not in ("label", "entities") if self.with_prompt is None else self.with_prompt

    async def _votes(self, text: str, language: str, ask: Ask[Demonstrations]) -> tuple[dict[str, Vote], str]:
        """Return (the votes by annotator, why a vote is missing). Annotators that abstain or fail have no vote."""
        calls = [call for annotator in self.annotators for call in self._calls(annotator, ask.prepared, language)]
        replies = await asyncio.gather(*(self._ask(call, text, language, ask) for call in calls))
        read = [self._read(reply, text) for reply in replies]
        reason = next((why for why in read if isinstance(why, str)), "no annotator has an opinion")
        votes: dict[str, Vote] = {}
        for annotator in self.annotators:
            said = [vote for call, vote in zip(calls, read, strict=True) if call.annotator is annotator]
            sure = [vote for vote in said if isinstance(vote, Vote)]
            alike = [Vote(vote.answer, 1.0) for vote in sure] if len(sure) > 1 else sure
            vote = annotator.ruled(text) if annotator.rules else combined(alike, self.form) if alike else None
            if vote:
                votes[annotator.name] = vote
        return votes, reason

    def _calls(self, annotator: Annotator, shown: Demonstrations, language: str) -> list[VoteCall]:
        """Return the calls of one annotator: none for rules, and one if several calls could not differ."""
        same = self.form == "label" and len(shown.texts.get(language, ())) < 2
        count = 0 if annotator.rules else 1 if same else annotator.samples
        return [VoteCall(annotator, n, shown.turned(language, n, count)) for n in range(count)]

    async def _ask(self, call: VoteCall, text: str, language: str, ask: Ask) -> Reply:
        """Ask one annotator's model; labels are calibrated by texts without content."""
        prompt, template = self._prompt(call, text, language), self._template(call.annotator, language)
        settings: Sampling = {
            "temperature": self.temperature if call.annotator.samples > 1 else 0.0,
            "engine": call.annotator.engine or self.engine_name(),
            "logprobs": self.form != "label",
        }
        if self.form == "label":
            labels = tuple(f"{gap(prompt['prefix'])}{label}" for label in self.labels)
            empty = [self._prompt(call, blank, language) for blank in EMPTY] if self.calibrate else []
            asked, *blank = (Prompt(**one, choices=labels) for one in (prompt, *empty))
            prior = None if self.calibrate else dict.fromkeys(labels, 1.0)
            return await choose(ask, asked, max_tokens=16, blank=blank, prior=prior, least=LEAST, **settings)
        if self.form in ("entities", "json"):
            settings["json_schema"] = self.json_schema if self.form == "json" else entity_schema(self.labels)
        else:
            settings["stop"], settings["stop_loops"] = ("\n\n", *template.stops(0)), True
        settings["prefix"] = prompt["prefix"]
        return await ask(prompt["messages"], max_tokens=self.max_tokens, **settings)

    def _read(self, reply: Reply, text: str) -> Vote | str:
        """Return the vote in a reply, or why it has none."""
        if reply.finish.startswith("error"):
            return reply.finish
        if self.form == "label":
            best = max(reply.choices, key=lambda label: reply.choices[label], default="")
            return Vote(best.strip(), reply.choices[best]) if best else "answer is no label"
        if reply.finish != "stop":
            return "answer cut off"
        likely = math.exp(reply.logprob / max(1, reply.reply_tokens)) if reply.logprob is not None else 1.0
        answer: str | None = reply.text.strip() or None
        if self.form in ("entities", "json"):
            value = json_in(reply.text)
            answer = None if value is None else json.dumps(value, ensure_ascii=False)
        if self.form == "entities" and answer is not None:
            given, answer = answer, entities(answer, text, self.labels)
            if answer == "[]" and given not in ("[]", '{"entities": []}'):
                return "no named words are in the text"
        return "answer does not parse" if answer is None else Vote(answer, likely)

    def _template(self, annotator: Annotator, language: str) -> Template:
        """Return the template of an annotator: its own, or the method's with the annotator's user turn."""
        template, own = template_for(self.prompts, language), parse(annotator.prompt)
        return own if own.case else replace(template, ask=own.ask or template.ask)

    def _prompt(self, call: VoteCall, text: str, language: str) -> Prompt:
        """Return the prompt. The text follows the demonstrations in the model's turn, or is in the user's turn."""
        template = self._template(call.annotator, language)
        values = {**self._values(language), "text": one_line(text)}
        if call.shown or template.shots:
            return template.begin("", call.shown, **values)
        body, _, start = template.lead(**values).rpartition("\n")
        return Prompt(messages=(Message("user", f"{template.text(**values)}\n\n{body}"),), prefix=start)

    def _values(self, language: str) -> dict[str, str]:
        """Return the values of the placeholders except the text."""
        labels = ("、" if language == "zh" else ", ").join(self.labels)
        name = for_language(LANGUAGES, language).get(self.to, self.to)
        return {"labels": labels, "schema": self.json_schema, "language": name, "words": str(self.max_words)}

    def _shown(self, answered: Sequence[Sample], language: str) -> tuple[str, ...]:
        """Return the demonstrations of one language, in which the labels alternate."""
        template, values = template_for(self.prompts, language), self._values(language)
        by_label: dict[str, list[Sample]] = {}
        for seed in answered:
            group = seed.tags.get("label", seed.answer) if self.form == "label" else ""
            if self.form != "label" or group in self.labels:
                by_label.setdefault(group, []).append(seed)
        turns = [seed for some in zip_longest(*by_label.values()) for seed in some if seed is not None]
        return tuple(
            template.shot(self._said(seed), text=one_line(seed.instruction), **values)
            for seed in turns[: self.demonstrations]
        )

    def _said(self, seed: Sample) -> str:
        """Return the answer of a seed in the form that the model must use."""
        if self.form == "label":
            return seed.tags.get("label", seed.answer)
        listed = json_in(seed.answer) if self.form == "entities" else None
        if not isinstance(listed, list):
            return one_line(seed.answer)
        short = [{"text": e.get("text"), "label": e.get("label")} for e in listed if isinstance(e, dict)]
        return json.dumps(short, ensure_ascii=False)


def entity_schema(labels: Sequence[str]) -> str:
    """Return the JSON schema of a list of texts with labels."""
    fields = {"text": {"type": "string", "minLength": 1}, "label": {"enum": list(labels)}}
    entry = {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}
    return json.dumps({"type": "array", "items": entry, "maxItems": 20}, ensure_ascii=False)
