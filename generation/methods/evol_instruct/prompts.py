"""The prompts of Evol-Instruct: five in-depth operations, in-breadth, and the judgement of the gain.

They are templates, see `cluster.text.template`. As in the paper, an in-depth step adds 10 to 20 words, and people must
be able to understand and answer the result.
"""

CONSTRAIN = {
    "en": """\
Rewrite each given prompt into a somewhat harder one by adding one more constraint or requirement, in 10 to 20 words. \
Keep all that it asks for. The rewritten prompt is clear and can be answered by people.
---
Given prompt: Name three animals that live in the sea.
Rewritten prompt: Name three animals that live in the sea, none of them a fish, and say for each how it breathes.

Given prompt: Write a short e-mail to my landlord about the broken heating.
Rewritten prompt: Write a short e-mail to my landlord about the broken heating that stays polite, mentions my two \
small children, and asks for a date within this week.

Given prompt: Give the main point of this note: "Sales rose in May, but returns doubled."
Rewritten prompt: Give the main point of this note in at most six words, and name one thing that it leaves open: \
"Sales rose in May, but returns doubled."

Given prompt: {instruction}
Rewritten prompt:""",
    "zh": """\
请把每条给定指令改写得难一些：增加一个限制或要求，加十到二十个词，保留原来的所有要求。改写后的指令要清楚，人能够回答。
---
给定指令：说出三种生活在海里的动物。
改写后的指令：说出三种生活在海里但不是鱼的动物，并说明它们各自是怎样呼吸的。

给定指令：给房东写一封短信，说暖气坏了。
改写后的指令：给房东写一封短信，说暖气坏了，语气要有礼貌，提到家里有两个小孩，并请他在本周内约定维修时间。

给定指令：概括这条消息的要点：“五月销量上升，但退货翻了一倍。”
改写后的指令：用不超过十个字概括这条消息的要点，并指出它没有说明的一点：“五月销量上升，但退货翻了一倍。”

给定指令：{instruction}
改写后的指令：""",
}
"""Templates by language: add a constraint."""
DEEPEN = {
    "en": """\
Rewrite each given prompt so that it goes deeper and wider into what it asks about, in 10 to 20 words more. The \
rewritten prompt is clear and can be answered by people.
---
Given prompt: Why do leaves change colour in autumn?
Rewritten prompt: Why do leaves change colour in autumn, which substances in them are at work, and why do some trees \
turn red while others turn yellow?

Given prompt: What is inflation?
Rewritten prompt: What is inflation, what sets it off, and how does it change the lives of savers, borrowers and \
people with fixed pensions?

Given prompt: Is this review positive or negative? "The room was clean, but we could not sleep."
Rewritten prompt: Is this review positive or negative, which words show it, and what would the guest most likely tell \
a friend? "The room was clean, but we could not sleep."

Given prompt: {instruction}
Rewritten prompt:""",
    "zh": """\
请改写每条给定指令，让它问得更深更广，加十到二十个词。改写后的指令要清楚，人能够回答。
---
给定指令：树叶为什么到秋天会变色？
改写后的指令：树叶为什么到秋天会变色？是哪些物质在起作用，为什么有的树变红，有的树变黄？

给定指令：什么是通货膨胀？
改写后的指令：什么是通货膨胀？它由什么引起，对存款的人、借款的人和领固定养老金的人各有什么影响？

给定指令：这条评论是正面还是负面？“房间很干净，可是我们没睡好。”
改写后的指令：这条评论是正面还是负面？是哪些词表明的，客人会怎样向朋友介绍这家酒店？“房间很干净，可是我们没睡好。”

给定指令：{instruction}
改写后的指令：""",
}
"""Templates by language: ask for more depth and breadth."""
CONCRETISE = {
    "en": """\
Rewrite each given prompt so that particular things stand in place of general ones: a place, a person, a number, a \
case. The rewritten prompt is clear and can be answered by people.
---
Given prompt: Suggest a present for a friend.
Rewritten prompt: Suggest a present under 30 dollars for my friend Tom, a nurse of 40 who bakes bread at weekends.

Given prompt: Explain how vaccines work.
Rewritten prompt: Explain how the measles vaccine teaches the body of a one-year-old child to fight the virus.

Given prompt: Write a story about a journey.
Rewritten prompt: Write a story about a night train from Lisbon to Madrid on which a violin teacher loses her \
instrument.

Given prompt: {instruction}
Rewritten prompt:""",
    "zh": """\
请改写每条给定指令，用具体的内容代替笼统的内容，比如某个地点、人物、数字或情形。改写后的指令要清楚，人能够回答。
---
给定指令：推荐一件送给朋友的礼物。
改写后的指令：推荐一件两百元以内的礼物，送给我四十岁的朋友小陈，她是护士，周末喜欢烤面包。

给定指令：解释疫苗的原理。
改写后的指令：解释麻疹疫苗怎样让一岁孩子的身体学会抵抗病毒。

给定指令：写一个关于旅行的故事。
改写后的指令：写一个故事，讲一位小提琴老师在从成都开往昆明的夜车上丢了琴。

给定指令：{instruction}
改写后的指令：""",
}
"""Templates by language: ask for specific things instead of general things."""
REASON = {
    "en": """\
Rewrite each given prompt so that its answer takes several steps of reasoning, said outright in the rewritten prompt. \
It is clear and can be answered by people.
---
Given prompt: A ticket costs 8 dollars. How much do five tickets cost?
Rewritten prompt: A ticket costs 8 dollars, and every third ticket is half price. How much do five tickets cost? Show \
each step.

Given prompt: Which is better, a bicycle or a bus?
Rewritten prompt: Compare a bicycle and a bus for a daily way of six kilometres by cost, time and health, one after \
the other, and conclude which is better.

Given prompt: Can dogs eat chocolate?
Rewritten prompt: Explain step by step what happens in a dog's body when it eats chocolate, and derive from its weight \
how dangerous one bar is.

Given prompt: {instruction}
Rewritten prompt:""",
    "zh": """\
请改写每条给定指令，让回答需要几步推理，并在指令里明确要求写出这些步骤。改写后的指令要清楚，人能够回答。
---
给定指令：一张票八元，五张票多少钱？
改写后的指令：一张票八元，每第三张半价，五张票一共多少钱？请写出每一步。

给定指令：自行车和公交车哪个好？
改写后的指令：每天上班六公里，请依次从费用、时间和健康三方面比较自行车和公交车，最后得出哪个更好。

给定指令：狗能吃巧克力吗？
改写后的指令：请一步一步解释狗吃了巧克力后身体里会发生什么，再根据体重推断一块巧克力有多危险。

给定指令：{instruction}
改写后的指令：""",
}
"""Templates by language: ask for several steps of reasoning."""
COMPLICATE = {
    "en": """\
Rewrite each given prompt so that it brings data to work on, such as a table, a list of figures, JSON, code or a \
formula, written out in the rewritten prompt on one or a few lines.
---
Given prompt: Work out the average price of some fruit.
Rewritten prompt: Work out the average price per kilogram of the fruit in this table: fruit | price | kilograms; apple \
| 4.50 | 3; pear | 6.00 | 2; plum | 5.20 | 1

Given prompt: Who should get the job?
Rewritten prompt: Who of these should get the job of a night porter, and why? [{"name": "Ada", "years": 4, "nights": \
false}, {"name": "Ben", "years": 1, "nights": true}]

Given prompt: Find the mistake in a function.
Rewritten prompt: Find the mistake in this function, which should return the largest number: def largest(xs): return \
sorted(xs)[0]

Given prompt: {instruction}
Rewritten prompt:""",
    "zh": """\
请改写每条给定指令，在其中加入要处理的数据，例如表格、一组数字、JSON、代码或公式，写在一行或几行里。
---
给定指令：算一算水果的平均价格。
改写后的指令：算出下表中水果每公斤的平均价格：水果 | 价格 | 公斤；苹果 | 9.0 | 3；梨 | 12.0 | 2；李子 | 10.5 | 1

给定指令：谁适合这份工作？
改写后的指令：下面哪一位适合做夜班门卫？为什么？\
[{"姓名": "小李", "年限": 4, "夜班": false}, {"姓名": "小王", "年限": 1, "夜班": true}]

给定指令：找出函数里的错误。
改写后的指令：下面的函数应该返回最大的数，请找出其中的错误：def largest(xs): return sorted(xs)[0]

给定指令：{instruction}
改写后的指令：""",
}
"""Templates by language: give data to work on."""
BREADTH = {
    "en": """\
Take each given prompt as an idea and write a brand-new one of the same domain that is rarer, of about the same length \
and difficulty. It makes sense and can be answered by people.
---
Given prompt: Name three animals that live in the sea.
Created prompt: Describe two creatures that live beside hot springs on the ocean floor.

Given prompt: Write a short e-mail to my landlord about the broken heating.
Created prompt: Write a note to my neighbours that I will tune a piano in my flat on Saturday.

Given prompt: How do I make pancakes?
Created prompt: How do I keep a sourdough starter alive while I travel for two weeks?

Given prompt: {instruction}
Created prompt:""",
    "zh": """\
请从每条给定指令得到启发，写一条同一领域、更少见的全新指令，长短和难度相近，要有意义，人能够回答。
---
给定指令：说出三种生活在海里的动物。
新的指令：介绍两种生活在海底热泉旁边的生物。

给定指令：给房东写一封短信，说暖气坏了。
新的指令：写一张便条告诉邻居，我星期六要在家里调钢琴。

给定指令：怎么做煎饼？
新的指令：出门旅行两个星期，怎样让家里的老面一直活着？

给定指令：{instruction}
新的指令：""",
}
"""Templates by language: in-breadth, ask something new in the same domain."""
COMPARE = {
    "en": """\
Say of each pair of prompts whether the two are equal, which means that they have the same constraints and \
requirements, and ask with the same depth and breadth.
---
First: Name three animals that live in the sea.
Second: Name three sea animals.
Verdict: Equal

First: How do I make pancakes?
Second: How do I make pancakes without eggs or milk?
Verdict: Different

First: What is inflation?
Second: Please explain to me what inflation is.
Verdict: Equal

First: Suggest a present for a friend.
Second: Suggest a present under 30 dollars for a friend who bakes bread.
Verdict: Different

First: Write a story about a journey.
Second: Write a note to my neighbours about the noise on Saturday.
Verdict: Different

First: Give tips for learning to swim.
Second: Give some advice for people who learn to swim.
Verdict: Equal

First: {first}
Second: {second}
Verdict:{verdict: Equal| Different}""",
    "zh": """\
请判断每一对指令是否等同：限制和要求相同，提问的深度和广度也相同，就是等同。
---
第一条：说出三种生活在海里的动物。
第二条：说出三种海洋动物。
结论：等同

第一条：怎么做煎饼？
第二条：没有鸡蛋和牛奶，怎么做煎饼？
结论：不同

第一条：什么是通货膨胀？
第二条：请给我解释一下什么是通货膨胀。
结论：等同

第一条：推荐一件送给朋友的礼物。
第二条：推荐一件两百元以内的礼物，送给喜欢烤面包的朋友。
结论：不同

第一条：写一个关于旅行的故事。
第二条：写一张便条告诉邻居星期六会有噪音。
结论：不同

第一条：给出学游泳的建议。
第二条：给学游泳的人一些建议。
结论：等同

第一条：{first}
第二条：{second}
结论：{verdict:等同|不同}""",
}
"""Templates by language: whether an evolution asks the same as its parent. The first word means that it does."""
