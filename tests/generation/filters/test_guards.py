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
Which is more expensive?
How does it work?
Name the person and the year in this sentence.
What is the next number in this sequence?
Write a headline for this text, which should mention floods.
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
    ("村里有多少人？", "没有人知道。", "一般都住在河边，和以前一样。", "number"),
    ("渡船要多久？", "半天就到。", "天气好的时候很舒服，一般人都喜欢。", "duration"),
    ("灯塔是谁建的？", "陈大海和他的儿子们。", "用从对岸运来的花岗岩建成，外墙刷成白色。", "person"),
    ("How many cells does the body have?", "It has trillions of cells.", "It is one of the best wonders.", "number"),
    ("How long did it take?", "Several weeks.", "It took no effort at all.", "duration"),
)


MILL = (
    "The tide mill at Penrow was built in 1743 by Hester Lowe. A pond of four hectares fills at flood. The gates were "
    "replaced in 1908, and the miller often works at night."
)
PIPES = "A pump moves water through a pipe. The pump needs power, and the pipe must be tight."
UNCLEAR = """\
How old is the mill?
Why does the miller work at night?
What is the size of the pond?
What were the old gates made of?
What does the author say about Penrow?
What is mentioned in this text?
文中提到的磨坊有多少年了？
根据上述内容，磨坊是谁建的？""".splitlines()
CLEAR = """\
How old is the tide mill at Penrow?
What was replaced in 1908?
How does the moon move the sea?
What is the difference between ebb and flood?
Who built the mill of Hester Lowe?
潘罗的潮汐磨坊是谁建的？""".splitlines()


def clear(question: str, source: str) -> bool:
    asked = Sample("x", (Message("user", question),), tags={"question": "fact"})
    parent = Sample("p", (Message("user", source),))
    return asyncio.run(Standalone().judge(asked, ScriptedAsk(parents=(parent,)))).dropped is None


@pytest.mark.parametrize("question", UNCLEAR)
def test_a_question_on_a_document_says_which_thing_it_means(question: str) -> None:
    assert not clear(question, MILL)


@pytest.mark.parametrize("question", CLEAR)
def test_a_question_on_a_document_that_names_its_thing_is_kept(question: str) -> None:
    assert clear(question, MILL)


def test_a_document_without_names_speaks_of_all_things_of_a_kind() -> None:
    assert clear("Why does the pump need power?", PIPES)
    assert stands("Why does the pump need power?")


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
    assert stands(f"{question}\nThe mill at Penrow burned down.")
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
    assert bound == dict.fromkeys(("standalone", "answer_kind"), ("self_instruct", "grounded", "evol_instruct"))
    assert {step.kind for step in Generate().filters if step.methods} == {"standalone", "answer_kind"}
    assert Generate(methods=(Grounded(),), filters=()).filters == ()
