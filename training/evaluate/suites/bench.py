"""Bench: the models and suites of one evaluation, and the steps by which they are asked, judged and described."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.cluster.jobs.job import Run
from gristmill.cluster.models import names
from gristmill.training.evaluate.heads import HeadEngine
from gristmill.training.evaluate.scorers.pairwise import JUDGE, Pairwise
from gristmill.training.evaluate.serving import AskAll, serving
from gristmill.training.evaluate.suites import ask
from gristmill.training.evaluate.suites.freeze import Suite, contamination
from gristmill.training.evaluate.suites.items import scores_of

OpenEngine = Callable[[str, str], AbstractContextManager[AskAll]]
"""A function of a model's folder and a name for the log; it returns a context in which an engine runs the model."""


@dataclass(frozen=True)
class Bench:
    """The models and suites of one evaluation, and the folder that it writes into."""

    run: Run
    output: str
    models: Mapping[str, str]
    """Folders of the models by name: the base model, the tuned model, then the others."""
    suites: Sequence[Suite]

    @property
    def parts(self) -> list[ask.Part]:
        """All parts: some items of a suite and the model that is asked them."""
        return ask.parts(list(self.models), self.suites)

    def contamination(self, trained: pa.Table) -> dict[str, tuple[int, int]]:
        """Print a description of each suite; return its numbers of items near rows trained on, and of these rows."""
        found = contamination(self.run.store, self.suites, trained)
        for suite in self.suites:
            for line in _lines(suite, *found[suite.name]):
                self.run.screen.say(f"evaluate: suite {suite.name}: {line}")
        return found

    def run_models(
        self,
        open_engine: OpenEngine,
        first: Callable[[AskAll], None] | None,
        parts: Sequence[ask.Part] | None = None,
    ) -> int:
        """Ask each model those of the parts that are not committed; return the number of written tokens.

        The tuned model is asked first.

        Args:
            open_engine: a function that starts an engine.
            first: a function to call with the tuned model's engine before its parts are asked, or None.
            parts: the parts; all of them by default.
        """
        done = self.run.store.committed(self.output)
        todo = [part for part in (self.parts if parts is None else parts) if part.shard not in done]
        base, tuned, *others = self.models
        written, asked = 0, 0
        with self.run.screen.bar("evaluate: answers", sum(len(part.places) for part in todo) or None) as bar:
            for model in (tuned, base, *others):
                mine = [part for part in todo if part.model == model]
                before = first if model == tuned else None
                if not mine and before is None:
                    continue
                with open_engine(self.models[model], "smoke" if before else "suites") as engine:
                    if before:
                        before(engine)
                    questions = ask.Questions(engine, reads_rows=isinstance(engine, HeadEngine))
                    for part in mine:
                        self._commit(part, questions)
                        asked += len(part.places)
                        bar.update(asked, f"{part.suite.name}, {model}")
                    written += questions.tokens
                    if isinstance(engine, HeadEngine) and (cut := engine.cut()):
                        self.run.screen.say(f"evaluate: {model}: the end of {cut} texts is cut off, they are too long")
        return written

    def run_judges(self) -> None:
        """Test the judge of each pairwise suite, and let it compare all models' replies with the base model's."""
        for number, suite in enumerate(self.suites):
            asked = [*self.models, *([JUDGE] if isinstance(suite.scorer, Pairwise) else [])]
            shards = {model: f"{ask.VERDICTS}-{number:03d}-{n:03d}" for n, model in enumerate(asked)}
            done = self.run.store.committed(self.output)
            todo = {model: shard for model, shard in shards.items() if shard not in done}
            if isinstance(suite.scorer, Pairwise) and todo:
                self._judge(suite, suite.scorer, todo)

    def _judge(self, suite: Suite, scorer: Pairwise, todo: Mapping[str, str]) -> None:
        base, *_ = self.models
        if not scorer.judge.endpoint and names.local(scorer.judge.model) in self.models.values():
            self.run.screen.say(f"evaluate: suite {suite.name}: the judge is one of the models that it compares")
        table = ask.committed(self.run.store, self.output)
        scores = scores_of(table.filter(pc.equal(table["suite"], suite.name)))
        with serving(scorer.judge, self.run, "judge", f"evaluate.suites.{suite.name}.judge") as engine:
            questions = ask.Questions(engine)
            for model, shard in todo.items():
                said, other = (scores.get((name, suite.name), {}) for name in (model, base))
                if model == JUDGE:
                    judged = questions.known(suite)
                else:
                    judged = list(ask.draws(suite, other)) if model == base else questions.verdicts(suite, said, other)
                ask.commit(self.run.store, self.output, shard, model, suite, judged)

    def _commit(self, part: ask.Part, questions: ask.Questions) -> None:
        judged = questions.judged(part)
        shard = ask.commit(self.run.store, self.output, part.shard, part.model, part.suite, judged)
        self.run.ledger.append("shard_done", job="evaluate", shard=shard.name, rows=shard.rows, kept=shard.kept)


def _lines(suite: Suite, items: int, rows: int) -> list[str]:
    """Return lines that describe a suite before its items are asked."""
    scorer, dropped = suite.scorer, sum(suite.dropped.values())
    who = "made by a model" if scorer.made else "of people"
    lines = [f"{len(suite.items)} items {who}, {scorer.kind}, {scorer.role}"]
    if dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(suite.dropped.items()))
        lines.append(f"{dropped} rows are no items: {reasons}")
    if items:
        share = f"{items} items ({items / len(suite.items):.0%})"
        lines.append(
            f"{share} are near copies of {rows} rows that were trained on; name the file in train.test, which keeps "
            "such rows out of training"
        )
    return lines
