"""Synonyms of common English and Chinese words by part of speech, and the inflections of the English words.

This is a small table of our own, for augmentation without a model: words of one group can replace each other in most
sentences. WordNet and cilin are not used, because no maintained wheel has their data under a licence that allows
redistribution.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType

ENGLISH = {
    "adjective": """
happy glad cheerful; sad unhappy gloomy; good fine decent; great superb excellent; bad poor awful;
terrible dreadful horrible; big large; huge enormous giant; small little; tiny minute; fast quick rapid swift;
slow sluggish; smart clever bright intelligent; stupid foolish silly; funny amusing humorous;
boring dull tedious; beautiful lovely gorgeous; ugly hideous; nice pleasant agreeable; kind gentle caring;
cruel brutal; angry furious mad; calm peaceful quiet; loud noisy; easy simple; hard difficult tough;
strong powerful sturdy; weak feeble; rich wealthy; cheap inexpensive; expensive costly;
important significant crucial; main chief principal; clear plain obvious; unclear vague;
strange odd weird peculiar; common usual ordinary; rare unusual uncommon; new recent fresh; old aged ancient;
whole entire complete; correct right accurate; wrong incorrect mistaken; true genuine real; false untrue;
safe secure; dangerous risky hazardous; empty vacant; full packed; clean spotless; dirty filthy;
hungry starving; tired weary exhausted; brave bold courageous; afraid scared; lazy idle; busy occupied;
famous renowned; helpful useful; useless worthless; interesting engaging absorbing; exciting thrilling;
sweet charming; tasty delicious; bland tasteless; healthy fit; sick ill; careful cautious; careless reckless;
different distinct; similar alike; possible feasible; certain sure; deep profound; shallow superficial;
wonderful marvelous fantastic; brilliant dazzling; clumsy awkward; honest sincere truthful; polite courteous;
rude impolite; suitable appropriate; necessary essential required; necessary needed; brief short concise;
detailed thorough; final last; popular favored; modern contemporary; original novel; predictable unsurprising;
moving touching; annoying irritating; convincing persuasive; daily everyday; various diverse; sufficient enough;
pure sheer; severe harsh; smooth even""",
    "noun": """
movie film picture; story tale; plot storyline; actor performer; job occupation; work labor; boss manager;
house home; car automobile; road street; town city; child kid; friend companion; man gentleman; woman lady;
people folks; doctor physician; teacher instructor; student pupil; answer reply response; question query;
problem issue difficulty; idea notion concept; plan scheme; goal aim objective; reason cause;
result outcome consequence; error mistake; benefit advantage; drawback disadvantage; gift present; trip journey;
vacation holiday; meal dish; picture image; part portion; piece bit; kind sort type; way manner;
place spot location; start beginning; end finish ending; chance opportunity; choice option; fear dread;
joy delight; sadness sorrow; anger rage; humor wit; style manner; skill ability talent; value worth; price cost;
money cash; shop store; company firm business; customer client; text passage; word term; article piece;
letter note; list catalog; summary overview; description account; advice guidance; tip hint; rule regulation;
law statute; test exam; lesson class; speech talk; conversation discussion; argument dispute; fight battle;
war conflict; enemy foe; leader head; group team; crowd throng; area region; country nation; world earth;
sea ocean; hill mound; forest wood; stone rock; garbage trash; illness disease; medicine drug;
illustration example instance; purpose intention; method approach technique; tool instrument; device gadget;
machine engine; performance acting; audience viewers; viewer spectator; scene sequence; feeling emotion;
thought idea; task assignment; amount quantity; effort attempt; effect impact; director filmmaker;
character figure; fun enjoyment; laughter amusement; charm appeal; mess muddle; waste squandering;
surprise shock""",
    "verb": """
help assist aid; begin start commence; end finish conclude; stop halt cease; try attempt; use employ utilize;
need require; want desire; like enjoy; love adore; hate detest loathe; think believe; explain clarify;
describe depict portray; show display demonstrate; create produce generate; build construct; fix repair mend;
change alter modify; improve enhance; increase raise; reduce lower decrease; buy purchase; ask inquire;
answer reply respond; talk chat; shout yell; look gaze; watch observe; notice spot; find discover locate;
search seek; choose select pick; suggest propose recommend; allow permit; prevent avert; gather collect;
join connect; cut slice; throw toss; carry transport; send dispatch; receive obtain; keep retain; save rescue;
protect guard; hurt harm injure; destroy ruin wreck; cry weep; laugh chuckle; walk stroll; run dash; jump leap;
rest relax; learn study; teach instruct; list enumerate; name identify; compare contrast; summarize condense;
rewrite rephrase; correct fix; check verify; solve resolve; calculate compute; estimate gauge; finish complete;
leave depart; happen occur; live dwell; visit tour; cook prepare; earn gain; waste squander; deliver provide;
offer supply; surprise astonish amaze; please delight; annoy irritate; frighten scare; touch move;
admire respect; entertain amuse; imagine envision; remember recall; seem appear; involve include;
discuss debate; manage handle; consider ponder; highlight stress; mention note; convert transform;
order arrange; expect anticipate; hope wish; worry fret; deserve merit; lack miss; fascinate captivate;
blend combine""",
    "adverb": """
quickly rapidly swiftly; slowly gradually; often frequently; rarely seldom; really truly genuinely;
very extremely highly; quite rather fairly; almost nearly; completely totally entirely; mostly mainly largely;
probably likely; maybe perhaps; suddenly abruptly; finally eventually; usually normally generally;
always constantly; sometimes occasionally; carefully cautiously; easily effortlessly; happily cheerfully;
sadly regrettably; clearly plainly; simply merely; especially particularly; immediately instantly;
together jointly; too overly; also likewise; however nevertheless; therefore thus hence; briefly shortly;
roughly approximately about; exactly precisely; badly poorly; surprisingly unexpectedly;
wonderfully marvelously; deeply profoundly; silently quietly; loudly noisily; apparently seemingly;
obviously evidently""",
}
CHINESE = {
    "adjective": """
好吃 美味 可口; 难吃 难以下咽; 快 迅速 快速; 慢 缓慢; 好 不错 良好; 很好 非常好; 差 糟糕 差劲; 大 巨大; 小 细小;
漂亮 美丽 好看; 难看 丑陋; 高兴 开心 快乐 愉快; 伤心 难过 悲伤; 生气 气愤 恼火; 失望 灰心; 满意 称心; 热情 热心;
冷淡 冷漠; 便宜 实惠 低廉; 昂贵 贵; 干净 整洁 清洁; 脏 肮脏; 新鲜 鲜嫩; 热 烫; 凉 冷; 聪明 机灵 聪慧; 愚蠢 笨;
重要 关键 要紧; 简单 容易; 困难 艰难; 复杂 繁杂; 清楚 清晰 明白; 有趣 好玩; 无聊 乏味 枯燥; 奇怪 古怪 怪异;
常见 普遍; 准确 精确; 错误 不对; 安全 平安; 危险 凶险; 有名 著名 知名; 努力 勤奋 用功; 认真 仔细 细心;
马虎 粗心; 安静 宁静 清静; 吵闹 喧闹; 强大 强劲; 弱 薄弱; 丰富 丰盛; 完整 齐全; 主要 首要; 不同 相异; 相似 类似;
合适 适合 恰当; 方便 便捷 便利; 麻烦 费事; 及时 准时; 新 崭新; 旧 陈旧; 年轻 年少; 温暖 暖和; 寒冷 冰冷;
善良 和善; 勇敢 英勇; 诚实 老实; 有用 管用; 健康 健壮; 疲惫 疲倦 劳累; 忙 忙碌; 饿 饥饿; 出色 优秀 杰出;
香 喷香""",
    "noun": """
味道 口味 滋味; 速度 速率; 态度 神态; 服务员 店员; 店家 商家 卖家; 骑手 送餐员 配送员; 食物 食品 吃的;
饭菜 菜肴 餐食; 分量 份量; 价格 价钱; 包装 外包装; 时间 时候; 地方 地点 位置; 问题 难题; 原因 缘由 缘故;
结果 后果; 方法 办法 方式; 目标 目的; 计划 规划; 想法 念头 主意; 意见 看法 观点; 建议 提议; 优点 长处;
缺点 不足 短处; 朋友 友人 伙伴; 老师 教师; 学生 学员; 孩子 小孩 儿童; 医生 大夫; 父母 爹娘; 妻子 太太 爱人;
家 家庭; 房子 房屋 住宅; 城市 都市; 街道 马路; 公司 企业; 商店 店铺; 工作 职业; 老板 掌柜; 顾客 客户 客人;
电影 影片; 故事 情节; 文章 文本; 句子 语句; 词语 词汇; 信 信件 书信; 书 书籍 图书; 题目 标题; 例子 实例 事例;
内容 题材; 语言 言语; 知识 学问; 能力 本领 才能; 经验 阅历; 影响 作用; 感觉 感受; 心情 情绪 心绪; 错误 差错;
机会 时机; 困难 难处; 疾病 病症; 药 药物; 旅行 旅游 出游; 礼物 礼品; 比赛 竞赛; 花费 开销; 习惯 习性; 环境 周围;
人们 大家; 早晨 早上 清晨; 晚上 夜晚 夜里; 今天 今日; 昨天 昨日; 明天 明日; 外卖 外送; 米饭 白饭; 饮料 饮品""",
    "verb": """
喜欢 喜爱 爱好; 讨厌 厌恶 反感; 觉得 感到 认为; 知道 了解 晓得; 说 讲; 告诉 告知; 询问 打听; 回答 答复 回复;
帮助 协助 帮忙; 开始 着手; 结束 完结; 完成 做完; 停止 中止; 使用 运用 利用; 需要 须要; 希望 盼望 期望; 想 打算;
描述 描绘 叙述; 解释 说明 阐释; 分析 剖析; 比较 对比 对照; 总结 概括 归纳; 列出 列举; 写 书写; 编写 撰写;
改写 改编; 修改 更改 改动; 翻译 译; 计算 运算; 检查 查看 核对; 选择 挑选 选取; 购买 买; 出售 卖 销售; 送 递送;
配送 派送; 收到 接到; 等 等待 等候; 提高 提升 改善; 降低 减少; 增加 增添; 创造 创作; 制作 制造; 建立 创立 设立;
保护 爱护 保卫; 破坏 毁坏; 发现 察觉; 寻找 找; 学习 研习; 教 教导; 休息 歇息; 吃 品尝; 喝 饮; 看 瞧; 听 聆听;
走 行走; 跑 奔跑; 哭 哭泣; 笑 发笑; 参加 参与; 讨论 商讨 商量; 介绍 引见; 推荐 举荐; 鼓励 激励; 批评 指责;
表扬 称赞 夸奖; 感谢 谢谢; 出现 显现; 变成 成为; 影响 左右; 允许 准许; 避免 防止; 解决 处理; 准备 预备;
思考 思索; 记得 记住; 忘记 遗忘; 生成 产生; 提供 给出; 设计 策划; 浪费 糟蹋; 退 退还; 联系 联络; 点餐 下单 订餐""",
    "adverb": """
非常 十分 特别 相当; 很 挺; 太 过于; 常常 经常 时常; 马上 立刻 立即; 突然 忽然 猛然; 终于 总算; 已经 早已;
也许 可能 或许; 其实 实际上; 一直 始终; 大概 大约; 一起 一同 一块儿; 完全 全然; 几乎 差点; 逐渐 渐渐; 到底 究竟;
确实 的确 真的; 尤其 特别; 仅仅 只是; 依然 仍然 仍旧; 偶尔 有时; 从来 向来; 最后 末了; 刚刚 刚才; 不断 不停;
果然 果真; 居然 竟然; 稍微 略微; 更 更加; 都 全""",
}
IRREGULAR = {
    "begin": ("began", "begun", "beginning"),
    "buy": ("bought", "bought", "buying"),
    "build": ("built", "built", "building"),
    "choose": ("chose", "chosen", "choosing"),
    "come": ("came", "come", "coming"),
    "cut": ("cut", "cut", "cutting"),
    "find": ("found", "found", "finding"),
    "hurt": ("hurt", "hurt", "hurting"),
    "keep": ("kept", "kept", "keeping"),
    "leave": ("left", "left", "leaving"),
    "rewrite": ("rewrote", "rewritten", "rewriting"),
    "run": ("ran", "run", "running"),
    "seek": ("sought", "sought", "seeking"),
    "send": ("sent", "sent", "sending"),
    "show": ("showed", "shown", "showing"),
    "spend": ("spent", "spent", "spending"),
    "stop": ("stopped", "stopped", "stopping"),
    "teach": ("taught", "taught", "teaching"),
    "think": ("thought", "thought", "thinking"),
    "throw": ("threw", "thrown", "throwing"),
    "weep": ("wept", "wept", "weeping"),
    "chat": ("chatted", "chatted", "chatting"),
    "fret": ("fretted", "fretted", "fretting"),
    "flop": ("flopped", "flopped", "flopping"),
    "spot": ("spotted", "spotted", "spotting"),
    "permit": ("permitted", "permitted", "permitting"),
    "occur": ("occurred", "occurred", "occurring"),
    "plan": ("planned", "planned", "planning"),
    "leap": ("leaped", "leaped", "leaping"),
}
"""Past, participle and -ing form of verbs of the table that are not regular or double their last letter."""
_UNINFLECTED = """
work labor humor wit money cash advice guidance people folks viewers fun enjoyment amusement laughter garbage trash
sadness sorrow joy delight anger rage fear dread acting earth wood mess muddle squandering waste bit piece kid
child man woman lady gentleman"""
UNINFLECTED = frozenset(_UNINFLECTED.split())
"""Nouns without a regular plural, or without any plural."""
_COMPARED = """
happy glad sad big large small tiny fast quick slow smart clever bright silly funny dull"""
COMPARED = frozenset(_COMPARED.split())
"""Adjectives with forms in -er and -est. Only these replace such a form."""


DEGREES = "很挺太真最更超"


@cache
def table(language: str) -> Mapping[tuple[str, str], tuple[str, ...]]:
    """Return the synonyms of each (word, part of speech); empty for languages other than English and Chinese."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for part, groups in {"en": ENGLISH, "zh": CHINESE}.get(language, {}).items():
        for group in groups.replace("\n", " ").split(";"):
            words = group.split()
            for word in words:
                others = tuple(other for other in words if other != word)
                found[word, part] = tuple(dict.fromkeys((*found.get((word, part), ()), *others)))
    return MappingProxyType(found)


def forms(lemma: str, part: str) -> dict[str, str]:
    """Return the inflected forms of an English lemma of the table by name; `base` is the lemma itself."""
    if part == "noun":
        return {"base": lemma} if lemma in UNINFLECTED else {"base": lemma, "s": _with_s(lemma)}
    if part == "adjective" and lemma in COMPARED:
        stem = {"sad": "sadd", "glad": "gladd", "big": "bigg"}.get(lemma, lemma)
        return {"base": lemma, "er": _with_e(stem, "er"), "est": _with_e(stem, "est")}
    if part != "verb":
        return {"base": lemma}
    regular = _with_e(lemma, "ed")
    stem = lemma[:-1] if lemma.endswith("e") and not lemma.endswith(("ee", "ye", "oe")) else lemma
    past, participle, ing = IRREGULAR.get(lemma, (regular, regular, f"{stem}ing"))
    return {"base": lemma, "s": _with_s(lemma), "past": past, "participle": participle, "ing": ing}


def _with_s(word: str) -> str:
    if word.endswith("y") and word[-2] not in "aeou":
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"


def _with_e(word: str, ending: str) -> str:
    if word.endswith("e"):
        return word + ending[1:]
    return f"{word[:-1]}i{ending}" if word.endswith("y") and word[-2] not in "aeou" else word + ending


@cache
def inflected() -> Mapping[str, tuple[tuple[str, str, str], ...]]:
    """Return the readings of each English word, as (lemma, part of speech, name of the form)."""
    found: dict[str, tuple[tuple[str, str, str], ...]] = {}
    for lemma, part in table("en"):
        for name, form in forms(lemma, part).items():
            found[form] = (*found.get(form, ()), (lemma, part, name))
    return MappingProxyType(found)


def synonyms(word: str, part: str, language: str) -> Sequence[str]:
    """Return the synonyms of a word in the same inflection. An empty `part` means all its parts of speech.

    A Chinese word that begins with an adverb of degree, such as 挺好吃, keeps this adverb.
    """
    known = table(language)
    if language == "zh" and len(word) > 1 and word[0] in DEGREES and not any((word, p) in known for p in CHINESE):
        return tuple(word[0] + other for other in synonyms(word[1:], part, "zh"))
    readings = inflected().get(word, ()) if language == "en" else [(word, p, "base") for p in CHINESE]
    found: dict[str, None] = {}
    for lemma, reading, name in readings:
        if part and reading != part:
            continue
        for other in known.get((lemma, reading), ()):
            form = forms(other, reading).get(name) if language == "en" else other
            if form and form != word:
                found[form] = None
    return tuple(found)
