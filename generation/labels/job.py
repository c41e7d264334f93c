"""The review job: combine the votes of annotators, ask people about the least certain samples, read their answers."""

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from gristmill.cluster.contract.chat import to_openai
from gristmill.cluster.contract.errors import JobError, SchemaError
from gristmill.cluster.contract.sample import Message, Sample, from_table, shards_of, to_table
from gristmill.cluster.contract.settings import STRING, short_forms
from gristmill.cluster.io.readers.files import File, find
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.job import Job, Plan, Run, Work
from gristmill.cluster.store.store import Shard, Store
from gristmill.generation.figures import ReviewFigures
from gristmill.generation.labels import votes as labelling
from gristmill.generation.labels.ballot import VOTE, Ballot, agreement, ballot_of, most, round_known
from gristmill.generation.labels.people import HumanAnswer, LabellingTool, QueueEntry, files, read, text_for_people
from gristmill.generation.labels.votes import ABSTAINED, Floats

log = logging.getLogger(__name__)

MAX_PROBLEMS = 20
MAX_LABELS = 100
"""Largest number of labels that are taken from the votes. With more, the job is refused: the answers are free text."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """The label that votes and people give to a sample."""

    label: str
    confidence: float
    source: str
    """`human`, or the way in which votes were combined; empty if there were no votes."""
    machine: int = ABSTAINED
    """Index of the label by the votes only, without people's answers."""
    chance: float = 0.0
    """Probability of that label."""
    disputed: bool = False
    """Whether people disagree and no answer has the most votes."""


class Review(Job):
    """`[review]`: one label for each sample, from the sample's votes and from people's answers.

    Kept samples get the tags `label` and `label_source` and the score `confidence`. If people have answered, their
    answer is the label, `label_source` is `human` and the score `human` is 1. If the sample's answer was a label, the
    new label replaces it. The folder of the dataset also contains three kinds of files: `queue.json` is the queue for
    people; other files set up the project in the labelling tool; `people.jsonl` has the samples that people decided,
    and a later job can use it as `input`.
    """

    name: ClassVar[str] = "review"
    figures: ClassVar[type[Figures]] = ReviewFigures
    presentation: ClassVar[str] = "gristmill.generation.report:ReviewPresentation"
    example: ClassVar[Mapping[str, Any]] = {"input": "labelled.jsonl"}
    upstream: ClassVar[tuple[str, ...]] = ("generate",)

    combine: Literal["majority", "dawid_skene"] = "majority"
    """How votes become a label. `majority`: the label with the most votes. `dawid_skene`: the likeliest label, with the
    errors of each annotator estimated. This needs three annotators that are better than chance, and some hundred
    samples. It learns nothing from a rule that votes for only one label, so put the rules for all labels into one
    annotator."""
    question: Literal["label", "text"] = "label"
    """What people are asked to do: choose a label, or write a new answer. Votes are combined only for labels."""
    labels: tuple[str, ...] = ()
    """The possible labels; by default the labels in the votes."""
    queue: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)] = 0.1
    """People are asked about at most this many of the least certain samples: a number, or a share such as `0.1`."""
    below: float = Field(default=1, gt=0, le=1)
    """People are asked only about samples with a lower confidence; with 1, about any sample."""
    form: LabellingTool = "label_studio"
    """The labelling tool for which the queue is written."""
    suggest: bool = True
    """Whether people see the label that the votes give."""
    verdicts: tuple[str, ...] = Field(default=(), json_schema_extra=short_forms(STRING))
    """Files that Label Studio or Argilla exported, as paths or patterns. A pattern may match nothing yet."""
    on_bad_verdict: Literal["error", "skip"] = "error"
    """What to do with an entry that cannot be read or that belongs to no input sample. `error` refuses the job and
    names file and place; `skip` ignores the entry."""
    min_confidence: float = Field(default=0, ge=0, le=1)
    """Samples with a lower confidence are dropped, unless a person has labelled them."""
    smoothing: float = Field(default=1, gt=0)
    """With `dawid_skene`: number of votes for each label that every annotator is assumed to have given before."""
    shard_rows: int = Field(default=65_536, gt=0)
    """Largest number of samples in one shard of the output."""

    @field_validator("verdicts", mode="before")
    @classmethod
    def _beside_the_recipe(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - any TOML value comes in
        paths = (value,) if isinstance(value, str) else value
        base = (info.context or {}).get("base")
        if not base or not isinstance(paths, list | tuple):
            return paths
        return tuple(p if "://" in str(p) else str(base / Path(str(p)).expanduser()) for p in paths)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the dataset, with people's answers instead of the paths of their files."""
        value = super().identity()
        value["fields"]["verdicts"] = [file.digest for file in self.verdict_files()]
        return value

    def verdict_files(self) -> list[File]:
        """Return the files of verdicts that exist.

        Raises:
            JobError: for a path, not a pattern, that does not exist.
        """
        return find(tuple(path for path in self.verdicts if not _matches_nothing(path)), "json")

    def check(self, base: Path) -> list[str]:
        """Return the problems with the labels and with the files of verdicts."""
        del base
        problems = ["labels: one appears twice, must appear once"] if len({*self.labels}) < len(self.labels) else []
        try:
            bad = _said(self.verdict_files())[1]
        except JobError as error:
            return [*problems, f"verdicts: {error}"]
        return problems + ([f"verdicts: {line}" for line in _some(bad)] if self.on_bad_verdict == "error" else [])

    def plan(self, store: Store, work: Work) -> Plan:
        """Return how many samples come in and how many people are asked about."""
        plan = Plan(self.name, work.output, samples=work.num_samples(store), kept=work.num_samples(store))
        plan.shards = -(-plan.samples // self.shard_rows)
        plan.state = "done" if store.complete(work.output) else plan.state
        plan.notes.append(f"{self.combine}; at most {self.room(plan.samples)} samples for people")
        plan.notes.append(f"{len(self.verdict_files())} files of verdicts")
        return plan

    def room(self, rows: int) -> int:
        """Return the largest number of samples, out of `rows`, that people are asked about."""
        return self.queue if isinstance(self.queue, int) else math.ceil(self.queue * rows)

    def make(self, run: Run, work: Work) -> ReviewFigures:
        """Combine votes, write the queue and write the dataset.

        Raises:
            JobError: for verdicts that cannot be read or belong to no input sample, unless they are skipped.
        """
        begin = time.monotonic()
        samples = _kept(run.store, work.inputs["samples"])
        said, problems = self._verdicts({s.id for s in samples})
        ballot = ballot_of(samples, said, self.labels, label=self.question == "label")
        if not self.labels and len(ballot.labels) > MAX_LABELS:
            what = f"{len(ballot.labels)} different labels came in, must be {MAX_LABELS} at most"
            raise JobError(f'review: {what}; name `labels`, or set question = "text" where answers are no labels')
        found = self._combined(ballot)
        rows = [_decide(self, s, found[n]) for n, s in enumerate(samples)]
        waiting = self._waiting(samples, found)
        written = files(self.form, waiting, ballot.labels, suggest=self.suggest)
        further = {**written, **_settled(rows)}
        for name, data in further.items():
            run.store.write_bytes(data, work.output, name)
        shards = _write(run.store, work.output, rows, self.shard_rows)
        kept = sum(s.dropped is None for s in rows)
        figures = ReviewFigures(
            rows=len(rows),
            kept=kept,
            dropped=len(rows) - kept,
            queued=len(waiting),
            verdicts=len(said),
            bad_verdicts=problems,
            people=len(ballot.persons),
            disputed=sum(f.disputed for f in found),
            settled_by_people=sum(f.source == "human" for f in found),
            seconds=round(time.monotonic() - begin, 2),
            **self._measured(ballot, found),
        )
        metadata = {"queue": "queue.json", "form": self.form}
        entries = [run.store.file(work.output, name) for name in further]
        run.store.commit(self.manifest(work, "samples", shards, metadata, entries), figures.to_json())
        if waiting:
            where = run.store.at(work.output)
            run.screen.say(f"review: {len(waiting)} samples for people in {where} ({', '.join(written)})")
        return figures

    def _verdicts(self, came: set[str]) -> tuple[list[HumanAnswer], int]:
        """Return people's answers about the input samples, and the number of entries that could not be used."""
        said, problems = _said(self.verdict_files())
        for one in said:
            if one.sample not in came:
                problems.append(f"{one.where}: {one.sample} is not the id of an input sample, must be one")
            elif self.question == "label" and self.labels and one.answer not in self.labels:
                problems.append(
                    f"{one.where}: {one.answer[:40]!r} is no label, must be one of {', '.join(self.labels)}"
                )
        if problems and self.on_bad_verdict == "error":
            advice = 'correct them or set on_bad_verdict = "skip"'
            raise JobError("\n".join([*_some(problems), f"review.verdicts: {len(problems)} bad entries; {advice}"]))
        for line in _some(problems):
            log.warning("%s", line)
        fits = {*self.labels} if self.question == "label" else set()
        return [s for s in said if s.sample in came and (not fits or s.answer in fits)], len(problems)

    def _combined(self, ballot: Ballot) -> list[Consensus]:
        """Return the label and the confidence of each sample, from people's answers or else from the votes."""
        machine = ballot.chances(self.combine, self.smoothing)
        informed = ballot.chances(self.combine, self.smoothing, ballot.people)
        return [_consensus(self, ballot, n, machine[n], informed[n]) for n in range(len(ballot.samples))]

    def _waiting(self, samples: Sequence[Sample], found: Sequence[Consensus]) -> list[QueueEntry]:
        """Return the samples to ask people about: first samples about which people disagree, then the least certain."""
        open_ = [n for n, f in enumerate(found) if f.source != "human" and (f.disputed or _is_below(f, self.below))]
        before = {n: samples[n].scores.get("confidence", 0.0) for n in open_}
        open_.sort(key=lambda n: (not found[n].disputed, found[n].confidence, before[n], samples[n].id))
        room = self.room(len(samples))
        return [
            QueueEntry(samples[n].id, text_for_people(samples[n]), found[n].label, found[n].confidence)
            for n in open_[:room]
        ]

    def _measured(self, ballot: Ballot, found: Sequence[Consensus]) -> dict[str, Any]:
        """Return the agreement, the accuracy against people's answers, and the counts of the labels."""
        if self.question == "text":
            return {}
        machine = np.array([f.machine for f in found], np.int64)
        columns = {**ballot.columns(), self.combine: machine}
        both = (ballot.people != ABSTAINED) & (machine != ABSTAINED)
        sure = np.array([f.chance for f in found])[both]
        error = labelling.calibration_error(sure, (machine == ballot.people)[both])
        truths = {"accuracy": ballot.people, "accuracy_by_gold": ballot.gold()}
        right = {
            name: round_known({who: labelling.accuracy(column, truth) for who, column in columns.items()})
            for name, truth in truths.items()
        }
        labels = dict(sorted(Counter(f.label for f in found if f.label).items()))
        return {"labels": labels, **right, **agreement(ballot), **round_known({"calibration_error": error})}


def _consensus(review: Review, ballot: Ballot, row: int, machine: Floats, informed: Floats) -> Consensus:
    """Return the consensus of one sample."""
    sample = ballot.samples[row]
    before, sure = sample.tags.get("label", ""), float(sample.scores.get("confidence", 0.0))
    given = int((ballot.votes[row] != ABSTAINED).sum())
    found = Consensus(before or (sample.answer if review.question == "text" else ""), sure, "")
    if given:
        best, chance = _best(ballot, machine, before)
        final, likely = _best(ballot, informed, before)
        alone = given == 1 and (review.combine == "majority" or len(ballot.annotators) == 1)
        if alone and sure:  # a single vote agrees with itself, so the annotator's own confidence is used
            chance = likely = sure
        found = Consensus(ballot.labels[final], likely, review.combine, best, chance)
    answers = ballot.answers(sample.id)
    chosen = most(answers)
    if chosen:
        return replace(found, label=chosen, confidence=1.0, source="human")
    return replace(found, disputed=bool(answers))


def _best(ballot: Ballot, chances: Floats, before: str) -> tuple[int, float]:
    """Return (the likeliest label, its probability). Among equally likely labels, the input's own label wins."""
    top = float(chances.max())
    equal = np.flatnonzero(chances >= top - 1e-9)
    chosen = next((n for n in equal if ballot.labels[n] == before), equal[0])
    return int(chosen), top


def _is_below(found: Consensus, bound: float) -> bool:
    return found.confidence < bound or bound == 1


def _decide(review: Review, sample: Sample, found: Consensus) -> Sample:
    """Return the sample with its label, confidence, answer and drop reason."""
    if not found.source:
        low = found.confidence < review.min_confidence
        return sample.drop("review: not certain enough") if low else sample
    human = found.source == "human"
    scores = {**sample.scores, "confidence": found.confidence} | ({"human": 1.0} if human else {})
    tags = {**sample.tags, "label_source": found.source}
    if review.question == "label":
        tags["label"] = found.label
    out = replace(sample, messages=_messages(review, sample, found.label), scores=scores, tags=tags)
    return out.drop("review: not certain enough") if found.confidence < review.min_confidence else out


def _messages(review: Review, sample: Sample, label: str) -> tuple[Message, ...]:
    """Return the conversation with the label as its last answer, if that answer was a vote, a text or missing."""
    turns = sample.messages
    if turns[-1].role != "assistant":
        return (*turns, Message("assistant", label))
    said = {word for tag, word in sample.tags.items() if tag == "label" or tag.startswith(VOTE)}
    if review.question == "text" or turns[-1].text.strip() in said:
        return (*turns[:-1], Message("assistant", label))
    return turns


def _settled(rows: Sequence[Sample]) -> dict[str, bytes]:
    """Return the file with the samples that people decided, if any; the next job can use it as `input`."""
    chosen = [row for row in rows if row.tags.get("label_source") == "human"]
    lines = [{"messages": [to_openai(m) for m in row.messages], "tags": dict(row.tags)} for row in chosen]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return {"people.jsonl": text.encode()} if lines else {}


def _said(found: Sequence[File]) -> tuple[list[HumanAnswer], list[str]]:
    """Return the answers of people in all files, and a line for each entry that cannot be read."""
    said: list[HumanAnswer] = []
    problems: list[str] = []
    for file in found:
        with file.open_stream() as source:
            more, bad = read(bytes(source.read()), file.name)
        said, problems = said + more, problems + bad
    return said, problems


def _matches_nothing(path: str) -> bool:
    """Return whether a path is a local pattern that matches no file yet."""
    if "://" in path or not has_magic(path):
        return False
    whole = Path(path).absolute()
    return not any(Path(whole.anchor).glob(str(whole.relative_to(whole.anchor))))


def _some(lines: Sequence[str]) -> list[str]:
    rest = len(lines) - MAX_PROBLEMS
    return [*lines[:MAX_PROBLEMS], *([f"and {rest} more"] if rest > 0 else [])]


def _kept(store: Store, name: str) -> list[Sample]:
    """Return the kept samples of the input, in their order.

    Raises:
        SchemaError: when an id appears twice.
    """
    samples = [s for table in store.scan(name) for s in from_table(table) if s.dropped is None]
    twice = [name for name, count in Counter(s.id for s in samples).items() if count > 1]
    if twice:
        raise SchemaError(f"{name}: id {twice[0]} appears twice, must be unique; make the dataset again")
    return samples


def _write(store: Store, output: str, rows: Sequence[Sample], size: int) -> tuple[Shard, ...]:
    """Write the rows, in at least one shard, which may be empty."""
    parts = shards_of(rows, size) if rows else ([],)
    return tuple(store.commit_shard(output, f"shard-{n:05d}", to_table(part)) for n, part in enumerate(parts))
