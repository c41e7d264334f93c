"""Augment: express an input in other words, and keep its label or answer."""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import cut_off, refuse
from gristmill.cluster.text.template import (
    Prompt,
    Prompts,
    Template,
    by_language,
    for_language,
    slots,
    template_for,
)
from gristmill.cluster.text.words import num_words
from gristmill.generation.contracts import Ask, Draft, EachInput, Input, Snapshot
from gristmill.generation.methods.augment import wordplay
from gristmill.generation.methods.augment.prompts import (
    LABEL,
    NAMES,
    PARALLEL,
    PARAPHRASE,
    PARTS,
    SYNONYM,
    TRANSLATE,
)
from gristmill.generation.methods.augment.synonyms import synonyms
from gristmill.generation.methods.augment.wordplay import Piece
from gristmill.generation.prompting.label_check import Case, LabelCheck

Operation = Literal[
    "synonym", "insert", "swap", "delete", "punctuate", "part_of_speech", "paraphrase", "back_translate"
]
SPOKEN: tuple[Operation, ...] = ("paraphrase", "back_translate")
"""Operations that ask the model for a complete text."""
WITH_SYNONYMS: tuple[Operation, ...] = ("synonym", "insert", "part_of_speech")
TRIES = 10
"""Largest number of attempts of one word operation to make a new text."""
MAX_ASKED = 8
"""Largest number of words of a text for which the model is asked for synonyms."""
MAX_SCANNED = 2000
"""Largest number of seeds that are searched for labelled demonstrations."""
MAX_SHOT_WORDS = 60
Labelled = Mapping[str, tuple[Sample, ...]]
"""Short seeds by label."""


class Augment(EachInput[Labelled]):
    """Make variants of an input. In each variant, one operation changes the first user turn; other turns stay.

    The inputs are the seeds. They are the documents if the job has no seeds.

    `synonym`, `insert`, `swap` and `delete` are the four operations of EDA. `punctuate` is AEDA. `part_of_speech`
    replaces words that have a clear part of speech by synonyms with the same part of speech. `paraphrase` and
    `back_translate` ask the model. The word operations never change numbers, code, addresses, quotations, template
    markers, names, negations, the answer if it is in the text, and the spans in the tags of `keep`. The model's texts
    must contain all of these unchanged, except negations.

    A variant is dropped in three cases: it equals its input or another variant; its embedding is too far from the
    input's embedding, which is not judged in a script that the encoder does not know; or, with `labels`, the model
    gives it another label than the input's label.

    Source: Wei and Zou 2019, EDA, arXiv:1901.11196, section 2 (n = alpha * length, alpha 0.1; the released code takes
    max(1, n) and keeps a word); Karimi et al. 2021, AEDA, arXiv:2108.13230, section 3 (1 to a third as many of six
    marks); Sennrich et al. 2016, arXiv:1511.06709 (back-translation), by the generating model in both directions.
    Departures: synonyms come from a small table of our own (about 800 English and 600 Chinese words, inflected),
    because WordNet has no maintained wheel with its data; with `synonyms = "model"` the model gives synonyms for words
    that the table lacks; English parts of speech are guessed from the table, endings and neighbours, and are unknown if
    these do not decide; Chinese words and their parts of speech come from jieba; names are recognised by capitals, so a
    text in lower case has no names; negations stay, because labels depend on them; an operation is tried again if its
    text is not new; languages other than English and Chinese have an empty table, and texts in other scripts without
    spaces have no words. For back-translation between English, Chinese, French, German and Spanish the model sees three
    translated sentences, for other languages none.
    """

    kind: Literal["augment"] = "augment"
    revision: ClassVar[int] = 3  # a job that has seeds and documents varies the seeds, whose labels are known
    feeds: ClassVar[tuple[Input, ...]] = ("seeds", "documents")
    operations: tuple[Operation, ...] = Field(default=("synonym", "insert", "swap", "delete"), min_length=1)
    """Operations, one for each variant, in a random order that repeats when there are more variants."""
    variants: int = Field(default=4, gt=0)
    """Number of variants of one input."""
    alpha: float = Field(default=0.1, gt=0, le=1)
    """Share of the words that an operation changes, at least one word. For `delete`, the chance of each word."""
    synonyms: Literal["table", "model"] = "table"
    """Source of synonyms. `table`: only the table. `model`: also the model, for words that the table lacks; each worker
    asks once for each word."""
    keep: tuple[str, ...] = ()
    """Tags with spans of the text that must stay. A tag has one span, or a JSON list of spans or of `{"text": …}`."""
    pivot: str = ""
    """Language into which back-translation translates first; by default Chinese for English texts, and English for all
    others."""
    min_cosine: float = Field(default=0.85, ge=0, le=1)
    """Smallest cosine of the embeddings of input and variant. With 0, nothing is embedded."""
    labels: tuple[str, ...] = ()
    """Labels for a check: the model must give a variant the input's label. Without labels there is no check.
    The label of the input is its tag `label`, else its answer."""
    shots: int = Field(default=2, ge=0)
    """Number of labelled seeds of each label that the model sees before it chooses."""
    max_tokens: int = Field(default=256, gt=0)
    """Largest number of tokens of a paraphrase or translation."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of a paraphrase. Translations use half of it."""
    prompts: Annotated[Prompts, slots("text")] = by_language(PARAPHRASE)
    """Templates by language: a paraphrase."""
    translate_prompts: Annotated[Prompts, slots("text", "to")] = by_language(TRANSLATE)
    """Templates by language: a translation. `{to}` is the name of the language to translate into."""
    synonym_prompts: Annotated[Prompts, slots("word", may=("part",))] = by_language(SYNONYM)
    """Templates by language: synonyms of a word. `{part}` is its part of speech."""
    label_prompts: Annotated[Prompts, slots("text", may=("labels",))] = by_language(LABEL)
    """Templates by language: the label of a text. `{labels}` are all labels."""

    def asks_model(self) -> bool:
        """Return whether any operation, the synonyms or the label check ask the model."""
        return bool(self.labels) or self.synonyms == "model" or any(name in SPOKEN for name in self.operations)

    def inputs(self, snapshot: Snapshot) -> Sequence[Sample]:
        """Return the seeds, or the documents if there are no seeds."""
        return snapshot.seeds or snapshot.documents

    async def prepare(self, snapshot: Snapshot, before: Labelled | None, ask: Ask) -> Labelled:
        """Return short seeds of each label: one more than `shots`, because an input is not shown as its own example."""
        del ask
        if before is not None:
            return before
        found: dict[str, list[Sample]] = {label: [] for label in self.labels}
        for sample in snapshot.seeds[:MAX_SCANNED] if self.labels else ():
            known = found.get(label_of(sample), [])
            if len(known) <= self.shots and num_words(sample.instruction) <= MAX_SHOT_WORDS:
                known.append(sample)
        return {label: tuple(samples) for label, samples in found.items()}

    async def expand(self, parents: Sequence[Sample], ask: Ask[Labelled], rng: Random) -> list[Draft]:
        """Return the variants of one input, including dropped variants."""
        (parent,) = parents
        if not parent.instruction.strip():
            return [Draft(parent.messages, dropped=f"{self.kind}: no text")]
        source = _Source(parent, language_of(parent), self.keep)
        order = rng.sample(self.operations, len(self.operations))
        chosen = [order[n % len(order)] for n in range(self.variants)]
        texts = await self._spoken(source, chosen, ask)
        known = await self._asked_synonyms(source, chosen, ask, rng)
        seen = {source.text}
        drafts = []
        for n, operation in enumerate(chosen):
            text, reason = texts.get(n) or (self._played(source, operation, known, seen, rng), None)
            if reason is None and text in seen:
                reason = "nothing to change" if text == source.text else "variant exists already"
            seen.add(text)
            drafts.append(self._draft(source, operation, text, reason))
        return await self._consistent(source, drafts, ask)

    async def answer(self, draft: Draft, ask: Ask) -> Draft:
        """Return the draft unchanged: if the input has no answer, its variant has none either."""
        del ask
        return draft

    def _draft(self, source: "_Source", operation: str, text: str, reason: str | None) -> Draft:
        turns = list(source.sample.messages)
        place = next(n for n, turn in enumerate(turns) if turn.role == "user")
        turns[place] = Message("user", text)
        tags = {**source.sample.tags, "language": source.language, "augmentation": operation}
        return Draft(tuple(turns), tags, f"{self.kind}: {reason}" if reason else None)

    def _played(
        self, source: "_Source", operation: Operation, known: Mapping[str, list[str]], seen: set[str], rng: Random
    ) -> str:
        """Return the text after a word operation; the operation is repeated while its text was seen before."""
        same_part = operation == "part_of_speech"

        def lookup(piece: Piece) -> Sequence[str]:
            word = piece.text.lower()
            return synonyms(word, piece.part if same_part else "", source.language) or known.get(word, ())

        pieces, number = source.pieces, wordplay.count(self.alpha, source.pieces)
        text = source.text
        for _ in range(TRIES):
            if operation == "swap":
                made = wordplay.swap(pieces, number, rng)
            elif operation == "delete":
                made = wordplay.delete(pieces, self.alpha, rng)
            elif operation == "punctuate":
                made = wordplay.punctuate(pieces, rng, source.language)
            elif operation == "insert":
                made = wordplay.insert(pieces, number, rng, lookup, source.language)
            else:
                made = wordplay.exchange(pieces, number, rng, lookup, same_part=same_part)
            text = wordplay.join(made)
            if text not in seen:
                break
        return text

    async def _asked_synonyms(
        self, source: "_Source", chosen: Sequence[Operation], ask: Ask, rng: Random
    ) -> dict[str, list[str]]:
        """Return the model's synonyms for words that the table lacks; nothing if only the table is used."""
        if self.synonyms == "table" or not set(WITH_SYNONYMS) & set(chosen):
            return {}
        words = {
            (piece.text.lower(), piece.part)
            for piece in source.pieces
            if piece.kind == "word"
            and piece.part
            and piece.text.lower() not in wordplay.STOP_WORDS
            and not synonyms(piece.text.lower(), piece.part, source.language)
        }
        asked = rng.sample(sorted(words), min(MAX_ASKED, len(words)))
        template, parts = template_for(self.synonym_prompts, source.language), for_language(PARTS, source.language)
        prompts = [template.begin(word=word, part=parts.get(part, part)) for word, part in asked]
        replies = await asyncio.gather(
            *(ask.shared(**prompt, max_tokens=24, temperature=0.0, stop=("\n",)) for prompt in prompts)
        )
        return {word: _single_words(reply.text, word) for (word, _), reply in zip(asked, replies, strict=True)}

    async def _spoken(
        self, source: "_Source", chosen: Sequence[Operation], ask: Ask
    ) -> dict[int, tuple[str, str | None]]:
        """Return the texts of the operations that ask the model, with a drop reason or None, by place in `chosen`."""
        places = [n for n, operation in enumerate(chosen) if operation in SPOKEN]
        pivot = self.pivot or ("zh" if source.language == "en" else "en")
        firsts = await asyncio.gather(
            *(
                self._paraphrase(source, ask)
                if chosen[n] == "paraphrase"
                else self._translate(source.text, source.language, pivot, ask)
                for n in places
            )
        )
        found = dict(zip(places, firsts, strict=True))
        back = [n for n in places if chosen[n] == "back_translate" and found[n].finish == "stop"]
        seconds = await asyncio.gather(
            *(self._translate(found[n].text.strip(), pivot, source.language, ask) for n in back)
        )
        found.update(zip(back, seconds, strict=True))
        return {n: self._checked(source, reply) for n, reply in found.items()}

    async def _paraphrase(self, source: "_Source", ask: Ask) -> Reply:
        template = template_for(self.prompts, source.language)
        return await self._said(template, template.begin(text=source.text), source.text, self.temperature, ask)

    async def _translate(self, text: str, language: str, to: str, ask: Ask) -> Reply:
        name = for_language(NAMES, language).get(to, to)
        template = template_for(self.translate_prompts, language)
        pairs = zip(PARALLEL[language], PARALLEL[to], strict=True) if {language, to} <= set(PARALLEL) else ()
        shots = "".join(template.shot(other, text=one, to=name) for one, other in pairs)
        prompt = template.begin("", shots, text=text, to=name)
        return await self._said(template, prompt, text, self.temperature / 2, ask)

    async def _said(self, template: Template, prompt: Prompt, text: str, temperature: float, ask: Ask) -> Reply:
        """Ask for a text in other words.

        A text of one line ends at the line break. A longer text ends where the next text would begin.
        """
        stop = template.stops(0) if "\n" in text.strip() else ("\n",)
        return await ask(**prompt, max_tokens=self.max_tokens, temperature=temperature, stop=stop, stop_loops=True)

    def _checked(self, source: "_Source", reply: Reply) -> tuple[str, str | None]:
        """Return (the text of a reply, why it is dropped, or None)."""
        text = reply.text.strip()
        rules = {
            **cut_off(reply.finish, "reply"),
            "reply is empty": not text,
            "a fixed span is lost": any(span not in text for span in source.spans),
        }
        return text, refuse(rules)

    async def _consistent(self, source: "_Source", drafts: Sequence[Draft], ask: Ask[Labelled]) -> list[Draft]:
        """Return the drafts. Drafts that changed the input's meaning or label are dropped."""
        checked = list(drafts)
        alive = [n for n, draft in enumerate(checked) if draft.dropped is None]
        if self.min_cosine and alive:
            texts = [_first_user(checked[n].messages) for n in alive]
            vectors = await ask.embed([source.text, *texts])
            for n, cosine in zip(alive, (vectors[1:] @ vectors[0]).tolist(), strict=True):
                if isnan(cosine):  # the encoder does not know the script
                    continue
                reason = f"{self.kind}: too far from the input" if cosine < self.min_cosine else None
                checked[n] = replace(checked[n], scores={"cosine": cosine}, dropped=reason)
        alive = [n for n in alive if checked[n].dropped is None] if self.labels else []
        replies = await asyncio.gather(*(self._label(source, _first_user(checked[n].messages), ask) for n in alive))
        for n, reply in zip(alive, replies, strict=True):
            checked[n] = self._labelled(source, checked[n], reply)
        return checked

    async def _label(self, source: "_Source", text: str, ask: Ask[Labelled]) -> Reply:
        """Ask which label a text has, after labelled seeds other than the input."""
        template = template_for(self.label_prompts, source.language)
        by_label = [[s for s in ask.prepared[label] if s.id != source.sample.id][: self.shots] for label in self.labels]
        rows = [label[n] for n in range(self.shots) for label in by_label if n < len(label)]
        shown = tuple(Case(source.language, row.instruction, "", label_of(row)) for row in rows)
        check = LabelCheck(source.language, template, self.labels, ", ".join(self.labels), shown)
        return await check.chances(text, "", ask, None)

    def _labelled(self, source: "_Source", draft: Draft, reply: Reply) -> Draft:
        label = label_of(source.sample)
        if not reply.choices:
            return replace(draft, dropped=f"{self.kind}: {reply.finish}")
        scores = {**draft.scores, "label": reply.choices.get(label, 0.0)}
        changed = max(reply.choices, key=lambda choice: reply.choices[choice]) != label
        return replace(draft, scores=scores, dropped=f"{self.kind}: label changed" if changed else None)


@dataclass(frozen=True)
class _Source:
    """An input in the form that the operations use."""

    sample: Sample
    language: str
    keep: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.sample.instruction

    @cached_property
    def pieces(self) -> list[Piece]:
        return wordplay.take_apart(self.text, self.language, kept_spans(self.sample, self.keep))

    @property
    def spans(self) -> list[str]:
        """The spans that a new text must contain: all fixed spans except negations."""
        fixed = (piece.text for piece in self.pieces if piece.kind == "fixed")
        return [span for span in fixed if not wordplay.negates(span)]


def label_of(sample: Sample) -> str:
    """Return the label of a sample: its tag `label`, else its answer."""
    return sample.tags.get("label") or sample.answer.strip()


def kept_spans(sample: Sample, keep: Iterable[str]) -> list[str]:
    """Return the spans of a sample that must stay: the spans in the tags of `keep`, and the answer if it is a span.

    An answer of one character is too short to be a span.
    """
    found = [span for tag in keep for span in _spans(sample.tags.get(tag, ""))]
    answer = sample.answer.strip()
    return [span for span in (*found, *([answer] if len(answer) > 1 else [])) if span and span in sample.instruction]


def _spans(value: str) -> list[str]:
    """Return the spans that a tag names: a JSON list of strings or of objects with `text`, or the value itself."""
    try:
        listed = json.loads(value)
    except ValueError:
        return [value]
    if not isinstance(listed, list):
        return [value]
    texts = [entry.get("text") if isinstance(entry, dict) else entry for entry in listed]
    return [text for text in texts if isinstance(text, str)]


def _first_user(messages: Sequence[Message]) -> str:
    return next(turn.text for turn in messages if turn.role == "user")


def _single_words(text: str, word: str) -> list[str]:
    """Return the single words in a list by the model, without the word that was asked about."""
    parts = [part.strip(" .。;；'\"").lower() for line in text.splitlines()[:1] for part in _commas(line)]
    return [part for part in dict.fromkeys(parts) if part.isalpha() and part != word and len(part) <= 20]


def _commas(line: str) -> list[str]:
    return line.replace("，", ",").replace("、", ",").split(",")
