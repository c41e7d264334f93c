"""Rubrics of the judge: the request to the model, and graded answers with reasons, in English and Chinese."""

from typing import Literal

from gristmill.cluster.text.template import write

Rubric = Literal["quality", "helpfulness", "correctness", "complexity", "additive"]

GRADES = {
    "en": "Instruction: {instruction}\nAnswer: {answer}\nReason: {reason}\nGrade: {grade:1|2|3|4|5}",
    "zh": "指令：{instruction}\n回答：{answer}\n理由： {reason}\n分数：{grade:1|2|3|4|5}",
}
POINTS = {language: case.replace("{grade:1", "{grade:0|1") for language, case in GRADES.items()}
SIMPLE = {
    "en": "Instruction: {instruction}\nReason: {reason}\nGrade: {grade:1|2|3|4|5}",
    "zh": "指令：{instruction}\n理由： {reason}\n分数：{grade:1|2|3|4|5}",
}
"""The form of a case that has an instruction but no answer."""
QUALITY = {
    "en": write(
        "Grade each answer from 1 (off the topic, wrong or empty) to 5 (correct, complete and clear).",
        GRADES["en"],
        ("Name three colours.", "Red, blue and green.", "These are three colours, as asked.", "5"),
        ("What is the capital of France?", "I like to swim in the sea with my friends.", "It names no city.", "1"),
        (
            "Rewrite this sentence politely: Give me the report.",
            "Could you please send me the report when you have a moment?",
            "It asks for the same thing politely.",
            "5",
        ),
        (
            "Explain in one sentence why plants need light.",
            "Plants need plants, and plants are plants.",
            "It explains nothing.",
            "1",
        ),
        (
            "A pen costs 2 dollars. How much do four pens cost?",
            "Four pens cost 20 dollars.",
            "It is on the topic, but four times 2 is 8.",
            "2",
        ),
        ("Give two tips for a job interview.", "Be on time.", "The tip is good, but two were asked for.", "3"),
        (
            "Is this review positive or negative? 'The food was cold and the waiter rude.'",
            "Negative",
            "Cold food and a rude waiter are complaints.",
            "5",
        ),
        (
            "Write a short greeting for a new neighbour.",
            "Hello, and welcome! I live next door. Tell me if you need anything.",
            "It is short and friendly, but it gives no name.",
            "4",
        ),
        (
            "Put these words in alphabetical order: pear, apple, fig.",
            "The capital of Spain is Madrid.",
            "It has nothing to do with the words.",
            "1",
        ),
        ("What do bees make?", "Bees make honey from the nectar of flowers.", "It is right and complete.", "5"),
    ),
    "zh": write(
        "请给每个回答打分，从1分（离题、错误或空洞）到5分（正确、完整、清楚）。",
        GRADES["zh"],
        ("说出三种颜色。", "红色、蓝色和绿色。", "正好是三种颜色。", "5"),
        ("法国的首都是哪里？", "我喜欢和朋友一起去海边游泳。", "没有说出任何城市。", "1"),
        ("把这句话改得礼貌一些：把报告给我。", "您方便的时候，可以把报告发给我吗？", "意思不变，语气礼貌。", "5"),
        ("用一句话解释植物为什么需要阳光。", "植物需要植物，植物就是植物。", "什么也没有解释。", "1"),
        ("一支笔2元，四支笔多少钱？", "四支笔20元。", "没有离题，但2乘4等于8。", "2"),
        ("给出两条面试建议。", "要准时。", "建议不错，但只有一条。", "3"),
        ("这条评论是正面还是负面？“菜是凉的，服务员也不礼貌。”", "负面", "菜凉、服务差都是抱怨。", "5"),
        (
            "给新邻居写一句问候。",
            "您好，欢迎搬来！我就住在隔壁，有需要请告诉我。",
            "简短友好，但没有说自己的名字。",
            "4",
        ),
        ("把这些词按笔画排序：大、一、小。", "西班牙的首都是马德里。", "和这些词毫无关系。", "1"),
        ("蜜蜂酿造什么？", "蜜蜂用花蜜酿造蜂蜜。", "正确而且完整。", "5"),
    ),
}
HELPFULNESS = {
    "en": write(
        "Grade how much each answer helps the person who asked, from 1 (no help at all) to 5 (all that was needed).",
        GRADES["en"],
        (
            "How can I stop my glasses from fogging up?",
            "Wash them with a little dish soap and let them dry; the thin film keeps drops from forming.",
            "It is easy to do and says why it works.",
            "5",
        ),
        ("How do I boil an egg?", "Eggs are boiled by many people.", "Nobody could boil an egg after reading it.", "1"),
        (
            "How do I get a coffee stain out of a shirt?",
            "Wash the shirt.",
            "It is true, but says nothing of stains.",
            "2",
        ),
        (
            "Suggest a dinner without meat that is ready in 20 minutes.",
            "Fry chickpeas with tomatoes, garlic and cumin for ten minutes and eat them with bread or rice.",
            "A whole dinner, quick and without meat.",
            "5",
        ),
        ("Which bus goes to the airport?", "Ask your teacher about the exam.", "It speaks of something else.", "1"),
        (
            "My laptop is slow. What should I do?",
            "Restart it and close programs that you do not use.",
            "A fair start, but there are more causes.",
            "3",
        ),
        ("Write a birthday wish for my aunt.", "The train leaves from platform two.", "It is no wish at all.", "1"),
        (
            "Give me three names for a bakery.",
            "Golden Crust, Morning Loaf and The Flour Pot.",
            "Three names that fit, ready to use.",
            "5",
        ),
        ("Translate 'good morning' into Spanish.", "It is a greeting.", "It does not give the Spanish words.", "2"),
        ("Is 51 a prime number?", "No, because 51 is 3 times 17.", "It answers and gives the reason.", "5"),
    ),
    "zh": write(
        "请给每个回答对提问者的帮助打分，从1分（毫无帮助）到5分（完全满足需要）。",
        GRADES["zh"],
        ("怎样防止眼镜起雾？", "用一点洗洁精清洗镜片再晾干，薄膜能防止水珠形成。", "容易照做，也说明了原因。", "5"),
        ("鸡蛋怎么煮？", "很多人都煮鸡蛋。", "看完还是不会煮。", "1"),
        ("衬衫上的咖啡渍怎么去掉？", "洗一洗衬衫。", "没错，但没有说怎样去渍。", "2"),
        (
            "推荐一道20分钟能做好的素菜。",
            "番茄炒鸡蛋，先炒蛋再炒番茄，加盐翻炒五分钟即可。",
            "快手，做法也写明了。",
            "5",
        ),
        ("去机场坐几路车？", "考试的事请问老师。", "答非所问。", "1"),
        ("我的电脑很慢，怎么办？", "重启电脑，关掉不用的程序。", "可以先试，但原因不止这些。", "3"),
        ("给我姑妈写一句生日祝福。", "火车从二号站台开出。", "完全不是祝福。", "1"),
        ("给面包店起三个名字。", "麦香坊、晨光面包和小麦屋。", "三个名字都合适，可以直接用。", "5"),
        ("把“早上好”翻译成西班牙语。", "这是一句问候。", "没有给出译文。", "2"),
        ("51是质数吗？", "不是，因为51等于3乘17。", "回答了问题，也说明了理由。", "5"),
    ),
}
CORRECTNESS = {
    "en": write(
        "Grade how right each answer to its question is, from 1 (wrong, or no answer to it) to 5 (all of it right).",
        GRADES["en"],
        ("How many days does a leap year have?", "A leap year has 366 days.", "That is right.", "5"),
        ("Who wrote Hamlet?", "Hamlet was written by Charles Dickens.", "Shakespeare wrote it.", "1"),
        ("What is 15 times 4?", "15 times 4 is 60.", "15 times 4 is 60 indeed.", "5"),
        ("Name the capital of Japan.", "A bicycle has two wheels.", "It does not answer the question.", "1"),
        ("Which planet is closest to the sun?", "Venus is closest to the sun.", "It is Mercury.", "1"),
        (
            "Name two mammals that live in the sea.",
            "Dolphins and sharks.",
            "Dolphins are mammals, sharks are fish.",
            "3",
        ),
        (
            "Why do we see lightning before we hear thunder?",
            "Because light travels much faster than sound.",
            "This is the reason.",
            "5",
        ),
        ("What do cows eat?", "My favourite song is on the radio.", "It has nothing to do with cows.", "1"),
        ("At what temperature does water freeze?", "Water freezes at 50 degrees Celsius.", "It is 0 degrees.", "1"),
        (
            "What is the largest ocean?",
            "The largest ocean is the Pacific, between Europe and America.",
            "The ocean is right, but it lies elsewhere.",
            "3",
        ),
    ),
    "zh": write(
        "请给每个回答的正确性打分，从1分（错误，或答非所问）到5分（全部正确）。",
        GRADES["zh"],
        ("闰年有多少天？", "闰年有366天。", "说得对。", "5"),
        ("《红楼梦》是谁写的？", "《红楼梦》是鲁迅写的。", "作者是曹雪芹。", "1"),
        ("15乘4等于多少？", "15乘4等于60。", "计算正确。", "5"),
        ("说出日本的首都。", "自行车有两个轮子。", "答非所问。", "1"),
        ("离太阳最近的行星是哪颗？", "金星离太阳最近。", "应该是水星。", "1"),
        ("说出两种海洋哺乳动物。", "海豚和鲨鱼。", "海豚对，鲨鱼是鱼类。", "3"),
        ("为什么先看到闪电后听到雷声？", "因为光速比声速快得多。", "原因正确。", "5"),
        ("牛吃什么？", "收音机里在放我喜欢的歌。", "和牛毫无关系。", "1"),
        ("水在多少度结冰？", "水在50摄氏度结冰。", "应该是0摄氏度。", "1"),
        ("最大的洋是哪个？", "最大的洋是太平洋，位于欧洲和美洲之间。", "洋说对了，位置不对。", "3"),
    ),
}
COMPLEXITY = {
    "en": write(
        "Grade how hard each instruction is to carry out, from 1 (a single fact) to 5 (many demands and steps).",
        SIMPLE["en"],
        ("What colour is grass?", "One known fact.", "1"),
        ("Write a sentence with the word 'lamp'.", "One sentence on a free topic.", "1"),
        ("Explain how a bicycle stays upright.", "It takes some physics to explain.", "3"),
        (
            "Plan a week of meals for four people, one of them vegetarian, for 90 dollars, and list the shopping.",
            "Many demands hang together and must be reckoned with.",
            "5",
        ),
        ("Translate 'thank you' into German.", "Two common words.", "1"),
        ("Compare the causes of two wars in an essay of five paragraphs.", "It takes knowledge and structure.", "4"),
        ("Give two tips for sleeping better.", "Common knowledge, two entries.", "2"),
        (
            "Prove that there are infinitely many primes, retell it for a child and show where it uses contradiction.",
            "A proof, a retelling and an analysis.",
            "5",
        ),
    ),
    "zh": write(
        "请给每条指令的难度打分，从1分（一个简单事实）到5分（要求多、步骤多）。",
        SIMPLE["zh"],
        ("草是什么颜色的？", "一个常识。", "1"),
        ("用“灯”字造一个句子。", "一句话，题目自由。", "1"),
        ("解释自行车为什么不会倒。", "需要一些物理知识。", "3"),
        ("为一家四口制定一周食谱，其中一人吃素，预算300元，并列出采购清单。", "多项要求互相牵制，还要计算。", "5"),
        ("把“谢谢”翻译成英语。", "一个常用词。", "1"),
        ("写一篇五段的文章，比较两场战争的起因。", "需要知识，也需要结构。", "4"),
        ("给出两条改善睡眠的建议。", "常识，两条即可。", "2"),
        ("证明素数有无穷多个，再讲给小学生听，并指出哪一步用了反证法。", "要证明、转述，还要分析。", "5"),
    ),
}
ADDITIVE = {
    "en": write(
        (
            "Give each answer one point for each of these that holds, 0 to 5 in all: it is about what was asked; it "
            "covers a good part of it; it answers the main question usefully; it is written for the person who asked, "
            "clear and in order; it is as good as an expert's, with nothing to add or leave out."
        ),
        POINTS["en"],
        (
            "How do I keep cut flowers fresh?",
            (
                "Cut the stems at an angle, put them in cool water, change it every two days, and keep them out of the "
                "sun."
            ),
            "About it, full, useful, clear and nothing to add: 5.",
            "5",
        ),
        ("How do I keep cut flowers fresh?", "My brother has a blue car.", "Not about it: 0.", "0"),
        ("Name three uses of salt.", "Salt is white.", "About salt, but no use of it: 1.", "1"),
        ("Name three uses of salt.", "Cooking and melting ice.", "About it and most of it; one is missing: 2.", "2"),
        (
            "Why is the sea salty?",
            "Rivers carry salts from rocks into it, and the water goes up as vapour while the salts stay.",
            "About it, full, useful and clear; an expert would say more: 4.",
            "4",
        ),
        (
            "Why is the sea salty?",
            "because of rivers salts from rock go in it",
            "Right and useful, but badly put: 3.",
            "3",
        ),
        ("Write a short thank-you note to a host.", "Madrid is the capital of Spain.", "Not about it: 0.", "0"),
        (
            "Write a short thank-you note to a host.",
            (
                "Dear Ana, thank you for the lovely dinner on Friday. The soup was wonderful, and we laughed a lot. "
                "Yours, Tom"
            ),
            "Everything that such a note needs: 5.",
            "5",
        ),
    ),
    "zh": write(
        (
            "请给每个回答计分，下列每满足一条得1分，总分0到5分：内容与问题有关；回答了问题的大部分；"
            "有用地解决了主要问题；从提问者的角度出发，清楚有条理；达到专家水平，没有多余或遗漏。"
        ),
        POINTS["zh"],
        (
            "怎样让鲜花保持新鲜？",
            "斜剪花茎，插入干净的凉水，每两天换一次水，并避免阳光直射。",
            "有关、完整、有用、清楚、没有遗漏：5。",
            "5",
        ),
        ("怎样让鲜花保持新鲜？", "我哥哥有一辆蓝色的车。", "与问题无关：0。", "0"),
        ("说出盐的三种用途。", "盐是白色的。", "与盐有关，但没有用途：1。", "1"),
        ("说出盐的三种用途。", "做菜和融冰。", "有关，回答了大部分，缺一种：2。", "2"),
        (
            "海水为什么是咸的？",
            "河流把岩石里的盐分带进大海，水蒸发了，盐分留下来。",
            "完整清楚，专家还会多说一些：4。",
            "4",
        ),
        ("海水为什么是咸的？", "因为河，盐，石头里的进去了", "对，有用，但说得不清楚：3。", "3"),
        ("给主人写一张简短的感谢便条。", "西班牙的首都是马德里。", "与问题无关：0。", "0"),
        (
            "给主人写一张简短的感谢便条。",
            "亲爱的王姐：谢谢您周五的晚餐，汤特别鲜美，大家聊得很开心。祝好！小林",
            "便条该有的都有：5。",
            "5",
        ),
    ),
}

PROMPTS: dict[Rubric, dict[str, str]] = {
    "quality": QUALITY,
    "helpfulness": HELPFULNESS,
    "correctness": CORRECTNESS,
    "complexity": COMPLEXITY,
    "additive": ADDITIVE,
}
"""Templates by rubric and language: the request, graded answers, and the answer to grade."""
