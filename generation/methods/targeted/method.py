"""Targeted: texts for a set of labels, balanced and varied on purpose; the model checks that each has its label."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.contract.settings import STRINGS, short_forms
from gristmill.cluster.text import spans as marks
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import cut_off, one_line, refuse, stripped
from gristmill.cluster.text.template import (
    Prompt,
    Prompts,
    by_language,
    for_language,
    slots,
    template_for,
)
from gristmill.cluster.text.words import num_words, tokens
from gristmill.generation.contracts import Ask, Draft, Input, Method, Snapshot
from gristmill.generation.methods.targeted.balance import label_of, weights_of
from gristmill.generation.methods.targeted.prompts import (
    ABOUT,
    BETWEEN,
    CHARS_PER_WORD,
    CHECK,
    CHECK_MARKED,
    DETAIL,
    DIFFICULTIES,
    EXPLAINED,
    INSTRUCTION,
    INSTRUCTION_MARKED,
    OTHER,
    STYLES,
    WRITE,
    WRITE_MARKED,
)
from gristmill.generation.prompting.draws import wander
from gristmill.generation.prompting.label_check import Case, LabelCheck

Task = Literal["classification", "entities"]
LOOK = 128
"""Largest number of samples that a round reads to count the labels."""
MAX_SHOWN = 12
"""Largest number of labelled texts with which a check begins."""


@dataclass(frozen=True)
class Evidence:
    """The values of a round: the weight of each label, and labelled texts for the check, equally many of each label."""

    weights: tuple[float, ...] = ()
    """The weights of the labels in sorted order; empty before any row is settled."""
    shown: tuple[Case, ...] = ()
    priors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The model's bias by language: the probabilities that it gives for texts without a meaning."""


class Targeted(Method[Evidence]):
    """Write texts for the labels in turn, then ask the model for the label of each, and drop texts with another label.

    A sample is the labelling task itself. The user's turn has the instruction and the text; the assistant's turn has
    the label, or the spans as JSON. Code makes both from the request, so every answer parses, and the spans are exact:
    the text is written with marks such as `[Berlin](city)`, under a grammar that allows no other. The tag `label` is
    the label that was asked for. The tags `style`, `difficulty`, `length` and `near_miss` say how it was asked for. The
    score `label_confidence` is the model's probability of the label; of several spans, the smallest probability.

    Seeds with the tag `label` (texts with marks or JSON spans for entities) begin the model's turn, as a list that it
    continues. Five seeds a label are enough, and a larger model needs none. The turn decides the label, so draws are
    balanced. After rows are settled, the turns go to the labels that are short of their share. Each label has exactly
    its share of the kept samples: more are dropped as `target: enough of <label>`, and the job continues until all
    labels have their share. If a job reaches `max_drafts` before that, it fails and names the labels that are short.

    Source: Ye et al. 2022, ZeroGen, arXiv:2202.07922, sections 2 and 3 (texts by label from a prompt; label checked by
    the model in the follow-ups); Yu et al. 2023, AttrPrompt, arXiv:2306.15895, section 3 (length, style and other
    attributes drawn at random); Fei et al. 2023, arXiv:2305.19740, section 4 (the check is calibrated by texts of
    random words from the domain; by an empty text where there are no seeds, Zhao et al. 2021, arXiv:2102.09690).
    Departures: demonstrations instead of none; attributes from a list of ours; near-miss texts; most of the balance
    comes from the draws, and little is cut from the larger classes.
    """

    kind: Literal["targeted"] = "targeted"
    example: ClassVar[Mapping[str, Any]] = {"labels": ["praise", "complaint"]}
    feeds: ClassVar[tuple[Input, ...]] = ()
    guards: ClassVar[tuple[str, ...]] = ("on_topic", "seed_label")
    labels: dict[str, str] = Field(min_length=1, json_schema_extra=short_forms(STRINGS))
    """Names of the labels with their meanings, or a plain list of names."""
    task: Task = "classification"
    """Whether each text has one label, or labelled spans."""
    about: str = ""
    """A name for the kind of texts, such as `film reviews`."""
    languages: tuple[str, ...] = ()
    """Languages to write in, as ISO 639-1 codes; by default the languages of the seeds, else English."""
    quota: dict[str, int] = Field(default_factory=dict)
    """Weight of each label relative to the others; 1 by default."""
    balanced: bool = True
    """Whether the kept samples have exactly the weights of `quota`. If not, only the draws have these weights, and a
    label that the model writes badly gets fewer samples."""
    num_demos: int = Field(default=5, ge=0)
    """Number of seeds of the label that the model sees."""
    max_demo_words: int = Field(default=80, gt=0)
    """Longer seeds are not shown."""
    lengths: tuple[int, ...] = Field(default=(8, 15, 30), min_length=1)
    """Lengths to ask for, in words. One and a half Chinese characters count as a word."""
    styles: dict[str, tuple[str, ...]] = Field(default_factory=lambda: dict(STYLES))
    """Styles to ask for, by language. With an empty list, no style is asked for."""
    difficulties: dict[str, tuple[str, ...]] = Field(default_factory=lambda: dict(DIFFICULTIES))
    """How obvious the label must be, by language. With an empty list, nothing is asked for."""
    near_miss: float = Field(default=0.2, ge=0, le=1)
    """Share of texts that should look like another label at first sight."""
    min_words: int = Field(default=3, ge=1)
    """Smallest number of words of a text."""
    max_words: int = Field(default=150, gt=0)
    """Largest number of words of a text."""
    label_words: bool = False
    """Whether a text may contain the name of its own label, which reveals the label."""
    tries: int = Field(default=3, ge=1)
    """Largest number of texts that one draw writes until one is good, so that labels with many drops lose less."""
    max_tokens: int = Field(default=128, gt=0)
    """Largest number of tokens of a text."""
    temperature: float = Field(default=0.8, ge=0, le=2)
    """Temperature of the text."""
    check: bool = True
    """Whether the model is asked for the label of each text."""
    calibrate: bool = True
    """Whether the check is calibrated by the model's answers for texts without meaning."""
    min_margin: float = Field(default=0.0, ge=-1, le=1)
    """Smallest margin between the probabilities of the label and of the likeliest other label; -1 drops nothing."""
    write_prompts: Annotated[Prompts, slots("about", "labels", "label", "words", "details")] = by_language(
        {"classification": WRITE, "entities": WRITE_MARKED}, by="task"
    )
    """Templates by language for texts, one a line; by default the templates of the `task`."""
    instruction_prompts: Annotated[Prompts, slots("text", may=("labels",))] = by_language(
        {"classification": INSTRUCTION, "entities": INSTRUCTION_MARKED}, by="task"
    )
    """The user turn of a sample, by language, with `{text}`, and perhaps `{labels}`."""
    check_prompts: Annotated[Prompts, slots("labels", "text", may=("words",))] = by_language(
        {"classification": CHECK, "entities": CHECK_MARKED}, by="task"
    )
    """Templates by language for the label of a text; for entities, the label of its `{words}`."""

    @field_validator("labels", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        named = dict.fromkeys(value, "") if isinstance(value, list | tuple) else value
        # the order of the keys must not be part of the fingerprint
        return dict(sorted(named.items())) if isinstance(named, dict) else named

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.task == "classification" and len(self.labels) < 2:
            raise ValueError("labels has one name, must have two at least")
        no = set("[]()\n" if self.task == "entities" else "\n")
        bad = [name for name in self.labels if name != name.strip() or not name or set(name) & no]
        if bad:
            raise ValueError(f"labels has {bad[0]!r}, must be a name without blanks around, {sorted(no)} in it")
        unknown = [name for name in self.quota if name not in self.labels or self.quota[name] < 1]
        if unknown:
            raise ValueError(f"quota has {unknown[0]!r}, must give labels a share of 1 or more")
        return self

    def frames(self) -> tuple[tuple[str, str], ...]:
        """Return the instruction in each language as two texts: the part before a sample's text and the part after."""
        framed = (
            self._instruction(language, "\0").partition("\0") for language in {**self.instruction_prompts, **BETWEEN}
        )
        return tuple((begin, end) for begin, _, end in framed)

    # -- which label, from which seeds ----------------------------------------------------------------------------

    def draw(self, snapshot: Snapshot, turn: int, rng: Random) -> tuple[Sample, ...]:
        """Return seeds of the turn's label in a fixed order, so that few seeds make few different prefixes."""
        label = self.label_of(turn, self.weights(snapshot))
        found: list[Sample] = []
        for seed in wander(rng, snapshot.seeds):
            if self.num_demos and label in self._labels_of(seed) and self._speaks(seed, found):
                found.append(seed)
            if len(found) >= self.num_demos:
                break
        return tuple(sorted(found, key=lambda seed: seed.id))

    def _speaks(self, seed: Sample, found: Sequence[Sample]) -> bool:
        """Return whether a seed is short, and in the language of the seeds found so far or else in a wanted one."""
        language = language_of(seed)
        wanted = (language_of(found[0]),) if found else self.languages
        return (not wanted or language in wanted) and num_words(seed.instruction) <= self.max_demo_words

    def label_of(self, turn: int, weights: Sequence[float]) -> str:
        """Return the label of a turn: the next label of a cycle, or a label by weight if there are weights."""
        return label_of(turn, self._shares(), weights)

    def weights(self, snapshot: Snapshot) -> tuple[float, ...]:
        """Return the weight of each label, in sorted order; empty before any row is settled."""
        if not len(snapshot.made):
            return ()
        made, refused = self._counts(snapshot.made, snapshot.round), self._counts(snapshot.refused, snapshot.round)
        return weights_of(self._shares(), made, refused, snapshot.round, self.tries)

    def shares(self) -> Mapping[str, int]:
        """Return the weights of the labels among the kept samples."""
        return self._shares() if self.balanced else {}

    def _shares(self) -> dict[str, int]:
        return {name: self.quota.get(name, 1) for name in sorted(self.labels)}

    def _counts(self, samples: Sequence[Sample], round_: int) -> Mapping[str, float]:
        """Return how many of the samples have each label; for many samples, an estimate from `LOOK` of them."""
        rows = list(wander(ids.stream("counts", round_), samples, tries=LOOK))
        counts = Counter(row.tags.get("label", "") for row in rows if row.method == self.kind)
        return {name: counts[name] * len(samples) / max(1, len(rows)) for name in self.labels}

    def _labels_of(self, seed: Sample) -> frozenset[str]:
        """Return the labels of a seed that are in `labels`."""
        if self.task == "classification":
            return frozenset({seed.tags.get("label", "")} & self.labels.keys())
        marked = marks.of_seed(seed, self.labels)
        found = marks.read(marked, self.labels) if marked else None
        return frozenset(span.label for span in found[1]) if found else frozenset()

    async def prepare(self, snapshot: Snapshot, before: Evidence | None, ask: Ask) -> Evidence:
        """Return the weights of the round. The texts to show and the model's bias are the same in all rounds."""
        weights = self.weights(snapshot)
        if before is not None:
            return replace(before, weights=weights)
        shown: dict[tuple[str, str], list[Case]] = {}
        for place in range(min(len(snapshot.seeds), LOOK * len(self.labels))):
            for case in self._shown(snapshot.seeds[place]):
                shown.setdefault((case.language, case.label), []).append(case)
        most = max(1, MAX_SHOWN // len(self.labels))
        even = (ones[place] for place in range(most) for _, ones in sorted(shown.items()) if place < len(ones))
        cases, priors = tuple(even), {}
        for language in sorted({case.language for case in cases}) if self.check and self.calibrate else ():
            priors[language] = await self._check(language, cases).prior(ask)
        return Evidence(weights, cases, priors)

    def _shown(self, seed: Sample) -> Iterable[Case]:
        language = language_of(seed)
        if num_words(seed.instruction) > self.max_demo_words:
            return
        if self.task == "classification":
            for label in self._labels_of(seed):
                yield Case(language, self._text_of(seed), "", label)
            return
        marked = marks.of_seed(seed, self.labels)
        plain, spans = (marks.read(marked, self.labels) if marked else None) or ("", ())
        for span in spans:
            yield Case(language, plain, span.text, span.label)

    # -- the text -------------------------------------------------------------------------------------------------

    async def expand(self, parents: Sequence[Sample], ask: Ask[Evidence], rng: Random) -> list[Draft]:
        """Return the dropped attempts of a draw, and after them the finished sample, if there is one."""
        label, drafts = self.label_of(ask.turn, ask.prepared.weights), list[Draft]()
        while len(drafts) < self.tries:
            drafts.append(await self._draft(label, parents, ask, rng))
            if drafts[-1].dropped is None or drafts[-1].dropped.startswith(f"{self.kind}: error"):
                break
        return drafts

    async def _draft(self, label: str, parents: Sequence[Sample], ask: Ask[Evidence], rng: Random) -> Draft:
        """Return the sample of one label, checked."""
        language = language_of(parents[0]) if parents else rng.choice(self._languages(ask))
        tags = {"language": language, "label": label, **self._attributes(label, language, rng)}
        labels = list(self.labels)
        reply = await ask(
            **self._begun(tags, parents),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=("\n",),
            stop_loops=True,
            regex=marks.grammar(labels, label) if self.task == "entities" else "",
        )
        text = stripped(one_line(reply.text))
        found = marks.read(text, labels) if self.task == "entities" else (text, ())
        plain, spans = found or (text, ())
        answer = marks.dumps(spans) if self.task == "entities" else label
        instruction = self._instruction(language, plain)
        draft = Draft((Message("user", instruction), Message("assistant", answer)) if plain else (), tags)
        reason = self.refusal(plain, label, reply.finish)
        if any(tokens(text) == tokens(self._text_of(parent)) for parent in parents):
            reason = reason or "text repeats a seed"
        if reason is None and self.task == "entities":
            reason = _misfit(found, label)
        if reason:
            return replace(draft, dropped=f"{self.kind}: {reason}")
        return await self._checked(draft, plain, spans, ask) if self.check else draft

    def _instruction(self, language: str, text: str) -> str:
        """Return the user's turn of a sample."""
        names = for_language(BETWEEN, language).join(self.labels)
        return template_for(self.instruction_prompts, language).text(labels=names, text=text)

    def _languages(self, ask: Ask[Evidence]) -> tuple[str, ...]:
        """Return the languages to write in if no seed decides."""
        return self.languages or tuple(sorted({case.language for case in ask.prepared.shown})) or ("en",)

    def _attributes(self, label: str, language: str, rng: Random) -> dict[str, str]:
        """Return the requirements for the text, except its label, as tags.

        The number of random draws is always the same.
        """
        styles, hard = (values.get(language, values.get("en", ())) for values in (self.styles, self.difficulties))
        others = [name for name in sorted(self.labels) if name != label] or [label]
        drawn = {
            "length": str(rng.choice(self.lengths)),
            "style": rng.choice(styles or ("",)),
            "difficulty": rng.choice(hard or ("",)),
            "near_miss": rng.choice(others),
        }
        if rng.random() >= self.near_miss:
            del drawn["near_miss"]
        return {name: value for name, value in drawn.items() if value}

    def _begun(self, tags: Mapping[str, str], parents: Sequence[Sample]) -> Prompt:
        """Return the user's request, and the beginning of the model's turn: seeds of the label, then the attributes."""
        language, label, lines = tags["language"], tags["label"], ""
        template, detail = template_for(self.write_prompts, language), for_language(DETAIL, language)
        per_word = CHARS_PER_WORD.get(language, 1.0)
        for text in map(self._text_of, parents):
            plain = (marks.read(text, self.labels) or (text, ()))[0]
            words = round(num_words(plain) * per_word)
            lines += f"{template.lead(label=label, words=words, details='')} {text}\n"
        details = "".join(detail[name].format(tags[name]) for name in detail if name in tags)
        words, about = round(int(tags["length"]) * per_word), self.about or for_language(ABOUT, language)
        known = {"about": about, "labels": self._explained(language), "label": label}
        return template.begin("", lines, **known, words=words, details=details)

    def _text_of(self, seed: Sample) -> str:
        """Return the text of a seed on one line, with its marks if the task has them."""
        text = seed.instruction if self.task == "classification" else marks.of_seed(seed, self.labels) or ""
        return one_line(text)

    def _explained(self, language: str) -> str:
        form = for_language(EXPLAINED, language)
        shown = (form.format(*pair) if pair[1] else pair[0] for pair in self.labels.items())
        return for_language(BETWEEN, language).join(shown)

    def refusal(self, text: str, label: str, finish: str) -> str | None:
        """Return why a text is dropped before the check, or None."""
        words, named = num_words(text), _within(label, tokens(text))
        rules = {
            **cut_off(finish, "text"),
            "text too short": words < self.min_words,
            "text too long": words > self.max_words,
            "text names its label": named and not self.label_words and self.task == "classification",
        }
        return refuse(rules)

    # -- the check ------------------------------------------------------------------------------------------------

    async def _checked(self, draft: Draft, text: str, spans: Sequence[marks.Span], ask: Ask[Evidence]) -> Draft:
        """Return the draft with the model's confidence in its label; with spans, the smallest confidence in a span."""
        known, language = ask.prepared, draft.tags["language"]
        check, least, margin = self._check(language, known.shown), 1.0, 1.0
        prior = known.priors.get(language, {}) if self.calibrate else None
        for words, label in [(span.text, span.label) for span in spans] or [("", draft.tags["label"])]:
            reply = await check.chances(text, words, ask, prior)
            if not reply.choices:
                return replace(draft, dropped=f"{self.kind}: {reply.finish}")
            other = max(chance for name, chance in reply.choices.items() if name != label)
            least, margin = min(least, reply.choices[label]), min(margin, reply.choices[label] - other)
        reason = f"{self.kind}: another label is likelier" if margin < self.min_margin else None
        return replace(draft, scores={**draft.scores, "label_confidence": least}, dropped=reason)

    def _check(self, language: str, shown: Iterable[Case]) -> LabelCheck:
        choices = (*self.labels, *([for_language(OTHER, language)] if len(self.labels) == 1 else []))
        template, cases = template_for(self.check_prompts, language), (c for c in shown if c.language == language)
        return LabelCheck(language, template, choices, self._explained(language), tuple(cases))


def _within(label: str, said: Sequence[str]) -> bool:
    """Return whether a text contains the words of a label, one directly after the other."""
    words = tokens(label)
    return any(list(said[place : place + len(words)]) == words for place in range(len(said))) if words else False


def _misfit(found: tuple[str, tuple[marks.Span, ...]] | None, label: str) -> str | None:
    """Return the problem with the marks of a text, or None."""
    if found is None:
        return "marks do not parse"
    if all(span.label != label for span in found[1]):
        return "text has none of its label"
    return "marked words occur unmarked too" if marks.unmarked(*found) else None
