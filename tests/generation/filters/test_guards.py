"""Guards without a model: questions that stand alone, and answers of the kind that was asked for."""

import asyncio

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.generation.contracts import Verdict
from gristmill.generation.filters.answer_kind import AnswerKind
from gristmill.generation.filters.standalone import Standalone
from gristmill.generation.job import Generate
from gristmill.generation.methods.evol_instruct.method import EvolInstruct
from gristmill.generation.methods.grounded import Grounded
from gristmill.generation.methods.self_instruct.method import SelfInstruct
from tests.fakes import ScriptedAsk

POINTS = """\
What did the two agree on after the meeting?
Why did she leave the town?
How did the other person react?
What does this paragraph say about trade?
What is the main idea of the text?
Explain the two methods in more detail.
According to the passage, when was the bridge built?
What are the advantages mentioned above?
Who were both of them afraid of?
How are these different from each other?
Summarize the following article in three points.
Did they find the treasure?
Which of the two is faster?
What was his reason for selling the mill?
How long, in hours, does he work?
If she works on Sunday, how much does she earn?
这段话主要讲了什么？
他为什么离开家乡？
作者对这件事有什么看法？
文中提到了哪些原因？
上述方法有什么缺点？
这两个人是什么关系？
另一个人做了什么？
该文的主题是什么？
请概括上文的要点。
后者有什么优点？
为什么他们要关闭工厂？""".splitlines()
ALONE = """\
What are the two largest cities in Norway?
How do birds keep their nests warm in winter?
Who is the author of Pride and Prejudice?
What is the text of the first amendment?
Ann and Bob share a flat. How much do the two pay each?
Explain the difference between the two sides of a leaf.
What does it mean to paraphrase a text?
Translate this sentence into French: I like tea.
When a man and a woman dance the tango, who leads the other person?
What were the two sides of the American Civil War called?
Are these days in June the longest of the year?
If Milly sells her mill, how long does she have to wait?
What do they call soft drinks in Boston?
鲁迅的文章《故乡》写了什么？
怎样写好一篇文章的开头？
小明和小红一起跑步，这两个人谁跑得快？
他人的建议应该怎样听？
把下面的句子翻译成英文：我喜欢喝茶。
中国最长的两条河是什么？
李白和杜甫谁更早出生，后者有哪些代表作？
为什么他乡遇故知令人高兴？
作者怎样向出版社投稿？""".splitlines()
ANSWERS = (
    ("How long does the crossing take?", "It takes forty minutes.", "By ferry from Arden.", "duration"),
    ("How long did the war last?", "From spring until the harvest.", "It ended with a treaty.", "duration"),
    ("In this mill, how long should bread rise?", "Overnight.", "Because of the yeast.", "duration"),
    ("Who built the lighthouse?", "The keepers of Kesh Point.", "It was built of granite.", "person"),
    ("Who invented the telephone?", "Bell.", "In 1876.", "person"),
    ("Who may enter the vault?", "Only the miller.", "It is locked at night.", "person"),
    ("How many rooms does the house have?", "Seven.", "The rooms are bright and large.", "number"),
    ("How old is the bridge?", "It is 300 years old.", "It is made of stone.", "number"),
    ("How much does it cost?", "Eight euros.", "It is very expensive.", "number"),
    ("渡船要多久？", "大约四十分钟。", "从阿登出发。", "duration"),
    ("这座桥建了多长时间？", "整整一年。", "用石头建成。", "duration"),
    ("灯塔是谁建的？", "看守人建的。", "因为鲸油太贵了。", "person"),
    ("谁发明了电话？", "贝尔。", "1876年。", "person"),
    ("村里有多少人？", "约三百人。", "村民都很友好。", "number"),
)


def stands(question: str, *before: Message) -> bool:
    asked = Sample("x", (*before, Message("user", question)))
    return asyncio.run(Standalone().judge(asked, ScriptedAsk())).dropped is None


def verdict(question: str, answer: str) -> Verdict:
    turns = (Message("user", question), Message("assistant", answer))
    return asyncio.run(AnswerKind().judge(Sample("x", turns), ScriptedAsk()))


@pytest.mark.parametrize("question", POINTS)
def test_a_question_that_points_at_what_is_not_there_is_dropped(question: str) -> None:
    assert not stands(question)


@pytest.mark.parametrize("question", POINTS[:2] + POINTS[-2:])
def test_a_question_may_point_at_a_text_that_it_brings_along(question: str) -> None:
    assert stands(f"{question}\n\nThe mill at Penrow burned down.")
    assert stands(question, Message("system", "Answer from this passage: the mill burned down."))


@pytest.mark.parametrize("question", ALONE)
def test_a_question_that_stands_alone_is_kept(question: str) -> None:
    assert stands(question)


@pytest.mark.parametrize(("question", "right", "wrong", "kind"), ANSWERS)
def test_an_answer_is_of_the_kind_that_was_asked_for(question: str, right: str, wrong: str, kind: str) -> None:
    assert verdict(question, right).dropped is None
    assert verdict(question, wrong).dropped == f"answer_kind: answer is no {kind}"


@pytest.mark.parametrize("question", ["Say how many you want.", "Why is who we are of interest?", "为什么天是蓝的？"])
def test_other_questions_may_have_any_answer(question: str) -> None:
    assert verdict(question, "As it is.").dropped is None


def test_guards_are_on_by_default_for_the_methods_that_need_them() -> None:
    mixed = Generate(methods=(SelfInstruct(), Grounded(), EvolInstruct(), Grounded(questions=2)))
    bound = {step.kind: step.methods for step in mixed.filters if step.methods}
    assert bound == {"standalone": ("grounded", "evol_instruct"), "answer_kind": ("grounded", "evol_instruct")}
    assert not {"standalone", "answer_kind"} & {step.kind for step in Generate().filters}
    assert Generate(methods=(Grounded(),), filters=()).filters == ()
