"""Rubrics of the judge: what it is asked for, and graded answers with reasons, in English and Chinese."""

from typing import Literal, NamedTuple

Rubric = Literal["quality", "helpfulness", "correctness", "complexity", "additive"]


class Graded(NamedTuple):
    """An instruction, an answer, the grade that it deserves, and why."""

    instruction: str
    answer: str
    grade: int
    reason: str = ""


QUALITY = {
    "en": "Grade each answer from 1 (off the topic, wrong or empty) to 5 (correct, complete and clear).",
    "zh": "请给每个回答打分，从1分（离题、错误或空洞）到5分（正确、完整、清楚）。",
}
HELPFULNESS = {
    "en": "Grade how much each answer helps the person who asked, from 1 (no help at all) to 5 (all that was needed).",
    "zh": "请给每个回答对提问者的帮助打分，从1分（毫无帮助）到5分（完全满足需要）。",
}
CORRECTNESS = {
    "en": "Grade how right each answer to its question is, from 1 (wrong, or no answer to it) to 5 (all of it right).",
    "zh": "请给每个回答的正确性打分，从1分（错误，或答非所问）到5分（全部正确）。",
}
COMPLEXITY = {
    "en": "Grade how hard each instruction is to carry out, from 1 (a single fact) to 5 (many demands and steps).",
    "zh": "请给每条指令的难度打分，从1分（一个简单事实）到5分（要求多、步骤多）。",
}
ADDITIVE = {
    "en": (
        "Give each answer one point for each of these that holds, 0 to 5 in all: it is about what was asked; it covers "
        "a good part of it; it answers the main question usefully; it is written for the person who asked, clear and "
        "in order; it is as good as an expert's, with nothing to add or leave out."
    ),
    "zh": (
        "请给每个回答计分，下列每满足一条得1分，总分0到5分：内容与问题有关；回答了问题的大部分；"
        "有用地解决了主要问题；从提问者的角度出发，清楚有条理；达到专家水平，没有多余或遗漏。"
    ),
}
ASKS: dict[Rubric, dict[str, str]] = {
    "quality": QUALITY,
    "helpfulness": HELPFULNESS,
    "correctness": CORRECTNESS,
    "complexity": COMPLEXITY,
    "additive": ADDITIVE,
}
"""What the user asks for, by rubric and language."""

QUALITY_EN = (
    Graded("Name three colours.", "Red, blue and green.", 5, "These are three colours, as asked."),
    Graded("What is the capital of France?", "I like to swim in the sea with my friends.", 1, "It names no city."),
    Graded(
        "Rewrite this sentence politely: Give me the report.",
        "Could you please send me the report when you have a moment?",
        5,
        "It asks for the same thing politely.",
    ),
    Graded(
        "Explain in one sentence why plants need light.",
        "Plants need plants, and plants are plants.",
        1,
        "It explains nothing.",
    ),
    Graded(
        "A pen costs 2 dollars. How much do four pens cost?",
        "Four pens cost 20 dollars.",
        2,
        "It is on the topic, but four times 2 is 8.",
    ),
    Graded("Give two tips for a job interview.", "Be on time.", 3, "The tip is good, but two were asked for."),
    Graded(
        "Is this review positive or negative? 'The food was cold and the waiter rude.'",
        "Negative",
        5,
        "Cold food and a rude waiter are complaints.",
    ),
    Graded(
        "Write a short greeting for a new neighbour.",
        "Hello, and welcome! I live next door. Tell me if you need anything.",
        4,
        "It is short and friendly, but it gives no name.",
    ),
    Graded(
        "Put these words in alphabetical order: pear, apple, fig.",
        "The capital of Spain is Madrid.",
        1,
        "It has nothing to do with the words.",
    ),
    Graded("What do bees make?", "Bees make honey from the nectar of flowers.", 5, "It is right and complete."),
)
QUALITY_ZH = (
    Graded("说出三种颜色。", "红色、蓝色和绿色。", 5, "正好是三种颜色。"),
    Graded("法国的首都是哪里？", "我喜欢和朋友一起去海边游泳。", 1, "没有说出任何城市。"),
    Graded("把这句话改得礼貌一些：把报告给我。", "您方便的时候，可以把报告发给我吗？", 5, "意思不变，语气礼貌。"),
    Graded("用一句话解释植物为什么需要阳光。", "植物需要植物，植物就是植物。", 1, "什么也没有解释。"),
    Graded("一支笔2元，四支笔多少钱？", "四支笔20元。", 2, "没有离题，但2乘4等于8。"),
    Graded("给出两条面试建议。", "要准时。", 3, "建议不错，但只有一条。"),
    Graded("这条评论是正面还是负面？“菜是凉的，服务员也不礼貌。”", "负面", 5, "菜凉、服务差都是抱怨。"),
    Graded(
        "给新邻居写一句问候。",
        "您好，欢迎搬来！我就住在隔壁，有需要请告诉我。",
        4,
        "简短友好，但没有说自己的名字。",
    ),
    Graded("把这些词按笔画排序：大、一、小。", "西班牙的首都是马德里。", 1, "和这些词毫无关系。"),
    Graded("蜜蜂酿造什么？", "蜜蜂用花蜜酿造蜂蜜。", 5, "正确而且完整。"),
)
HELPFULNESS_EN = (
    Graded(
        "How can I stop my glasses from fogging up?",
        "Wash them with a little dish soap and let them dry; the thin film keeps drops from forming.",
        5,
        "It is easy to do and says why it works.",
    ),
    Graded("How do I boil an egg?", "Eggs are boiled by many people.", 1, "Nobody could boil an egg after reading it."),
    Graded(
        "How do I get a coffee stain out of a shirt?", "Wash the shirt.", 2, "It is true, but says nothing of stains."
    ),
    Graded(
        "Suggest a dinner without meat that is ready in 20 minutes.",
        "Fry chickpeas with tomatoes, garlic and cumin for ten minutes and eat them with bread or rice.",
        5,
        "A whole dinner, quick and without meat.",
    ),
    Graded("Which bus goes to the airport?", "Ask your teacher about the exam.", 1, "It speaks of something else."),
    Graded(
        "My laptop is slow. What should I do?",
        "Restart it and close programs that you do not use.",
        3,
        "A fair start, but there are more causes.",
    ),
    Graded("Write a birthday wish for my aunt.", "The train leaves from platform two.", 1, "It is no wish at all."),
    Graded(
        "Give me three names for a bakery.",
        "Golden Crust, Morning Loaf and The Flour Pot.",
        5,
        "Three names that fit, ready to use.",
    ),
    Graded("Translate 'good morning' into Spanish.", "It is a greeting.", 2, "It does not give the Spanish words."),
    Graded("Is 51 a prime number?", "No, because 51 is 3 times 17.", 5, "It answers and gives the reason."),
)
HELPFULNESS_ZH = (
    Graded("怎样防止眼镜起雾？", "用一点洗洁精清洗镜片再晾干，薄膜能防止水珠形成。", 5, "容易照做，也说明了原因。"),
    Graded("鸡蛋怎么煮？", "很多人都煮鸡蛋。", 1, "看完还是不会煮。"),
    Graded("衬衫上的咖啡渍怎么去掉？", "洗一洗衬衫。", 2, "没错，但没有说怎样去渍。"),
    Graded(
        "推荐一道20分钟能做好的素菜。", "番茄炒鸡蛋，先炒蛋再炒番茄，加盐翻炒五分钟即可。", 5, "快手，做法也写明了。"
    ),
    Graded("去机场坐几路车？", "考试的事请问老师。", 1, "答非所问。"),
    Graded("我的电脑很慢，怎么办？", "重启电脑，关掉不用的程序。", 3, "可以先试，但原因不止这些。"),
    Graded("给我姑妈写一句生日祝福。", "火车从二号站台开出。", 1, "完全不是祝福。"),
    Graded("给面包店起三个名字。", "麦香坊、晨光面包和小麦屋。", 5, "三个名字都合适，可以直接用。"),
    Graded("把“早上好”翻译成西班牙语。", "这是一句问候。", 2, "没有给出译文。"),
    Graded("51是质数吗？", "不是，因为51等于3乘17。", 5, "回答了问题，也说明了理由。"),
)
CORRECTNESS_EN = (
    Graded("How many days does a leap year have?", "A leap year has 366 days.", 5, "That is right."),
    Graded("Who wrote Hamlet?", "Hamlet was written by Charles Dickens.", 1, "Shakespeare wrote it."),
    Graded("What is 15 times 4?", "15 times 4 is 60.", 5, "15 times 4 is 60 indeed."),
    Graded("Name the capital of Japan.", "A bicycle has two wheels.", 1, "It does not answer the question."),
    Graded("Which planet is closest to the sun?", "Venus is closest to the sun.", 1, "It is Mercury."),
    Graded(
        "Name two mammals that live in the sea.",
        "Dolphins and sharks.",
        3,
        "Dolphins are mammals, sharks are fish.",
    ),
    Graded(
        "Why do we see lightning before we hear thunder?",
        "Because light travels much faster than sound.",
        5,
        "This is the reason.",
    ),
    Graded("What do cows eat?", "My favourite song is on the radio.", 1, "It has nothing to do with cows."),
    Graded("At what temperature does water freeze?", "Water freezes at 50 degrees Celsius.", 1, "It is 0 degrees."),
    Graded(
        "What is the largest ocean?",
        "The largest ocean is the Pacific, between Europe and America.",
        3,
        "The ocean is right, but it lies elsewhere.",
    ),
)
CORRECTNESS_ZH = (
    Graded("闰年有多少天？", "闰年有366天。", 5, "说得对。"),
    Graded("《红楼梦》是谁写的？", "《红楼梦》是鲁迅写的。", 1, "作者是曹雪芹。"),
    Graded("15乘4等于多少？", "15乘4等于60。", 5, "计算正确。"),
    Graded("说出日本的首都。", "自行车有两个轮子。", 1, "答非所问。"),
    Graded("离太阳最近的行星是哪颗？", "金星离太阳最近。", 1, "应该是水星。"),
    Graded("说出两种海洋哺乳动物。", "海豚和鲨鱼。", 3, "海豚对，鲨鱼是鱼类。"),
    Graded("为什么先看到闪电后听到雷声？", "因为光速比声速快得多。", 5, "原因正确。"),
    Graded("牛吃什么？", "收音机里在放我喜欢的歌。", 1, "和牛毫无关系。"),
    Graded("水在多少度结冰？", "水在50摄氏度结冰。", 1, "应该是0摄氏度。"),
    Graded("最大的洋是哪个？", "最大的洋是太平洋，位于欧洲和美洲之间。", 3, "洋说对了，位置不对。"),
)
COMPLEXITY_EN = (
    Graded("What colour is grass?", "Green.", 1, "One known fact."),
    Graded("Write a sentence with the word 'lamp'.", "The lamp is on.", 1, "One sentence on a free topic."),
    Graded("Explain how a bicycle stays upright.", "", 3, "It takes some physics to explain."),
    Graded(
        "Plan a week of meals for four people, one of them vegetarian, for 90 dollars, and list the shopping.",
        "",
        5,
        "Many demands hang together and must be reckoned with.",
    ),
    Graded("Translate 'thank you' into German.", "Danke.", 1, "Two common words."),
    Graded(
        "Compare the causes of two wars in an essay of five paragraphs.", "", 4, "It takes knowledge and structure."
    ),
    Graded("Give two tips for sleeping better.", "", 2, "Common knowledge, two entries."),
    Graded(
        "Prove that there are infinitely many primes, retell it for a child and show where it uses contradiction.",
        "",
        5,
        "A proof, a retelling and an analysis.",
    ),
)
COMPLEXITY_ZH = (
    Graded("草是什么颜色的？", "绿色。", 1, "一个常识。"),
    Graded("用“灯”字造一个句子。", "灯亮了。", 1, "一句话，题目自由。"),
    Graded("解释自行车为什么不会倒。", "", 3, "需要一些物理知识。"),
    Graded("为一家四口制定一周食谱，其中一人吃素，预算300元，并列出采购清单。", "", 5, "多项要求互相牵制，还要计算。"),
    Graded("把“谢谢”翻译成英语。", "Thank you.", 1, "一个常用词。"),
    Graded("写一篇五段的文章，比较两场战争的起因。", "", 4, "需要知识，也需要结构。"),
    Graded("给出两条改善睡眠的建议。", "", 2, "常识，两条即可。"),
    Graded("证明素数有无穷多个，再讲给小学生听，并指出哪一步用了反证法。", "", 5, "要证明、转述，还要分析。"),
)
ADDITIVE_EN = (
    Graded(
        "How do I keep cut flowers fresh?",
        "Cut the stems at an angle, put them in cool water, change it every two days, and keep them out of the sun.",
        5,
        "About it, full, useful, clear and nothing to add: 5.",
    ),
    Graded("How do I keep cut flowers fresh?", "My brother has a blue car.", 0, "Not about it: 0."),
    Graded("Name three uses of salt.", "Salt is white.", 1, "About salt, but no use of it: 1."),
    Graded("Name three uses of salt.", "Cooking and melting ice.", 2, "About it and most of it; one is missing: 2."),
    Graded(
        "Why is the sea salty?",
        "Rivers carry salts from rocks into it, and the water goes up as vapour while the salts stay.",
        4,
        "About it, full, useful and clear; an expert would say more: 4.",
    ),
    Graded(
        "Why is the sea salty?", "because of rivers salts from rock go in it", 3, "Right and useful, but badly put: 3."
    ),
    Graded("Write a short thank-you note to a host.", "Madrid is the capital of Spain.", 0, "Not about it: 0."),
    Graded(
        "Write a short thank-you note to a host.",
        "Dear Ana, thank you for the lovely dinner on Friday. The soup was wonderful, and we laughed a lot. Yours, Tom",
        5,
        "Everything that such a note needs: 5.",
    ),
)
ADDITIVE_ZH = (
    Graded(
        "怎样让鲜花保持新鲜？",
        "斜剪花茎，插入干净的凉水，每两天换一次水，并避免阳光直射。",
        5,
        "有关、完整、有用、清楚、没有遗漏：5。",
    ),
    Graded("怎样让鲜花保持新鲜？", "我哥哥有一辆蓝色的车。", 0, "与问题无关：0。"),
    Graded("说出盐的三种用途。", "盐是白色的。", 1, "与盐有关，但没有用途：1。"),
    Graded("说出盐的三种用途。", "做菜和融冰。", 2, "有关，回答了大部分，缺一种：2。"),
    Graded(
        "海水为什么是咸的？", "河流把岩石里的盐分带进大海，水蒸发了，盐分留下来。", 4, "完整清楚，专家还会多说一些：4。"
    ),
    Graded("海水为什么是咸的？", "因为河，盐，石头里的进去了", 3, "对，有用，但说得不清楚：3。"),
    Graded("给主人写一张简短的感谢便条。", "西班牙的首都是马德里。", 0, "与问题无关：0。"),
    Graded(
        "给主人写一张简短的感谢便条。",
        "亲爱的王姐：谢谢您周五的晚餐，汤特别鲜美，大家聊得很开心。祝好！小林",
        5,
        "便条该有的都有：5。",
    ),
)
GRADED: dict[Rubric, dict[str, tuple[Graded, ...]]] = {
    "quality": {"en": QUALITY_EN, "zh": QUALITY_ZH},
    "helpfulness": {"en": HELPFULNESS_EN, "zh": HELPFULNESS_ZH},
    "correctness": {"en": CORRECTNESS_EN, "zh": CORRECTNESS_ZH},
    "complexity": {"en": COMPLEXITY_EN, "zh": COMPLEXITY_ZH},
    "additive": {"en": ADDITIVE_EN, "zh": ADDITIVE_ZH},
}
"""Graded answers that the judge's own turn begins with, by rubric and language."""
