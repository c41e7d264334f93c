"""Adversarial: Self-Instruct that shows human-like rows as demonstrations, and refused rows as bad examples."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import one_line
from gristmill.cluster.text.template import Prompts, by_language, for_language, slots, template_for
from gristmill.cluster.text.words import num_words
from gristmill.generation.contracts import Ask, Draft, Snapshot
from gristmill.generation.methods.self_instruct.method import SelfInstruct

AVOID = {
    "en": "These read as if a machine had written them, so write nothing like them:\n{refused}",
    "zh": "下面这些一看就像是机器写的，请不要写成这样：\n{refused}",
}
"""The sentence about refused instructions, by language."""
Avoided = tuple[tuple[str, str], ...]
"""(language, text) of each refused instruction."""
SCORE = "human_like"
MAX_SCANNED = 2000
"""Number of the latest refused rows that are searched in each round."""
LOOKED_AT = 8
"""For each demonstration, the best of this many kept rows is shown."""


class Adversarial(SelfInstruct[Avoided]):
    """Draft like Self-Instruct, with demonstrations from the kept rows that deceived the discriminator most.

    The loop needs the filter `discriminator` and a few rounds. Rows that the filter dropped are shown to the model as
    bad examples, and rows with a high `human_like` as demonstrations. This controls a fixed generator by its prompt. It
    is not adversarial training, and it may not converge. The filter's `accuracy` by round shows whether it had an
    effect.

    Source: the loop is that of SeqGAN (Yu et al. 2017, arXiv:1609.05473) and of self-play fine-tuning (SPIN, Chen et
    al. 2024, arXiv:2401.01335, section 4), with the test of Lopez-Paz and Oquab 2017, arXiv:1610.06545, as the
    discriminator. Drafts and answers: see SelfInstruct. Departures: both papers train the generator on the
    discriminator's signal, but here the signal only chooses demonstrations; each made demonstration is the best of
    eight random kept rows, so the cost of a draw does not grow with the number of rows.
    """

    kind: Literal["adversarial"] = "adversarial"  # type: ignore[assignment]
    num_machine: int = Field(default=3, ge=0)
    """Number of demonstrations from rows that settled rounds have kept. Before there are such rows, seeds are used."""
    num_refused: int = Field(default=2, ge=0)
    """Number of refused instructions that the prompt tells the model to avoid; 0 for none."""
    avoid_prompts: Annotated[Prompts, slots("refused")] = by_language(AVOID)
    """The sentence about refused instructions, by language; `{refused}` is their list."""

    def draw(self, snapshot: Snapshot, turn: int, rng: Random) -> tuple[Sample, ...]:
        """Return demonstrations of one language: seeds, and the kept rows with the highest `human_like`."""
        look = min(len(snapshot.made), LOOKED_AT * self.num_machine)
        looked = [snapshot.made[place] for place in rng.sample(range(len(snapshot.made)), look)]
        ranked = sorted(looked, key=lambda row: (-row.scores.get(SCORE, 0.0), row.id))
        best: dict[str, list[Sample]] = {}
        for row in ranked:
            if num_words(self._demo(row)) <= self.max_demo_words:
                best.setdefault(language_of(row), []).append(row)
        shown = tuple(row for rows in best.values() for row in rows[: self.num_machine])
        return super().draw(replace(snapshot, made=shown), turn, rng)

    async def prepare(self, snapshot: Snapshot, before: Avoided | None, ask: Ask) -> Avoided:
        """Return (language, instruction) of recent rows that the discriminator refused with the highest certainty."""
        del before, ask
        first = max(0, len(snapshot.refused) - MAX_SCANNED)
        rows = [snapshot.refused[place] for place in range(first, len(snapshot.refused))]
        refused = [row for row in rows if (row.dropped or "").startswith("discriminator:")]
        refused = [row for row in refused if num_words(row.instruction) <= self.max_demo_words]
        ranked = sorted(refused, key=lambda row: (row.scores.get(SCORE, 0.0), row.id))
        found: dict[str, list[str]] = {}
        for row in ranked:
            found.setdefault(language_of(row), []).append(self._demo(row))
        return tuple((language, text) for language in sorted(found) for text in found[language][: self.num_refused])

    async def expand(self, parents: Sequence[Sample], ask: Ask[Avoided], rng: Random) -> list[Draft]:
        """Return one draft that ends with the user's turn."""
        language = language_of(parents[0])
        refused = [one_line(text) for spoken_in, text in ask.prepared if spoken_in == language]
        if not refused:
            return await super().expand(parents, ask, rng)
        listed = "\n".join(f"- {text}" for text in refused)
        avoid = template_for(self.avoid_prompts, language).text(refused=listed)
        changed = {
            name: {**getattr(self, name), language: f"{for_language(getattr(self, name), language)}\n\n{avoid}"}
            for name in ("prompts", "bare_prompts")
        }
        return await SelfInstruct.expand(self.model_copy(update=changed), parents, ask, rng)
