"""The encoding of conversations: token ids, and a mask of the assistant's words with their stop tokens.

Tool calls and thoughts of the assistant are its words too, as the template renders them. A turn with `train` false is
only context. The module `answers` finds the text to train on. The module `control` keeps control tokens in people's
texts as text. A token is trained on if it overlaps an answer. If the header of a turn ends in a space, the first token
of the answer may contain that space.

Source: issues of huggingface/trl show the failures that this prevents (#4201: masks that are all zero without an error;
#5988: stop tokens outside the mask). Departures: both are errors here, before training begins.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.models.template import ChatTemplate, UnrenderableError
from gristmill.training.data.answers import AnswerFinder, EarlierAnswers, Talk, Text
from gristmill.training.data.control import ControlTokens
from gristmill.training.data.pieces import Joined, TextReader, Whole

AT_ONCE = 512
"""Number of conversations that are tokenised together; the tokenizer splits them over its threads."""
CHECKED = 100
"""Number of conversations to check. Their trained tokens are decoded and compared with the answers."""
TooLong = Literal["drop", "truncate", "split"]
TOO_LONG, UNTRAINED = "too long", "no trained token"
CUT = "samples whose end is cut off, because they are longer than max_length"
PIECES = "samples split into pieces, because they are longer than max_length"
LEFT = "pieces of long samples without a token to train on"


class Encoding(NamedTuple):
    """Settings by which conversations become token ids. Training and evaluation use the same ones."""

    max_length: int
    """Largest number of tokens in a sample."""
    too_long: TooLong = "drop"
    """What is done with longer samples. `drop`: they are dropped and counted. `truncate`: their end is cut off.
    `split`: they become several samples, all of `max_length` tokens but the last."""
    earlier_answers: EarlierAnswers = "split"
    """What is done with earlier answers that the template shows in another form; see `TrainSettings`."""
    max_lost: float = 1.0
    """Largest share of the conversations that the template may fail to render."""


class Sequenced(NamedTuple):
    """The token ids of one text, the mask of trained tokens, and the tokens and expected text of each answer."""

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]
    answers: list[tuple[slice, str]]


@dataclass(frozen=True, slots=True)
class EncodedChats:
    """Samples as token ids, one after the other. A conversation that could not be used is counted in `drops`."""

    ids: NDArray[np.int32]
    """[tokens]."""
    trained: NDArray[np.bool_]
    """[tokens] whether the token is trained on."""
    lengths: NDArray[np.int64]
    """[samples] number of tokens in each sample, all positive. Their sum is the length of `ids`."""
    places: NDArray[np.int64]
    """[samples] index of the conversation of each sample, ascending. A conversation may have several samples."""
    drops: Mapping[str, int]
    """Number of conversations that were not used, by reason."""
    notes: Mapping[str, int]
    """Number of changes that fit conversations to the template or the length, by kind of change."""
    stops: tuple[int, ...]
    """Ids of the tokens that end answers, the most frequent first."""
    stop_counts: Mapping[int, int] = field(default_factory=dict)
    """Number of answers that each of these tokens ends."""


def tokenizer(folder: str, template: str | None = None, args: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - transformers' tokenizers share no useful type
    """Load the tokenizer of a model and set its chat template. Saving the tokenizer also saves this template.

    Args:
        folder: the model's folder.
        template: file of a chat template that replaces the model's own.
        args: default values of the template's variables, such as `{"enable_thinking": False}`.

    Raises:
        JobError: when there is no chat template, or when the tokenizer is a slow one. A slow tokenizer cannot say which
            characters a token represents.
    """
    from transformers import PreTrainedTokenizerFast

    if _tokenizer_class(folder) in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        # the class that AutoTokenizer would use; importing it takes a fifth of AutoTokenizer's 6 CPU-seconds
        loaded: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(folder)
    if template:
        loaded.chat_template = Path(template).read_text(encoding="utf-8")
    if not loaded.chat_template:
        raise JobError(
            f"model {folder}: its tokenizer has no chat template, must have one; take an instruct model, "
            "set train.template to a file, or put a chat_template.jinja into the model's folder"
        )
    if args:
        texts = loaded.chat_template
        named = isinstance(texts, dict)
        loaded.chat_template = {k: _with(args, v) for k, v in texts.items()} if named else _with(args, texts)
    if not loaded.is_fast:
        raise JobError(f"model {folder}: its tokenizer is a slow one, must be a fast one; save it with tokenizer.json")
    return loaded


def _with(args: Mapping[str, Any], template: str) -> str:
    """Return a template that gives its variables these default values, for every later use."""
    lines = (
        f"{{%- if {name} is not defined %}}{{%- set {name} = {json.dumps(value, ensure_ascii=False)} %}}{{%- endif %}}"
        for name, value in args.items()
    )
    return "".join(lines) + template


def _tokenizer_class(folder: str) -> str:
    path = Path(folder) / "tokenizer_config.json"
    return str(json.loads(path.read_text(encoding="utf-8")).get("tokenizer_class", "")) if path.exists() else ""


def encode(tok: Any, talks: Sequence[Talk], how: Encoding) -> EncodedChats:  # noqa: ANN401
    """Return the token ids of conversations with the mask of the trained tokens.

    Args:
        tok: a tokenizer with a chat template.
        talks: conversations with their tools.
        how: settings of the encoding.

    Raises:
        JobError: when no conversation can be used; when the template fails to render more than one conversation and
            more than the share `max_lost`; when the trained tokens do not read like the answers; or when an answer does
            not end in a special token. A model would then never learn to stop.
    """
    encoder = Encoder(tok, how)
    found = encoder.encode(talks)
    require_usable(found.drops, encoder.lost, len(talks), len(found.lengths), how.max_lost)
    return replace(found, notes=encoder.notes)


@dataclass(slots=True)
class Lost:
    """The conversations that a template fails to render."""

    reasons: Counter[str] = field(default_factory=Counter)
    example: str = ""
    """The first of them, as text, with its reason."""

    def add(self, talk: Talk, reason: str) -> None:
        """Count a conversation."""
        self.reasons[reason] += 1
        if not self.example:
            turns = (f"  {turn.role}: {turn.said[:200]!r}" for turn in talk.messages[:6])
            self.example = "\n".join((f"{reason}:", *turns))

    def merge(self, other: "Lost") -> None:
        """Add the conversations of another part of the same samples."""
        self.reasons += other.reasons
        self.example = self.example or other.example


class Encoder:
    """Encodes conversations, some at a time, with one tokenizer and its template."""

    def __init__(self, tok: Any, how: Encoding, checked: int = CHECKED) -> None:  # noqa: ANN401
        """Take a tokenizer with a chat template, the settings, and the number of conversations to check."""
        self._reader = _Reader(tok, how, checked)
        self._how = how
        self._notes: Counter[str] = Counter()

    @property
    def notes(self) -> dict[str, int]:
        """Number of changes that fit the conversations so far to the template or the length, by kind of change."""
        return {what: count for what, count in {**self._reader.notes, **self._notes}.items() if count}

    @property
    def lost(self) -> Lost:
        """The conversations so far that the template fails to render."""
        return self._reader.lost

    def encode(self, talks: Sequence[Talk]) -> EncodedChats:
        """Return the token ids of some conversations, without notes.

        Raises:
            JobError: as `encode`, when the trained tokens of a checked conversation are wrong.
        """
        made = _Made(self._notes)
        for place, found in enumerate(self._reader.read(talks)):
            if isinstance(found, str):
                made.drops[found] += 1
                continue
            reasons = [made.add(sample, place, self._how) for sample in found] or [UNTRAINED]
            if all(reasons):
                made.drops[reasons[0]] += 1
            else:
                made.notes.update(f"answers not used: {reason}" for reason in reasons if reason)
        return made.encoded()


class _Made:
    """The samples that have been encoded so far."""

    def __init__(self, notes: Counter[str]) -> None:
        self.drops: Counter[str] = Counter()
        self.notes = notes
        self.lengths: list[int] = []
        self._ids: list[NDArray[np.int32]] = []
        self._trained: list[NDArray[np.bool_]] = []
        self._places: list[int] = []
        self._stops: Counter[int] = Counter()

    def add(self, sample: Sequenced, place: int, how: Encoding) -> str:
        """Add a sample of the conversation at `place`, or return why it cannot be used."""
        ids, trained = sample.ids, sample.trained
        size, most = len(ids), how.max_length
        if size > most and how.too_long == "drop":
            return TOO_LONG
        starts = range(0, size, most) if how.too_long == "split" else (0,)
        # nothing before the first token of a sample could predict it
        taken = [slice(at, at + most) for at in starts if trained[at + 1 : at + most].any()]
        if not taken:
            return UNTRAINED
        if size > most:
            self.notes[CUT if how.too_long == "truncate" else PIECES] += 1
            self.notes[LEFT] += len(starts) - len(taken)
        for part in taken:
            self._ids.append(ids[part])
            self._trained.append(trained[part])
            self.lengths.append(len(ids[part]))
            self._places.append(place)
        self._stops.update(int(sample.ids[tokens.stop - 1]) for tokens, _ in sample.answers)
        return ""

    def encoded(self) -> EncodedChats:
        return EncodedChats(
            np.concatenate([np.empty(0, np.int32), *self._ids]),
            np.concatenate([np.empty(0, np.bool_), *self._trained]),
            np.array(self.lengths, np.int64),
            np.array(self._places, np.int64),
            dict(self.drops),
            {},
            tuple(stop for stop, _ in self._stops.most_common()),
            dict(self._stops),
        )


class _Reader:
    """Reads conversations with one tokenizer and its template."""

    def __init__(self, tok: Any, how: Encoding, checked: int) -> None:  # noqa: ANN401
        self._tok, backend = tok, tok.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        self._text_reader = TextReader(backend)
        self._control = ControlTokens(tok)
        self._special = set(self._control.ids.values())
        self._finder = AnswerFinder(ChatTemplate(tok), self._control.names, how.earlier_answers)
        self._to_check = checked
        self.notes = self._finder.notes
        self.lost = Lost()

    def read(self, talks: Sequence[Talk]) -> Iterator[list[Sequenced] | str]:
        """Yield for each conversation its samples, or the reason why it has none."""
        for start in range(0, len(talks), AT_ONCE):
            texts = [self._texts(talk) for talk in talks[start : start + AT_ONCE]]
            plain = [
                text.text for found, hidden in texts if not hidden and not isinstance(found, str) for text in found
            ]
            rows = iter(self._text_reader.read(plain))
            for found, hidden in texts:
                made = found if isinstance(found, str) else self._sequenced(found, rows, hidden=hidden)
                if not isinstance(made, str) and self._to_check:
                    self._to_check -= 1
                    self._require_answers(made)
                yield made

    def _texts(self, talk: Talk) -> tuple[list[Text] | str, bool]:
        """Return the texts of a conversation, or why it has none; and whether its control tokens were hidden."""
        hidden = self._control.within(talk)
        try:
            return self._finder.texts(self._control.hidden(talk) if hidden else talk), hidden
        except UnrenderableError as error:
            self.lost.add(talk, str(error))
            return str(error), hidden

    def _sequenced(self, texts: list[Text], rows: Iterator[Whole | Joined], *, hidden: bool) -> list[Sequenced] | str:
        made = []
        for text in texts:
            if not hidden:
                made.append(_mask(next(rows), [(span, text.text[slice(*span)]) for span in text.spans]))
                continue
            twin = self._control.read(self._control.swapped(text.text))
            if twin is None:
                return "has control tokens that its tokenizer cannot read as text"
            moved = [
                (tuple(len(self._control.swapped(text.text[:end])) for end in span), text.text[slice(*span)])
                for span in text.spans
            ]
            made.append(_mask(Whole(*twin), [(span, self._control.shown(said)) for span, said in moved]))
        return made

    def _require_answers(self, samples: list[Sequenced]) -> None:
        """Refuse a mask if the trained tokens do not read like the answers, or do not end in a stop token."""
        for sample in samples:
            for tokens, said in sample.answers:
                read = self._tok.decode(sample.ids[tokens], clean_up_tokenization_spaces=False)
                if not self._same(read, said, tokens, sample):
                    raise JobError(
                        f"chat template: the trained tokens read {read[:200]!r}, must read {said[:200]!r}; the "
                        "tokenizer gives wrong places of its tokens, use its newest version or another model"
                    )
                last = int(sample.ids[tokens][-1])
                if last not in self._special:
                    raise JobError(
                        f"chat template: what the assistant says ends in {self._tok.decode([last])!r}, must end in a "
                        "special token, else the model never learns to stop; correct the model's chat_template.jinja, "
                        "or set train.template"
                    )

    def _same(self, read: str, said: str, tokens: slice, sample: Sequenced) -> bool:
        """Say whether decoded tokens equal an answer; white space and the end of the header do not count."""
        first = self._tok.decode(sample.ids[tokens][:1], clean_up_tokenization_spaces=False)
        for text in (said, self._tok.decode(self._tok.encode(said, add_special_tokens=False))):
            read_, said_ = "".join(read.split()), "".join(text.split())
            if read_.endswith(said_) and len(read_) - len(said_) < max(1, len(first)):
                return True
        return False


def _mask(read: Whole | Joined, answers: list[tuple[Any, str]]) -> Sequenced:
    """Return the token ids of a text, with a mask of the tokens that overlap an answer."""
    each = [(read.overlapping(*span), said) for span, said in answers]
    trained = np.zeros(len(read.ids), np.bool_)
    for tokens, _ in each:
        trained[tokens] = True
    return Sequenced(read.ids, trained, [(tokens, said) for tokens, said in each if tokens.stop > tokens.start])


def require_usable(drops: Mapping[str, int], lost: Lost, talks: int, samples: int, max_lost: float) -> None:
    """Refuse a template that fails to render too many conversations (one failure is always allowed), or no samples.

    Args:
        drops: number of conversations that were not used, by reason.
        lost: those that the template fails to render.
        talks: number of all conversations.
        samples: number of samples made of them.
        max_lost: largest share of the conversations that may be lost.
    """
    count = lost.reasons.total()
    if count > max(1, max_lost * talks):
        reasons = "; ".join(f"{number} x {reason}" for reason, number in lost.reasons.most_common(3))
        raise JobError(
            f"chat template: {count} of {talks} samples cannot be rendered ({reasons}), at most {max_lost:.0%} may be; "
            "set train.template to a template that takes them, raise train.max_lost to go on without them, or select "
            f"others; for example, {lost.example}"
        )
    if talks and not samples:
        raise JobError(
            f"chat template: none of {talks} samples can be trained on ({dict(drops)}), at least one must; raise "
            "max_length, or mark the assistant's words with {% generation %} in the model's chat_template.jinja"
        )
