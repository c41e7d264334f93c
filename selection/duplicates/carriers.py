"""Lists of words that carry meaning: numbers, negations, opposites. Copies never differ in them, see `copies`."""

from functools import cache
from typing import NamedTuple

import numpy as np

from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.normal import HALF, ODD, ODD_2, Bytes, Points, is_unspaced, mix
from gristmill.selection.kernels import kernel

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands "
    "million millions billion billions trillion dozen dozens half halves quarter quarters thirds double triple "
    "quadruple twice thrice once first second third fourth fifth sixth seventh eighth ninth tenth"
)
NUMBERS_ZH = "零〇一二两三四五六七八九十百千万亿半"
NEGATIONS = (
    "no not never none nobody nothing nowhere neither nor cannot without unless except hardly barely dont cant "
    "wont isnt doesnt didnt arent wasnt werent havent hasnt hadnt wouldnt shouldnt couldnt mustnt neednt aint"
)
"""Negations without their apostrophe, because its normal form is a space; `units` joins the `t` after it to the
word."""
NEGATIONS_ZH = "不没无未非否勿莫"
NEGATING = ("un", "in", "im", "il", "ir", "dis", "non", "mis", "anti")
"""Prefixes that turn a word into its opposite."""
OPPOSITES = (
    "more/less more/fewer most/least most/fewest larger/smaller largest/smallest bigger/smaller biggest/smallest "
    "big/small large/small big/little great/small much/little many/few greater/less greater/smaller higher/lower "
    "highest/lowest high/low longer/shorter longest/shortest long/short taller/shorter tallest/shortest "
    "tall/short older/younger oldest/youngest old/young old/new older/newer oldest/newest faster/slower "
    "fastest/slowest fast/slow quick/slow quickly/slowly better/worse best/worst good/bad good/evil right/wrong "
    "right/left true/false yes/no correct/incorrect same/different before/after earlier/later early/late "
    "earliest/latest first/last next/previous begin/end begins/ends beginning/end start/stop start/end "
    "starts/stops starts/ends starting/ending started/stopped open/close open/closed opens/closes opened/closed "
    "up/down upper/lower above/below over/under top/bottom front/back inside/outside in/out into/from to/from "
    "import/export imports/exports include/exclude includes/excludes including/excluding internal/external "
    "increase/decrease increases/decreases increased/decreased increasing/decreasing rise/fall rises/falls "
    "rising/falling rose/fell raise/lower gain/lose gains/loses gained/lost gain/loss profit/loss win/lose "
    "wins/loses won/lost buy/sell buys/sells bought/sold buying/selling give/take gives/takes gave/took "
    "given/taken lend/borrow push/pull add/remove add/subtract adds/removes added/removed plus/minus "
    "multiply/divide multiplied/divided sum/difference maximum/minimum max/min maximize/minimize "
    "maximise/minimise ascending/descending even/odd positive/negative hot/cold warm/cool warmer/cooler "
    "hotter/colder light/dark lighter/darker light/heavy lighter/heavier bright/dark strong/weak stronger/weaker "
    "hard/soft hard/easy harder/easier difficult/easy easy/difficult rich/poor cheap/expensive cheaper/dearer "
    "full/empty wet/dry clean/dirty safe/dangerous male/female man/woman men/women boy/girl boys/girls "
    "father/mother son/daughter brother/sister husband/wife king/queen north/south east/west northern/southern "
    "eastern/western day/night morning/evening am/pm summer/winter love/hate loves/hates loved/hated "
    "like/dislike happy/sad happy/unhappy funny/boring always/never always/sometimes often/rarely often/seldom "
    "usually/rarely all/none all/some all/any every/some everyone/nobody everything/nothing everybody/nobody "
    "someone/nobody something/nothing anyone/nobody anything/nothing everywhere/nowhere with/without and/or "
    "both/neither either/neither ever/never for/against alive/dead life/death live/die lived/died accept/reject "
    "accepted/rejected accept/refuse allow/forbid allowed/forbidden allow/deny agree/disagree agrees/disagrees "
    "pass/fail passes/fails passed/failed success/failure success/fail succeed/fail attack/defend arrive/leave "
    "arrives/leaves arrived/left come/go comes/goes came/went enter/leave enters/leaves push/pop enable/disable "
    "enabled/disabled encode/decode encrypt/decrypt connect/disconnect legal/illegal lock/unlock near/far "
    "wide/narrow wider/narrower thick/thin deep/shallow public/private active/passive present/absent past/future "
    "ancient/modern guilty/innocent friend/enemy advantage/disadvantage advantages/disadvantages pros/cons "
    "benefit/harm benefits/risks useful/useless helpful/useless helpful/harmful harmful/harmless "
    "careful/careless hopeful/hopeless painful/painless credit/debit domestic/foreign victory/defeat "
    "question/answer expand/shrink grow/shrink save/spend saved/spent saves/spends lead/lag odd/normal "
    "horizontal/vertical"
)
OPPOSITES_ZH = (
    "大小 多少 高低 高矮 前后 左右 上下 好坏 好差 长短 快慢 早晚 早迟 新旧 老少 老幼 开关 买卖 进出 来去 男女 "
    "有没 有无 冷热 轻重 远近 对错 是否 胖瘦 贵廉 增减 升降 加减 乘除 强弱 软硬 难易 难容 真假 美丑 黑白 明暗 "
    "深浅 宽窄 厚薄 里外 内外 始终 首末 首尾 先后 正负 正反 奇偶 胜负 胜败 赢输 成败 生死 存亡 爱恨 喜厌 悲喜 "
    "干湿 松紧 粗细 古今 东西 南北 父母 夫妻 公母 雌雄 得失 盈亏 收支 借还 借贷 攻守 甜苦 饱饿 忙闲 勤懒 富穷 "
    "贫富 阴阳 昼夜 朝夕 全险 优劣 起落 起止 涨跌 动静 满空 满缺 同异 主客 因果 利弊 善恶 善坏 喜恶 热凉 香臭 "
    "推拉 与或 和或 利害 安危 硬糯 棒烂 棒差 赞差 优差 快迟 稀浓 咸淡 贵便"
)
COMMON = (
    "a an the and or but if so as at by in on to of off for from with into onto out up down over under about "
    "after before between i you he she it we they me him her us them my your his its our their mine yours hers "
    "ours theirs this that these those here there where when why how who whom whose what which is am are was "
    "were be been being do does did done have has had having will would shall should can could may might must "
    "get got give go goes went come came make made take took see saw say said tell told know knew think want "
    "need use used let put set run ran new old all any some each every both few many much more most less least "
    "other another such own same than then now just too very also only even still yet ever back down away per "
    "via one two six ten our four fire five nine line mine note knot hot lot dot pot pat nut net nit nod not nor "
    "now tree there their three free sever seven even eve event form from bone done gone none tone zone cone "
    "noon soon moon tend tent tens then them they ton tin sex sax fix mix once ounce for fur our hour sour pour "
    "tour your fight eight night right light might weight height fir sir sit fist mist thin thing think first "
    "thirst twin wine wind win son sun car cat cut bat bar bad bed red rod dog day way say may man men map mat "
    "met pet pen pan fan far fat few sew sea see bee bus big bag bug dig pig fig"
)
"""Common words that are spelled like other common words. If two texts differ in such words, these are two words and not
a typing error."""
CLASSES = (
    "a an the this these those my your his her its our their each every any some many much",
    "i you he she it we they me him us them",
    "in on of at by to from with for into onto off over up out per upon about",
    "is am are was were be been being has had have do does did could would shall should must can",
    "and or if so as than but because while",
    "who whom whose what which when where why how that there then here",
    "yet still also just too very only even ever again",
)
"""Classes of words that have the same place in a sentence. If a word of another class is in the place of a word, this
is a typing error, because nobody writes `or` for `for`, or `hour` for `our`, on purpose. `will` and `may` are in no
class, because they are also names."""
LEADS = (
    "please kindly answer the following question questions below this can could you would help me hi hello hey "
    "task instruction instructions input prompt q user human carefully i like to know tell want here is with for "
    "try give"
)
"""Words before a request that are not part of the request."""
LEADS_ZH = (
    "请 请你 请您 请问 你好 您好 请回答 回答 请回答下面的问题 请回答以下问题 请回答下列问题 回答下面的问题 "
    "回答以下问题 下面的问题 以下问题 请根据要求回答 请认真回答 请仔细回答 请帮我 帮我 麻烦 麻烦你 麻烦您 能否 "
    "能否告诉我 你能告诉我 请告诉我 告诉我 我想知道 我想问一下 我想问 想问一下 问题 题目 任务 指令 要求 "
    "请完成以下任务 请完成下面的任务 请看"
)
CARRIER, COMMON_WORD, LEAD, NEGATION, OPPOSED, CLASS = map(np.uint8, (1, 2, 4, 8, 16, 32))
LONGEST_LEAD = 12
"""Most characters of a Chinese lead."""


class Carriers(NamedTuple):
    """The lists of this file as hashes, for compiled code."""

    words: Key
    """Ascending hashes of all words that are in a list."""
    flags: Bytes
    """The sum of the flags of each word: `CARRIER`, `COMMON_WORD`, `LEAD`, `NEGATION`, `OPPOSED` if it has an opposite,
    and `CLASS` times the number of its class, from 1 on."""
    opposites: Key
    """Ascending hashes of each pair of opposites, in both orders, see `pair_hash`."""
    negating: Points
    """[prefixes, 5] code points of the prefixes in `NEGATING`, with 0 after their ends."""


@cache
def carriers() -> Carriers:
    """Return the lists of this file as hashes; they are made once."""
    flags: dict[int, int] = {}
    pairs = [tuple(pair.split("/")) for pair in OPPOSITES.split()] + [tuple(pair) for pair in OPPOSITES_ZH.split()]
    for words, flag in (
        ([*NUMBERS.split(), *NUMBERS_ZH, *NEGATIONS.split(), *NEGATIONS_ZH], CARRIER),
        ([*NEGATIONS.split(), *NEGATIONS_ZH], NEGATION),
        (COMMON.split(), COMMON_WORD),
        ([*LEADS.split(), *LEADS_ZH.split()], LEAD),
        ([word for pair in pairs for word in pair], OPPOSED),
        *((words.split(), CLASS * number) for number, words in enumerate(CLASSES, 1)),
    ):
        for word in words:
            name = int(word_hash(points(word)))
            flags[name] = flags.get(name, 0) | int(flag)
    hashed = [(word_hash(points(left)), word_hash(points(right))) for left, right in pairs]
    both = {
        int(pair_hash(np.uint64(pair[0]), np.uint64(pair[1])))
        for one, other in hashed
        for pair in ((one, other), (other, one))
    }
    known = sorted(flags)
    beginnings = np.zeros((len(NEGATING), 5), np.uint32)
    for row, word in enumerate(NEGATING):
        beginnings[row, : len(word)] = points(word)
    return Carriers(
        np.array(known, np.uint64),
        np.array([flags[word] for word in known], np.uint8),
        np.array(sorted(both), np.uint64),
        beginnings,
    )


def points(word: str) -> Points:
    """Return the code points of a word in its normal form."""
    return np.frombuffer(word.encode("utf-32-le"), np.uint32)


@kernel
def word_hash(word: Points) -> np.uint64:
    """Return a hash of a word, 64 bits."""
    found = ODD
    for point in word:
        found = add_letter(found, point)
    return found


@kernel
def add_letter(found: np.uint64, letter: np.uint32) -> np.uint64:
    """Return the hash of a word from the hash of the word without its last letter, and this letter."""
    found = (found ^ np.uint64(letter)) * ODD_2
    return found ^ (found >> HALF)


@kernel
def pair_hash(one: np.uint64, other: np.uint64) -> np.uint64:
    """Return a hash of two hashes in this order, 64 bits."""
    return mix(one * ODD + other)


@kernel
def flags_of(word: np.uint64, words: Key, flags: Bytes) -> int:
    """Return the flags of a word, 0 for a word that is in no list."""
    place = np.searchsorted(words, word)
    return int(flags[place]) if place < len(words) and words[place] == word else 0


@kernel
def among(word: np.uint64, words: Key) -> bool:
    """Say whether a hash is among ascending hashes."""
    place = np.searchsorted(words, word)
    return bool(place < len(words) and words[place] == word)


@kernel
def lead_of(form: Points, words: Key, flags: Bytes) -> int:
    """Return how many code points at the beginning of a normal form belong to leads; 0 if all code points do."""
    begin, size = 0, len(form)
    while begin < size:
        end = begin
        if is_unspaced(form[begin]):
            for reach in range(min(LONGEST_LEAD, size - begin), 0, -1):
                if flags_of(word_hash(form[begin : begin + reach]), words, flags) & 4:
                    end = begin + reach
                    break
        else:
            stop = begin
            while stop < size and form[stop] != 32 and not is_unspaced(form[stop]):
                stop += 1
            if flags_of(word_hash(form[begin:stop]), words, flags) & 4:
                end = stop
        if end == begin:
            return begin
        while end < size and (form[end] == 32 or form[end] == 58):
            end += 1
        begin = end
    return 0
