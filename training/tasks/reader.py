"""Reading: texts as token ids with their places, cut into windows with the model's special tokens around them."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gristmill.cluster.contract.errors import JobError
from gristmill.training.tasks.contracts import Asked, MisfitError, Task, Window

AT_ONCE = 512
"""Number of texts that are tokenised together; the tokenizer splits them over its threads."""


def tokenizer(folder: str) -> Any:  # noqa: ANN401 - transformers' tokenizers share no useful type
    """Load the tokenizer of a model; no chat template is needed. It has a token for padding.

    Raises:
        JobError: when the tokenizer is a slow one, which cannot say which characters a token represents.
    """
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise JobError(f"train.model: the tokenizer of {folder} cannot be loaded: {error}") from error
    if not loaded.is_fast:
        raise JobError(f"model {folder}: its tokenizer is a slow one, must be a fast one; save it with tokenizer.json")
    if loaded.pad_token is None:
        loaded.pad_token = loaded.eos_token or loaded.convert_ids_to_tokens(0)
    return loaded


class _Frame(NamedTuple):
    """The special tokens around one text, or around a question and a text; and the segments of their tokens."""

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[int, int, int, int, int]
    """Segment of `before`, the question, `between`, the text, and `after`."""


class Reader:
    """Reads texts with one tokenizer. The characters of a special token in a text are ordinary text."""

    def __init__(self, tok: Any, max_length: int) -> None:  # noqa: ANN401
        """Take a fast tokenizer and the largest number of tokens in a window."""
        self._tokenizer = copy.deepcopy(tok.backend_tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._max = max_length
        self._single, self._pair = self._frame(pair=False), self._frame(pair=True)

    def read(self, task: Task, asked: Sequence[Asked], *, truncate: bool) -> Iterator[list[Window] | str]:
        """Yield the windows of each text, or the reason why it has none.

        Args:
            task: the task, which says whether long texts are read in windows, and how far these overlap.
            asked: the texts.
            truncate: whether the end of a long text is cut off, if the task does not read it in windows.
        """
        for start in range(0, len(asked), AT_ONCE):
            some = asked[start : start + AT_ONCE]
            texts = self._encoded([one.text for one in some])
            questions = self._encoded([one.question for one in some])
            for one, text, question in zip(some, texts, questions, strict=True):
                try:
                    yield self._windows(task, one, text, question, truncate=truncate)
                except MisfitError as error:
                    yield str(error)

    def _encoded(self, texts: Sequence[str]) -> list[Any]:
        return list(self._tokenizer.encode_batch(list(texts), add_special_tokens=False))

    def _windows(
        self,
        task: Task,
        asked: Asked,
        text: Any,  # noqa: ANN401 - of the tokenizers package
        question: Any,  # noqa: ANN401
        *,
        truncate: bool,
    ) -> list[Window]:
        frame = self._pair if asked.question else self._single
        first = question.ids if asked.question else []
        room = self._max - len(first) - len(frame.before) - len(frame.between) - len(frame.after)
        ids, ranges = list(text.ids), [_bare(asked.text, *place) for place in text.offsets]
        if not ids:
            raise MisfitError("text has no token")
        if room < 1:
            raise MisfitError("question has no room for a context" if first else "too long")
        if len(ids) > room and not task.windows:
            if not truncate:
                raise MisfitError("too long")
            ids, ranges = ids[:room], ranges[:room]
        overlap = min(task.overlap, room // 2)
        begins = [0]
        while begins[-1] + room < len(ids):
            begins.append(begins[-1] + room - overlap)
        ends = [min(begin + room, len(ids)) for begin in begins]
        # between two windows, the tokens of both are shared out in the middle
        cuts = [0, *((begin + end) // 2 for begin, end in zip(begins[1:], ends, strict=False)), len(ids)]
        made = []
        for begin, end, *own in zip(begins, ends, cuts[:-1], cuts[1:], strict=True):
            head = len(frame.before) + len(first) + len(frame.between)
            parts = (frame.before, first, frame.between, ids[begin:end], frame.after)
            made.append(
                Window(
                    [token for part in parts for token in part],
                    [kind for part, kind in zip(parts, frame.types, strict=True) for _ in part],
                    [(0, 0)] * head + ranges[begin:end] + [(0, 0)] * len(frame.after),
                    (head, head + end - begin),
                    (head + own[0] - begin, head + own[1] - begin),
                )
            )
        return made

    def _frame(self, *, pair: bool) -> _Frame:
        """Return the special tokens that the tokenizer puts around texts."""
        plain = [self._tokenizer.encode("a", add_special_tokens=False)] * 2
        made = self._tokenizer.encode("a", "a") if pair else self._tokenizer.encode("a")
        size = len(plain[0].ids)
        places = [n for n, sequence in enumerate(made.sequence_ids) if sequence is not None]
        ids, kinds = list(made.ids), list(made.type_ids)
        if not size or len(places) != size * (1 + pair):
            raise JobError("train.model: its tokenizer does not keep texts apart, must keep them; take another model")
        first, last = places[:size], places[-size:]
        if not pair:
            before, after = ids[: last[0]], ids[last[-1] + 1 :]
            return _Frame(before, [], after, (kinds[0], 0, 0, kinds[last[0]], kinds[-1]))
        return _Frame(
            ids[: first[0]],
            ids[first[-1] + 1 : last[0]],
            ids[last[-1] + 1 :],
            (kinds[0], kinds[first[0]], kinds[last[0] - 1], kinds[last[0]], kinds[-1]),
        )


def _bare(text: str, begin: int, end: int) -> tuple[int, int]:
    """Return the range of a token without white space at its ends."""
    while begin < end and text[begin].isspace():
        begin += 1
    while begin < end and text[end - 1].isspace():
        end -= 1
    return begin, end
