"""IFD, self-consistency, and the heads of real classifiers with random weights."""

import asyncio
import math
from pathlib import Path
from typing import Any, Literal

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.generation.contracts import Filter, Snapshot, Verdict
from gristmill.generation.filters.ifd import Ifd
from gristmill.generation.filters.reward import Reward
from gristmill.generation.filters.self_consistency import FREE, RESULT, SelfConsistency, result
from gristmill.generation.filters.toxicity import Toxicity
from gristmill.generation.prompting.classifier import Head
from tests.fakes import ScriptedAsk, two_layer_model

REFUSED = Reply("", "error: prompt has 9000 tokens, must be below 2048", 9000, 0)


def sample(*turns: str, system: str = "") -> Sample:
    roles = ("user", "assistant") * len(turns)
    before = (Message("system", system),) if system else ()
    return Sample(id="s", messages=(*before, *(Message(r, t) for r, t in zip(roles, turns, strict=False))))


def judged(step: Filter, what: Sample, *replies: Reply | str) -> tuple[Verdict, ScriptedAsk]:
    ask = ScriptedAsk(*replies)
    return asyncio.run(step.judge(what, ask)), ask


def scored(logprob: float | None, tokens: int = 4) -> Reply:
    return Reply("", "stop", 20, tokens, logprob=logprob)


@pytest.mark.parametrize(
    ("kind_of", "given", "alone", "ifd", "reason"),
    [
        ("loss", -4.0, -8.0, 0.5, None),  # 1 nat a token against 2
        ("perplexity", -4.0, -8.0, math.exp(-1), None),  # e against e squared
        ("loss", -8.0, -8.0, 1.0, None),
        ("loss", -9.0, -8.0, 1.125, "ifd: above threshold"),
        ("perplexity", -9.0, -8.0, math.exp(0.25), "ifd: above threshold"),
        ("loss", 0.0, -8.0, 0.0, None),
    ],
)
@pytest.mark.parametrize("turns", [("Name a river.", "The Nile."), ("说一条河。", "长江。")])
def test_ifd_is_the_ratio_with_and_without_the_instruction(
    kind_of: Literal["loss", "perplexity"],
    given: float,
    alone: float,
    ifd: float,
    reason: str | None,
    turns: tuple[str, str],
) -> None:
    """Li et al. 2023, section 2.2: IFD = s(A|Q) / s(A), and what is above 1 goes."""
    verdict, ask = judged(Ifd(kind_of=kind_of), sample(*turns), scored(given), scored(alone))
    assert verdict.scores == pytest.approx({"ifd": ifd})
    assert verdict.dropped == reason
    assert [(messages, settings["scored"]) for messages, settings in ask.asked] == [
        ((Message("user", turns[0]),), turns[1]),
        ((), turns[1]),
    ]


def test_ifd_means_are_over_tokens_and_bounds_are_settings() -> None:
    verdict, _ = judged(Ifd(), sample("Q", "A"), scored(-6.0, 3), scored(-8.0, 2))
    assert verdict.scores == pytest.approx({"ifd": 0.5})
    low, _ = judged(Ifd(min_ifd=0.6), sample("Q", "A"), scored(-4.0), scored(-8.0))
    assert low.dropped == "ifd: below threshold"
    high, _ = judged(Ifd(max_ifd=1.2), sample("Q", "A"), scored(-9.0), scored(-8.0))
    assert high.dropped is None


@pytest.mark.parametrize(
    ("what", "replies", "reason"),
    [
        (sample("Q"), (), "no answer"),
        (Sample(id="s", messages=()), (), "no answer"),
        (sample("Q", "A"), (REFUSED, scored(-8.0)), REFUSED.finish),
        (sample("Q", "A"), (scored(-8.0), REFUSED), REFUSED.finish),
        (sample("Q", "A"), (scored(None), scored(-8.0)), "no score"),
        (sample("Q", "A"), (scored(-8.0, 0), scored(-8.0)), "no score"),
        (sample("Q", "A"), (scored(-math.inf), scored(-8.0)), "no score"),
        (sample("Q", "A"), (scored(-8.0), scored(0.0)), "answer is certain without instruction"),
    ],
)
def test_ifd_without_numbers_drops(what: Sample, replies: tuple[Reply, ...], reason: str) -> None:
    assert judged(Ifd(), what, *replies)[0] == Verdict(dropped=f"ifd: {reason}")


def test_a_perplexity_ratio_beyond_any_float_is_just_large() -> None:
    verdict, _ = judged(Ifd(kind_of="perplexity"), sample("Q", "A"), scored(-9000.0, 1), scored(-1.0, 1))
    assert verdict.dropped == "ifd: above threshold" and math.isfinite(verdict.scores["ifd"])


@pytest.mark.parametrize(
    ("text", "comes_to"),
    [
        ("Natalia sold 48/2 = 24 clips.\n#### 72", "72"),
        ("So he pays \\boxed{1,234.50} in all.", "1234.5"),
        ("We add them. The answer is 18 dollars.", "18"),
        ("先算出单价，再相乘。\n答案是：６０元", "60"),
        ("答：-3", "-3"),
        ("先算单价，再乘以数量，最后加上运费。\n答：一共要付１２元，不用再付别的钱。\n请检查一遍。", "12"),
        ("Half of it is left. The answer is 1/2 of the cake.", "1/2"),
        ("Negative", "negative"),
        ("Paris.", "paris"),
        ("负面", "负 面"),
        ("7", "7"),
        ("72.0", "72"),
        ("The answer is that it depends on many things that we cannot know.", ""),
        ("The Nile is a long river in Africa that flows north.", ""),
        ("春风又绿江南岸，明月何时照我还。", ""),
        ("", ""),
    ],
)
def test_results_are_told_from_free_text(text: str, comes_to: str) -> None:
    assert result(text) == comes_to


@pytest.mark.parametrize(
    ("turns", "fresh", "share"),
    [
        (
            ("How many?", "48/2 = 24\n#### 72"),
            ("The answer is 72.", "#### 72", "It is 72 in all, I think so.", "70"),
            0.75,
        ),
        (("一共多少？", "答案是72"), ("答案是72个", "共计７２", "我算出来一共是七十个左右吧", "答案是27"), 0.5),
        (("Positive or negative?", "Negative"), ("The answer is negative.", "negative", "Positive", "NEGATIVE!"), 0.75),
    ],
)
def test_results_are_compared_exactly(turns: tuple[str, str], fresh: tuple[str, ...], share: float) -> None:
    verdict, ask = judged(SelfConsistency(samples=4), sample(*turns), *fresh)
    assert verdict.scores == {"self_consistency": share}
    assert verdict.dropped is None
    assert judged(SelfConsistency(samples=4, min_share=share + 0.01), sample(*turns), *fresh)[0].dropped == (
        "self_consistency: answers disagree"
    )
    language = "zh" if turns[0].startswith("一") else "en"
    assert ask.asked[0][0] == (Message("system", RESULT[language]), Message("user", turns[0]))


def test_exact_compares_the_last_line_of_an_answer_that_marks_no_result() -> None:
    turns = ("How many?", "Half of the 48 friends came, and they bought a clip each.\nSo she sold 24 clips in all.")
    fresh = ("She sold 24.", "#### 24", "It is 25.", "There is no way to know.")
    verdict, _ = judged(SelfConsistency(samples=4, compare="exact"), sample(*turns), *fresh)
    assert verdict.scores == {"self_consistency": 0.5}
    assert result(turns[1]) == "", "by default such an answer is free text"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_free_text_is_compared_by_embedding(language: str) -> None:
    own, near, far = {
        "en": (
            "The Nile is a long river in Africa.",
            "The Nile is a very long river in Africa.",
            "Bake it at 200 degrees.",
        ),
        "zh": (
            "长江是中国最长的河流，流入东海。",
            "长江是中国最长的一条河流，流入东海。",
            "请把面团放进烤箱里烤二十分钟左右。",
        ),
    }[language]
    question = "说一条河。请介绍它。" if language == "zh" else "Tell me of a river."
    same, ask = judged(SelfConsistency(samples=2), sample(question, own), own, own)
    assert same.scores == pytest.approx({"self_consistency": 1.0})
    assert ask.asked[0][0][0] == Message("system", FREE[language])
    close, _ = judged(SelfConsistency(samples=2), sample(question, own), near, near)
    other, _ = judged(SelfConsistency(samples=2), sample(question, own), far, far)
    assert close.scores["self_consistency"] > 0.5 > other.scores["self_consistency"]
    assert close.dropped is None and other.dropped == "self_consistency: answers disagree"
    half, _ = judged(SelfConsistency(samples=2), sample(question, own), own, "")
    assert half.scores == pytest.approx({"self_consistency": 0.5})


def test_self_consistency_survives_refused_and_cut_off_answers() -> None:
    cut = Reply("The answer is 72", "length", 9, 5)
    verdict, _ = judged(SelfConsistency(samples=2, min_share=0), sample("How many?", "#### 72"), cut, REFUSED)
    assert verdict.scores == {"self_consistency": 0.0}
    verdict, _ = judged(SelfConsistency(samples=2), sample("How many?", "#### 72"), REFUSED, REFUSED)
    assert verdict == Verdict(dropped=f"self_consistency: {REFUSED.finish}")
    verdict, _ = judged(SelfConsistency(samples=2), sample("Tell me", "A long free answer of many words."), "", "")
    assert verdict.scores == {"self_consistency": 0.0}
    assert judged(SelfConsistency(), sample("Q"))[0].dropped == "self_consistency: no answer"


def test_a_system_turn_of_the_samples_own_stays() -> None:
    _, ask = judged(SelfConsistency(samples=1), sample("How many?", "72", system="Be brief."), "72")
    assert ask.asked[0][0] == (Message("system", "Be brief."), Message("user", "How many?"))


def classifier(folder: Path, labels: tuple[str, ...], **settings: Any) -> str:
    """Write a llama of two layers with a head of so many labels, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    two_layer_model(folder)
    torch.manual_seed(1)
    config = LlamaConfig.from_pretrained(
        str(folder), num_labels=len(labels), id2label=dict(enumerate(labels)), **settings
    )
    LlamaForSequenceClassification(config).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return classifier(tmp_path_factory.mktemp("reward"), ("reward",))


@pytest.fixture(scope="module")
def toxic_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return classifier(tmp_path_factory.mktemp("toxic"), ("fine", "toxic"))


def expected(folder: str, text: str) -> list[float]:
    """Return the logits that transformers gives by itself."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
    return [float(logit) for logit in logits]


async def prepared(step: Reward | Toxicity) -> Any:
    return await step.prepare(Snapshot(0), None, ScriptedAsk())


async def together(step: Filter, ask: ScriptedAsk, samples: list[Sample]) -> list[Verdict]:
    return await asyncio.gather(*(step.judge(one, ask) for one in samples))


PAIRS = [("Name a river.", "The Nile."), ("说一条河。", "长江是中国最长的河流。"), ("Why?", "Because it is so.")]


def test_a_reward_model_scores_the_rendered_conversation_in_one_pass(reward_model: str) -> None:
    async def run() -> tuple[list[Verdict], list[Verdict], Head]:
        step = Reward(model=reward_model, batch=8)
        head = await prepared(step)
        assert await step.prepare(Snapshot(1), head, ScriptedAsk()) is head
        ask = ScriptedAsk(prepared=head)
        return await together(step, ask, [sample(*p) for p in PAIRS]), [await step.judge(sample(*PAIRS[1]), ask)], head

    verdicts, again, head = asyncio.run(run())
    assert head.passes == 2
    assert again == verdicts[1:2]
    for (instruction, answer), verdict in zip(PAIRS, verdicts, strict=True):
        text = (
            "<|im_start|>system\nYou help.<|im_end|>\n"
            f"<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        )
        assert verdict.scores["reward"] == pytest.approx(expected(reward_model, text)[0], abs=2e-4)
        assert verdict.dropped is None
    assert len({verdict.scores["reward"] for verdict in verdicts}) == 3


def test_batches_are_no_larger_than_the_recipe_says(reward_model: str) -> None:
    async def run() -> int:
        step = Reward(model=reward_model, batch=2)
        head = await prepared(step)
        await together(step, ScriptedAsk(prepared=head), [sample(f"Q {n}", f"A {n}") for n in range(5)])
        return int(head.passes)

    assert asyncio.run(run()) == 3


def test_a_bound_drops_and_the_score_has_the_name_of_the_recipe(reward_model: str) -> None:
    async def run() -> tuple[Verdict, Verdict, Verdict]:
        head = await prepared(Reward(model=reward_model))
        ask = ScriptedAsk(prepared=head)
        high, low = (Reward(model=reward_model, name="helpful", min_score=bound) for bound in (1e6, -1e6))
        return (
            await high.judge(sample("Q", "A"), ask),
            await low.judge(sample("Q", "A"), ask),
            await low.judge(sample("Q"), ask),
        )

    dropped, kept, empty = asyncio.run(run())
    assert dropped.dropped == "reward: below threshold" and kept.dropped is None
    assert set(dropped.scores) == set(kept.scores) == {"helpful"}
    assert empty == Verdict(dropped="reward: no answer")


def test_long_samples_are_cut_and_pairs_are_read_as_such(reward_model: str) -> None:
    async def run(step: Reward) -> float:
        ask = ScriptedAsk(prepared=await prepared(step))
        return (await step.judge(sample("Q", "很长" * 3000), ask)).scores["reward"]

    for layout in ("auto", "pair", "answer"):
        assert math.isfinite(asyncio.run(run(Reward(model=reward_model, layout=layout, max_tokens=64))))


def test_a_failed_pass_fails_the_rows_that_asked_and_no_others(
    reward_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> tuple[list[Any], Verdict]:
        step = Reward(model=reward_model)
        head = await prepared(step)
        ask = ScriptedAsk(prepared=head)
        with monkeypatch.context() as patch:
            patch.setattr(head, "_model", None)
            failed = await asyncio.gather(*(step.judge(sample(*p), ask) for p in PAIRS), return_exceptions=True)
        return failed, await step.judge(sample(*PAIRS[0]), ask)

    failed, later = asyncio.run(run())
    assert [type(error) for error in failed] == [AttributeError] * 3
    assert "reward" in later.scores


def test_a_classifier_reads_each_turn_for_toxicity(toxic_model: str) -> None:
    turns = ("You are nice.", "你这个混蛋！")

    async def run(bound: float) -> Verdict:
        step = Toxicity(model=toxic_model, label="toxic", max_toxicity=bound)
        return await step.judge(sample(*turns), ScriptedAsk(prepared=await prepared(step)))

    logits = [expected(toxic_model, text) for text in turns]
    harm = max(1 / (1 + math.exp(fine - toxic)) for fine, toxic in logits)
    assert asyncio.run(run(1.0)).scores == pytest.approx({"harmless": 1 - harm}, abs=2e-4)
    assert asyncio.run(run(1.0)).dropped is None
    assert asyncio.run(run(0.0)).dropped == "toxicity: harmful"


def test_labels_that_may_hold_together_are_read_one_by_one(tmp_path: Path) -> None:
    folder = classifier(tmp_path, ("insult", "threat"), problem_type="multi_label_classification")

    async def run() -> Verdict:
        step = Toxicity(model=folder, label="threat", max_toxicity=1.0)
        return await step.judge(sample("Go away."), ScriptedAsk(prepared=await prepared(step)))

    threat = expected(folder, "Go away.")[1]
    assert asyncio.run(run()).scores == pytest.approx({"harmless": 1 - 1 / (1 + math.exp(-threat))}, abs=2e-4)


def test_a_wrong_label_or_model_is_an_error_of_the_recipe(toxic_model: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="must be one of fine, toxic"):
        asyncio.run(prepared(Toxicity(model=toxic_model, label="rude")))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(JobError, match=r"reward\.model: .* is no sequence classifier"):
        asyncio.run(prepared(Reward(model=str(tmp_path))))
    assert asyncio.run(prepared(Toxicity())) is None


def test_a_model_without_a_head_is_refused_and_not_given_a_random_one(tiny: str) -> None:
    with pytest.raises(JobError, match=r"lacks score\.weight, must be trained as a sequence classifier"):
        asyncio.run(prepared(Reward(model=tiny)))


def test_a_head_is_known_by_its_weights_and_not_by_its_device(reward_model: str, toxic_model: str) -> None:
    one = Reward(model=reward_model)
    assert one.fingerprint() == Reward(model=reward_model, device="cpu", batch=2).fingerprint()
    assert one.fingerprint() != Reward(model=toxic_model).fingerprint()
