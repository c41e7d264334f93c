"""Finds the answers of a conversation in the texts that the model's own chat template renders.

At inference the model gets the conversation before an answer, with the header of the next turn, and writes the answer
with its stop token. So in training, exactly that text comes before the answer. With most templates, an answer looks the
same whether or not turns follow it. Then one text has all answers. Other templates show an earlier answer in another
form than the model wrote it: without its thought (Qwen3, DeepSeek-R1), with another end (gpt-oss), or after a system
turn at another place (Mistral). Then each such answer gets a text of its own, in which it is the last turn.

The text of the generation prompt is not trained on. If this prompt opens a thought, the answer does not open it again.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.template import ChatTemplate, UnrenderableError, opened_thought

EarlierAnswers = Literal["split", "context"]
MARK = "XGRISTMILLX"
"""Placeholder for a text in trial renderings. It has only letters, so that no template trims or escapes it."""
SPLIT = "conversations that became several samples, because the template shows an earlier answer in another form"
CONTEXT = "earlier answers not trained on, because the template shows them in another form"
FOLDED = "conversations whose system turn is in the user turn after it, because the template takes none there"
CLOSED = "answers with an empty thought, because the generation prompt opens one"
_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")
_THOUGHT = re.compile(r"\s*[<\[◁][\w:]+[>\]▷](.*?)[<\[◁]/[\w:]+[>\]▷]", re.DOTALL)
"""Pattern of a thought at the beginning of a turn's content."""


class Talk(NamedTuple):
    """The parts of one sample that a chat template renders."""

    messages: Sequence[Message]
    tools: str | None = None
    """The tools as JSON text."""


class Text(NamedTuple):
    """A text that a model is trained on, and the character ranges of the answers in it."""

    text: str
    spans: list[tuple[int, int]]


class _Answer(NamedTuple):
    """An answer as the model writes it at inference, with the text before it and after it."""

    prompt: str
    said: str
    """The text that the model writes, up to and including its stop token."""
    rest: str
    """The text that the template adds after the stop token."""


class AnswerFinder:
    """Finds the answers of conversations in the texts of a chat template.

    `notes` counts the changes that fit conversations to the template.
    """

    def __init__(self, template: ChatTemplate, control: Sequence[str], earlier: EarlierAnswers) -> None:
        """Take a template, the tokenizer's control tokens (longest first), and the way to treat earlier answers."""
        self._template, self._control, self._earlier = template, tuple(control), earlier
        self.notes: Counter[str] = Counter()

    def texts(self, sample: Talk) -> list[Text]:
        """Return the texts of a conversation. Together they mark each answer to train on exactly once.

        Raises:
            UnrenderableError: when the template cannot render the whole conversation.
        """
        wanted = [n for n, turn in enumerate(sample.messages) if turn.role == "assistant" and turn.train]
        answers = {place: self._answer(sample, place) for place in wanted}
        if self._template.fitted(sample.messages) is not sample.messages:
            self.notes[FOLDED] += 1
        found: list[Text] = []
        left = wanted
        while left:
            last = answers[left[-1]]
            text = "".join(last)
            here = [place for place in left if text.startswith(answers[place].prompt + answers[place].said)]
            spans = [(len(a.prompt), len(a.prompt) + len(a.said)) for a in map(answers.__getitem__, here)]
            found.append(Text(text, self._marked(sample, left[-1], text, spans)))
            left = [place for place in left if place not in here]
            if left and self._earlier == "context":
                self.notes[CONTEXT] += len(left)
                return found
        self.notes[SPLIT] += len(found) > 1
        return found[::-1]

    def _answer(self, sample: Talk, place: int) -> _Answer:
        """Return an answer as at inference; its prompt ends with the header of its turn."""
        turns, tools = sample.messages[: place + 1], sample.tools
        whole = str(self._template.render(turns, tools, tokenize=False))
        if place:
            prompt = str(self._template.render(turns[:-1], tools, tokenize=False, add_generation_prompt=True))
        else:  # the assistant begins: only its header comes before its words
            marked = str(self._template.render([Message("assistant", MARK)], tools, tokenize=False))
            prompt, _, there = marked.partition(MARK)
            if not there:
                raise UnrenderableError("template leaves out an assistant turn that begins")
        said = self._said(whole, prompt, sample, place)
        said = self._with_stop(said, whole, sample, place)
        end = self._end(said)
        self._require_whole(prompt, said[:end], turns[-1])
        return _Answer(prompt, said[:end], said[end:])

    def _said(self, whole: str, prompt: str, sample: Talk, place: int) -> str:
        """Return the text of an answer as the model writes it after the prompt."""
        found = self._after(whole, prompt, sample, place)
        if found is not None:
            return found
        opened = opened_thought(prompt)
        if opened:  # the prompt opens a thought that the template does not show in the turn
            tag, closing = opened
            found = self._after(whole, prompt.removesuffix(tag), sample, place)
        if not opened or found is None:
            raise UnrenderableError("template shows the answer in another form than its generation prompt asks for")
        turn = sample.messages[place]
        inside = _THOUGHT.match(turn.text)
        thought = (turn.reasoning or (inside[1] if inside else "")).strip()
        self.notes[CLOSED] += not thought
        return f"{thought}\n{closing}\n\n{found.lstrip()}"

    def _after(self, whole: str, prompt: str, sample: Talk, place: int) -> str | None:
        """Return the text after the prompt in a rendering, or None if the rendering does not show the prompt.

        The rendering may show earlier turns in another form than the prompt does.
        """
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        bare = prompt.rstrip()
        if whole.startswith(bare):
            return whole[len(bare) :].lstrip()
        if not place:
            return None
        before = str(self._template.render(sample.messages[:place], sample.tools, tokenize=False))
        header = bare.removeprefix(before.rstrip()).strip() if bare.startswith(before.rstrip()) else ""
        _, there, after = whole.rpartition(header) if header else ("", "", "")
        return (after if prompt == bare else after.lstrip()) if there else None

    def _with_stop(self, said: str, whole: str, sample: Talk, place: int) -> str:
        """Return the answer with its stop token.

        If the template does not end turns, the token that opens the next turn is the stop token.
        """
        if self._ending(said):
            return said
        follower = sample.messages[place + 1] if place + 1 < len(sample.messages) else Message("user", MARK)
        try:
            longer = str(self._template.render([*sample.messages[: place + 1], follower], sample.tools, tokenize=False))
        except UnrenderableError:
            return said
        _, there, after = longer.partition(whole.rstrip())
        blank = after[: len(after) - len(after.lstrip())]
        stop = next((token for token in self._control if after.startswith(token, len(blank))), "") if there else ""
        return said.rstrip() + blank + stop if stop else said

    def _ending(self, said: str) -> list[tuple[str, int]]:
        """Return the control tokens at the end of an answer, in order, each with the position after it."""
        found: list[tuple[str, int]] = []
        bare = said.rstrip()
        while bare.endswith(self._control):
            token = next(token for token in self._control if bare.endswith(token))
            found.append((token, len(bare)))
            bare = bare[: -len(token)].rstrip()
        return found[::-1]

    def _end(self, said: str) -> int:
        """Return the position where the model stops: after the usual stop token, else after the last control token."""
        ending = self._ending(said)
        if not ending:
            return len(said.rstrip())
        return next((end for token, end in ending if token == self._stop), ending[-1][1])

    @cached_property
    def _stop(self) -> str:
        """The control token that ends a plain answer.

        It is the last token after an answer that also comes after an answer which a turn follows. Phi-3 ends the last
        answer with `<|end|>` and then the conversation with `<|endoftext|>`. Command A ends each answer with
        `<|END_RESPONSE|>` and then the turn with `<|END_OF_TURN_TOKEN|>`.
        """
        turns = [Message("user", "Hi"), Message("assistant", MARK)]
        try:
            last = self._beginning(self._template.render(turns, tokenize=False))
            middle = self._beginning(self._template.render([*turns, Message("user", "Hi")], tokenize=False))
        except UnrenderableError:
            return ""
        both = [token for token, other in zip(last, middle, strict=False) if token == other]
        return (both or last[:1] or [""])[-1]

    def _beginning(self, text: str) -> list[str]:
        """Return the control tokens that directly follow `MARK` in a text."""
        found: list[str] = []
        after = text.partition(MARK)[2].lstrip()
        while token := next((token for token in self._control if after.startswith(token)), ""):
            found.append(token)
            after = after[len(token) :].lstrip()
        return found

    def _require_whole(self, prompt: str, said: str, turn: Message) -> None:
        """Refuse an answer in which the template has left out text or thought."""
        opened = opened_thought(prompt)
        shown = (opened[0] if opened else "") + said
        if not _holds(shown, turn.text):
            raise UnrenderableError("template leaves out a part of an answer")
        if turn.reasoning and not _holds(shown, turn.reasoning):
            raise UnrenderableError("template leaves out a thought")

    def _marked(self, sample: Talk, place: int, text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the parts of `spans` that `{% generation %}` marks; all of them if the template has no such mark."""
        if not _GENERATION.search(self._template.source(sample.tools)):
            return spans
        turns = sample.messages[: place + 1]
        if not text.startswith(str(self._template.render(turns, sample.tools, tokenize=False)).rstrip()):
            return spans  # the text is not the template's own, so its marks would be at other places
        marks = self._template.marks(turns, sample.tools)
        both = ((max(a, b), min(c, d)) for a, c in spans for b, d in marks)
        return [(begin, end) for begin, end in both if begin < end]


def _holds(text: str, part: str) -> bool:
    """Say whether a text contains a part; white space does not count, because templates remove and add it."""
    return part.strip() in text or "".join(part.split()) in "".join(text.split())
