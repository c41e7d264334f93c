"""Every filter, in English and in Chinese."""

import asyncio
import random

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.keys import key
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.words import num_words, tokens
from gristmill.generation.contracts import Filter, Verdict
from gristmill.generation.filters.judge.filter import Judge
from gristmill.generation.filters.language import Language
from gristmill.generation.filters.length import Length
from gristmill.generation.filters.novelty import Instructions, Novelty, common, lcs, rouge_l
from gristmill.generation.filters.refusal import PATTERNS, Refusal, joined
from gristmill.generation.filters.repetition import Repetition, duplicate_lines, duplicate_ngrams
from tests.fakes import ScriptedAsk


def sample(instruction: str, answer: str = "", **tags: str) -> Sample:
    turns = [Message("user", instruction)] + ([Message("assistant", answer)] if answer else [])
    return Sample(id=instruction[:8], messages=tuple(turns), tags=tags)


def judged(step: Filter, what: Sample, *replies: Reply | str) -> Verdict:
    return asyncio.run(step.judge(what, ScriptedAsk(*replies)))


def test_words_are_counted_in_spaced_and_unspaced_scripts() -> None:
    assert tokens("Don't stop, Émile!") == ["don't", "stop", "émile"]
    assert tokens("用Python写诗") == ["用", "python", "写", "诗"]
    assert num_words("Write a short poem") == 4
    assert num_words("请写一首关于春天的诗") == 7  # ten characters at 1.5 a word, to even
    assert is_chinese("请用English写一封信") and not is_chinese("Translate 你好 into English")
    assert not is_chinese("") and not is_chinese("日本語で書いてください")


@pytest.mark.parametrize(
    ("instruction", "answer", "reason"),
    [
        ("Name a fruit", "Apple", None),
        ("Why", "", "length: instruction too short"),
        ("word " * 151, "", "length: instruction too long"),
        ("写一首关于春天的诗", "春风又绿江南岸", None),
        ("好", "", "length: instruction too short"),
        ("很" * 240, "", "length: instruction too long"),
        ("Name a fruit", "very " * 401, "length: answer too long"),
        ("写一篇文章", "长" * 700, "length: answer too long"),
    ],
)
def test_length_bounds_words_and_not_spaces(instruction: str, answer: str, reason: str | None) -> None:
    assert judged(Length(), sample(instruction, answer)).dropped == reason


@pytest.mark.parametrize(
    ("language", "instruction", "answer", "reason"),
    [
        ("en", "Name three animals that live in water.", "Fish, whales and frogs live in water.", None),
        ("en", "Name the capital of France.", "Paris", None),
        ("en", "写一首关于春天的诗", "", "language: instruction not in en"),
        ("en", "Name three animals that live in water.", "鱼、鲸鱼和青蛙都生活在水里。", "language: answer not in en"),
        ("zh", "写一首诗", "春风又绿江南岸，明月何时照我还。", None),
        ("zh", "請用廣東話講個故事", "從前有座山，山上有座廟。", None),
        ("zh", "写一首诗", "The spring wind greens the southern shore once more.", "language: answer not in zh"),
        ("zh", "これを日本語で書いてください", "", "language: instruction not in zh"),
        ("en", "Nennen Sie drei Tiere, die im Wasser leben.", "", "language: instruction not in en"),
    ],
)
def test_language_keeps_what_was_asked_for(language: str, instruction: str, answer: str, reason: str | None) -> None:
    assert judged(Language(), sample(instruction, answer, language=language)).dropped == reason


def test_language_lets_everything_pass_that_has_no_tag_unless_it_is_told() -> None:
    german = sample("Nennen Sie drei Tiere, die im Wasser leben.")
    assert judged(Language(), german).dropped is None
    assert judged(Language(languages=("de", "en")), german).dropped is None
    assert judged(Language(languages=("en",)), german).dropped == "language: instruction not in en"


def test_repetition_counts_lines_and_ngrams_that_stood_before() -> None:
    assert duplicate_lines("a\nb\n\na\na") == 0.5
    assert duplicate_ngrams(list("abcdeXabcde"), 5) == pytest.approx(5 / 11)
    assert duplicate_ngrams(list("abcdefgh"), 5) == 0.0
    assert duplicate_ngrams(list("abcabcabc"), 3) == pytest.approx(6 / 9)
    assert duplicate_ngrams(list("abc"), 5) == duplicate_ngrams([], 5) == duplicate_lines("") == 0.0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("The cat sat on the mat and then it went out to look for mice in the old barn behind the house.", None),
        ("I like it very much indeed. " * 8, "repetition: answer repeats itself"),
        ("Eat.\nEat.\nSleep.\nEat.\nEat.\nwell, that is really all there is to tell you about my day", None),
        ("yes yes yes", None),
        ("春天来了，花儿开了，小鸟在枝头唱歌，孩子们在草地上奔跑，大家都很高兴。", None),
        ("我非常喜欢这本书的内容。" * 6, "repetition: answer repeats itself"),
    ],
)
def test_repetition_drops_answers_that_run_away(answer: str, reason: str | None) -> None:
    loose = Repetition(max_duplicate_lines=0.7)
    assert judged(loose, sample("Tell me about it", answer)).dropped == reason


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("The meeting has been moved.", "“Ｔhe meeting has been moved”"),
        ("Étienne reads a long book.", "E\N{COMBINING ACUTE ACCENT}tienne reads a long book"),
        ("&quot;Read a long book now&quot;", "Read a long book now."),
        ("會議改到下個星期二下午了。", "会议改到下个星期二下午了"),
        ("12 apples are in the box.", "12 Apples are in the box"),
        ("\N{LATIN SMALL LIGATURE FI}nd the right word here", "Find the right word here"),
    ],
)
def test_an_answer_in_another_form_of_the_same_characters_says_the_question_again(question: str, answer: str) -> None:
    assert key(question) == key(answer)
    assert judged(Repetition(), sample(question, answer)).dropped == "repetition: answer says the question again"


def test_an_answer_that_says_the_question_again_is_dropped_and_a_greeting_is_not() -> None:
    asked, again = "The meeting has been moved to Tuesday.", "the meeting has been moved to Tuesday"
    assert judged(Repetition(), sample(asked, again)).dropped == "repetition: answer says the question again"
    first = Sample("x", (*sample(asked, again).messages, Message("user", "And?"), Message("assistant", "That is all.")))
    assert judged(Repetition(), first).dropped == "repetition: answer says the question again"
    assert judged(Repetition(), sample("会议改到下个星期二下午了。", "会议改到下个星期二下午了")).dropped is not None
    for question, answer in (
        ("Hello there!", "Hello there!"),
        (f"Correct this: {asked}", asked),
        (asked, "Thank you."),
    ):
        assert judged(Repetition(), sample(question, answer)) == Verdict()


def test_repetition_drops_repeated_lines() -> None:
    answer = "First do this thing.\n" * 3 + "Then do the other thing with all the care in the world."
    assert (
        judged(Repetition(max_duplicate_ngrams=1), sample("How", answer)).dropped == "repetition: answer repeats lines"
    )


@pytest.mark.parametrize(
    ("answer", "declines"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("As an AI language model, I have no body.", True),
        ("Please provide the text that you would like me to summarise.", True),
        ("很抱歉，我无法回答这个问题。", True),
        ("作为一个人工智能语言模型，我没有感情。", True),
        ("请您提供更多信息。", True),
        ("She said she was sorry and left.", False),
        ("The letter ends: " + "x " * 100 + "I'm sorry, but I can't come.", False),
        ("道歉信：对于昨天的事，我深表歉意。", False),
    ],
)
def test_refusal_looks_at_the_beginning_of_the_answer(answer: str, declines: bool) -> None:
    assert (judged(Refusal(), sample("Do it", answer)).dropped is not None) == declines


def test_patterns_of_refusals_are_searched_together_and_those_with_groups_or_flags_alone() -> None:
    assert [pattern.groups for pattern in joined(PATTERNS)] == [0, 0]
    own = (r"(no)pe \1\b", "(?i:sorry)", r"(?x) n e v e r", "不行", "cannot")
    assert len(joined(own)) == 4
    said = {"Nope no": True, "Nope yes": False, "SORRY": True, "Never ever": True, "这不行": True, "I CANNOT": True}
    for answer, declines in said.items():
        assert (judged(Refusal(patterns=own), sample("Do it", answer)).dropped is not None) == declines, answer


def test_rouge_l_gives_the_numbers_of_the_paper() -> None:
    """Lin 2004, section 3.1: S2 scores 0.75 and S3 0.5 against S1."""
    assert rouge_l("police killed the gunman", "police kill the gunman") == 0.75
    assert rouge_l("police killed the gunman", "the gunman kill police") == 0.5
    assert rouge_l("写一首关于春天的诗", "写一首关于秋天的诗") == pytest.approx(8 / 9)
    assert rouge_l("写一首诗", "写一首诗") == 1.0
    assert rouge_l("", "anything") == 0.0


def all_pairs(text: str, others: list[str]) -> float:
    def subsequence(a: list[str], b: list[str]) -> int:
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
        return table[-1][-1]

    one = tokens(text)
    pairs = [(one, tokens(other)) for other in others]
    return max((2 * subsequence(a, b) / (len(a) + len(b)) for a, b in pairs if a or b), default=0.0)


def test_pruned_novelty_is_that_of_all_pairs() -> None:
    rng = random.Random(7)
    words, han = [f"w{n}" for n in range(12)], "春夏秋冬山水花月"
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(150)]
    texts += ["".join(rng.choices(han, k=rng.randint(1, 12))) for _ in range(150)]
    rng.shuffle(texts)
    memory, seen = Instructions(), list[str]()
    for text in texts:
        assert memory.nearest(text)[0] == pytest.approx(all_pairs(text, seen))
        memory.add(sample(text))
        seen.append(text)
    assert len(memory) == 300


def test_novelty_drops_near_copies_and_scores_the_rest() -> None:
    step = Novelty()
    memory = step.memory()
    near = step.compare(sample("Write a poem about the sea"), memory, 0)
    assert near == Verdict({"novelty": 0.5})
    memory.add(sample("Write a poem about the sea"))
    memory.add(sample("写一首关于春天的诗"))
    assert step.compare(sample("Write a poem about the moon"), memory, 2).dropped == "novelty: too near Write a "
    assert step.compare(sample("写一首关于秋天的诗"), memory, 2).dropped == "novelty: too near 写一首关于春天的"
    far = step.compare(sample("写一封信给老师"), memory, 2)
    assert far.dropped is None
    assert far.scores["novelty"] == 0.5


def test_the_kernels_are_plain_functions_too() -> None:
    import numpy as np

    a, b = np.array([1, 2, 2, 5], np.int32), np.array([2, 2, 3, 5, 5], np.int32)
    assert common(a, b) == 3
    assert lcs(a, b) == 3


def test_the_judge_scores_the_expected_grade() -> None:
    reply = Reply("4", "stop", 10, 1, {"1": 0.0, "2": 0.0, "3": 0.25, "4": 0.5, "5": 0.25})
    assert judged(Judge(min_score=4), sample("Why is the sky blue?", "Because."), reply) == Verdict({"judge": 4.0})
    verdict = judged(Judge(min_score=4.1), sample("Why is the sky blue?", "Because."), reply)
    assert verdict == Verdict({"judge": 4.0}, "judge: below threshold")


def test_the_judge_reads_both_turns_in_their_language() -> None:
    ask = ScriptedAsk(Reply("3", "stop", 10, 1, {"3": 1.0}), Reply("3", "stop", 10, 1, {"3": 1.0}))
    asyncio.run(Judge().judge(sample("天空为什么是蓝色的？", "因为散射{answer}"), ask))
    asyncio.run(Judge().judge(sample("Why {instruction}?", "Because."), ask))
    chinese, english = (settings["prefix"] for _, settings in ask.asked)
    assert chinese.endswith("指令：天空为什么是蓝色的？\n回答：因为散射{answer}\n分数：")
    assert english.endswith("Instruction: Why {instruction}?\nAnswer: Because.\nGrade: ")
    assert chinese.startswith("指令：说出三种颜色。\n回答：红色、蓝色和绿色。\n分数：5\n\n")
    assert "打分" in ask.asked[0][0][0].text


def test_a_refused_grade_drops_the_row_and_does_not_raise() -> None:
    refused = Reply("", "error: prompt has 9000 tokens, must be below 2048", 9000, 0)
    assert judged(Judge(), sample("Why?", "Because."), refused).dropped == f"judge: {refused.finish}"
