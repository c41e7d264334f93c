"""Retrieve: related samples or passages of a corpus, used as demonstrations, as grounding, or as data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.language import language_of
from gristmill.cluster.text.replies import cut_off, flat, refuse
from gristmill.cluster.text.template import (
    Prompt,
    Prompts,
    Template,
    by_language,
    slots,
    template_for,
)
from gristmill.cluster.text.words import num_words
from gristmill.generation.contracts import Ask, Draft, EachInput, Input, Snapshot
from gristmill.generation.prompting.search import By, Hit, SearchIndex, find, index

ASK = {
    "en": (
        "Write a list of related questions and tasks. Each is new, complete and clear, and brings with it all that it "
        "needs; each is followed by its answer.\n---\nTask: {task}\nAnswer:"
    ),
    "zh": (
        "请写出一组相关的问题和任务。每一个都是新的，完整清楚，自带所需的全部信息；每个后面都有回答。\n---\n"
        "任务：{task}\n回答："
    ),
}
"""Templates by language: a new task and its answer, after related samples as demonstrations."""
GROUND = {
    "en": "Answer the question from these passages:\n\n{passages}\n\nQuestion: {question}",
    "zh": "请根据下面的文字回答问题：\n\n{passages}\n\n问题：{question}",
}
"""Templates by language: the user's turn with related texts as grounding."""
MIN_WORDS = 4


class Retrieve(EachInput[SearchIndex]):
    """Find related texts in a corpus for each seed, and use them as demonstrations, as grounding or as data.

    The corpus is the documents if the job has any, else the seeds themselves. Texts are ranked by BM25 and by the
    cosine of their embeddings. The two rankings are fused. Among the best texts, those that add something new are used.

    As `demonstrations`, related samples begin the model's turn, and the seed is the last of them. If the seed has no
    answer, the model answers it. If it has one, the model writes a new task, and a second call answers this task. As
    `grounding`, the model answers the seed from the related passages. As `data`, the related texts become rows without
    a change, each with the score `related`; a text without an answer is answered, by the model or, with `answers =
    "seed"`, by the seed's own answer and label. The same sample may be found for two seeds. Then the filter `novelty`
    drops it the second time. In `[select]`, `exact` with `prefer = ["related"]` keeps the one with the nearer seed; it
    needs `answers = false` where the two seeds have different answers.

    Source: Robertson and Zaragoza 2009, The Probabilistic Relevance Framework, section 3 (BM25, k1 1.5, b 0.75);
    Cormack et al. 2009, Reciprocal Rank Fusion, SIGIR, section 2 (k = 60); Carbonell and Goldstein 1998, MMR, SIGIR,
    section 2; Liu et al. 2022, arXiv:2101.06804, section 3 (nearest samples as demonstrations, the nearest last); Lewis
    et al. 2020, RAG, arXiv:2005.11401, section 2. Departures: texts without spaces are indexed by pairs of characters;
    the relevance in MMR is the fused score; one prompt holds all passages.
    """

    kind: Literal["retrieve"] = "retrieve"
    revision: ClassVar[int] = 2  # texts in a script that the encoder does not know are found by their words alone
    feeds: ClassVar[tuple[Input, ...]] = ("seeds",)
    newer: ClassVar[frozenset[str]] = frozenset({"answers"})
    use: Literal["demonstrations", "grounding", "data"] = "demonstrations"
    """How the related texts are used."""
    answers: Literal["model", "seed"] = "model"
    """What answers a text without an answer that `data` takes over. `model`: the model. `seed`: the text gets the
    answer and the tag `label` of the seed that it was found for; no model is asked."""
    count: int = Field(default=4, gt=0)
    """Number of related texts for one seed."""
    search: By = "both"
    """How texts are searched: by `words` (BM25), by `meaning` (embeddings), or by both."""
    relevance: float = Field(default=0.7, ge=0, le=1)
    """Weight of relevance against variety. With 1 the nearest texts are used, even if they resemble each other."""
    with_passages: bool = False
    """Whether a grounded sample contains its passages, in the user's turn."""
    max_demo_words: int = Field(default=200, gt=0)
    """Longer samples are not used as demonstrations."""
    max_words: int = Field(default=150, gt=0)
    """Largest number of words of a new task."""
    max_tokens: int = Field(default=128, gt=0)
    """Largest number of tokens of a new task."""
    temperature: float = Field(default=0.8, ge=0, le=2)
    """Temperature of a new task."""
    max_answer_tokens: int = Field(default=384, gt=0)
    """Largest number of tokens of the answer."""
    answer_temperature: float = Field(default=0.2, ge=0, le=2)
    """Temperature of the answer."""
    prompts: Annotated[Prompts, slots("task")] = by_language(ASK)
    """Templates by language for `demonstrations`: a new task and its answer."""
    grounding_prompts: Annotated[Prompts, slots("passages", "question")] = by_language(GROUND)
    """Templates by language for `grounding`: the user's turn."""

    @model_validator(mode="after")
    def _fits(self) -> "Retrieve":
        if self.answers == "seed" and self.use != "data":
            raise ValueError(f"answers: is 'seed' with use = {self.use!r}, must be 'model', or use must be 'data'")
        return self

    def asks_model(self) -> bool:
        """Return whether the model is asked: always, unless the seeds answer what is found."""
        return self.answers == "model"

    def inputs(self, snapshot: Snapshot) -> Sequence[Sample]:
        """Return the seeds."""
        return snapshot.seeds

    async def prepare(self, snapshot: Snapshot, before: SearchIndex | None, ask: Ask) -> SearchIndex:
        """Return the index of the corpus, which stays the same in all rounds."""
        return before if before is not None else await index(snapshot.documents or snapshot.seeds, self.search, ask)

    def figures(self, prepared: SearchIndex) -> Mapping[str, float]:
        """Return the size of the corpus."""
        return {"corpus": float(len(prepared.samples))}

    async def expand(self, parents: Sequence[Sample], ask: Ask[SearchIndex], rng: Random) -> list[Draft]:
        """Return one draft. With `use = "data"`, return one draft for each sample that was found."""
        del rng
        seed = parents[0]
        hits = await find(ask.prepared, seed.instruction, self.count, ask, weight=self.relevance, without=(seed.id,))
        if not hits:
            return [Draft(seed.messages[:1], dropped=f"{self.kind}: nothing related was found")]
        if self.use == "data":
            return [self._taken(hit, seed) for hit in hits]
        found = tuple(hit.sample for hit in hits)
        tags = {"language": language_of(seed)}
        if self.use == "grounding" or not seed.answer:
            return [Draft((Message("user", seed.instruction),), tags, parents=found)]
        return [await self._drafted(seed, found, tags, ask)]

    async def answer(self, draft: Draft, ask: Ask) -> Draft:
        """Answer the last question after the demonstrations, or from the passages."""
        if self.use == "data":
            return self.answered(draft, await self._asked(Prompt(messages=draft.messages, prefix=""), (), ask))
        language, question = draft.tags["language"], draft.messages[-1].text
        if self.use == "grounding":
            passages = "\n\n".join(passage.instruction for passage in draft.parents)
            grounded = template_for(self.grounding_prompts, language).begin(passages=passages, question=question)
            reply = await self._asked(grounded, (), ask)
            return self.answered(replace(draft, messages=grounded["messages"]) if self.with_passages else draft, reply)
        template = template_for(self.prompts, language)
        prompt = template.begin("", self._shown(template, draft.parents, ask.parents[0]), task=question)
        return self.answered(draft, await self._asked(prompt, ("\n\n", *template.stops(0)), ask))

    def refusal(self, text: str, finish: str, known: Sequence[Sample]) -> str | None:
        """Return why a new task is dropped before it is answered, or None."""
        words = num_words(text)
        rules = {
            **cut_off(finish, "task"),
            "task too short": words < MIN_WORDS,
            "task too long": words > self.max_words,
            "task is a demonstration again": any(flat(text) == flat(sample.instruction) for sample in known),
        }
        return refuse(rules)

    async def _drafted(self, seed: Sample, found: tuple[Sample, ...], tags: dict[str, str], ask: Ask) -> Draft:
        """Return a draft with a new task, which the model writes after the related samples and the seed."""
        template = template_for(self.prompts, tags["language"])
        reply = await ask(
            **template.begin("task", self._shown(template, found, seed)),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=(*template.stops(-1, 0), "\n\n"),
            stop_loops=True,
        )
        text = reply.text.strip()
        reason = self.refusal(text, reply.finish, (*found, seed))
        return self.drafted(text, tags, reason, found)

    async def _asked(self, prompt: Prompt, stop: tuple[str, ...], ask: Ask) -> Reply:
        most, heat = self.max_answer_tokens, self.answer_temperature
        return await ask(**prompt, max_tokens=most, temperature=heat, stop=stop, stop_loops=True)

    def _shown(self, template: Template, found: Sequence[Sample], seed: Sample) -> str:
        """Return the samples that have answers as demonstrations. The least related is first, and the seed is last."""
        demonstrations = [s for s in (*reversed(found), seed) if s.answer]
        short = [s for s in demonstrations if num_words(f"{s.instruction} {s.answer}") <= self.max_demo_words]
        return "".join(template.shot(flat(s.answer), task=flat(s.instruction)) for s in short)

    def _taken(self, hit: Hit, seed: Sample) -> Draft:
        """Return a found sample as a draft, with the tags that say where it comes from, perhaps answered by a seed."""
        found = hit.sample
        tags, messages = {"language": language_of(found), **found.tags}, found.messages
        if self.answers == "seed" and not found.answer:
            if not seed.answer:
                return Draft(messages, tags, f"{self.kind}: seed has no answer", {"related": hit.score}, (found,))
            tags |= {"label": seed.tags["label"]} if "label" in seed.tags else {}
            messages = (*messages, Message("assistant", seed.answer))
        return Draft(messages, tags, scores={"related": hit.score}, parents=(found,))
