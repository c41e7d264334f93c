"""Answer kind: an answer must be of the kind that was asked for: a duration, a number, a person."""

import re
from typing import Literal

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.parts import request
from gristmill.cluster.text.scripts import HAN
from gristmill.generation.contracts import Ask, Filter, Verdict

_START = r"(?:^|[,;:] |\b(?:and|but|then) )(?:for |at |about |on average,? )?"
ASKED = {
    "duration": rf"{_START}how (?:long|much time)\b(?! (?:as|the|an?)\b)"
    "|多久|多长时间|多少(?:时间|[天年月周]|小时|分钟)",
    "number": rf"{_START}how (?:many|old|tall|far|much (?:money|more|does|do|did|is|are|was|will|would))\b"
    r"|多少(?!人[^?？]*意义)|有几[个人次只条本种]",
    "person": rf"{_START}(?:who|whose|by whom)\b|(?:^|[，,是被由为])谁|谁[的是]",
}
"""Expressions for questions of each kind, in the last sentence of the request."""
_WORDS = (
    r"zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|hundreds?|thousands?|"
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty(?:-\w+)?|"
    r"(?:m|b|tr|quadr)illions?|dozens?|half|quarter|third|once|twice|none|no|nobody|several|many|most|few|all|both|couple|"
    r"pair|single|never|always|free|nothing|everything|infinite\w*|unlimited|countless|equal|same|lots?|"
    r"fortune|enough|little|much"
)
_UNITS = (
    r"秒|分(?!别|析|子|数|开|享|类|布|配)|小?时(?!候|尚|常|代|髦)|刻钟|天(?!气|空|然|真|才|下)|日|周(?!围|到)|星期|礼拜|月(?!亮|饼)|"
    r"年|夜|载|季"
)
_COUNT = rf"[\d零〇一二两三四五六七八九十百千万亿半几数多整每]+(?:来|余)?个?多?(?:{_UNITS})"
_NOT_COUNTED = re.compile(
    r"一[样般直定起切旦概致向生贯味]|一(?=方面|会儿|下子)|十分(?=[^，。！？、\s])|[唯统同单专另之逐]一|第[一二三四五六七八九十]|万一|千万(?=[别不])|三明治|四季|五[香花颜谷]|"
    r"七上八下|乱七八糟|\bone of the (?:most|best|\w+est)\b|\bno (?:longer|matter|doubt)\b|\bat (?:all|once)\b|"
    r"\ball (?=the |of )|\bmost (?=\w+ly\b|of the|import|famous|common|popular|beautiful)|"
    r"\bthe most\b|\bno(?=,)",
    re.IGNORECASE,
)
"""Words that contain a number but are no number, such as `一样` and `one of`."""
NUMBER = (
    rf"\d|[%½¼¾]|\b(?:{_WORDS})\b|[零〇一二两三四五六七八九十百千万亿半几双]|无数|数[十百千万个]|没有|许多|很多|好多|不少|"
    r"大多|多数|少数|不多|很少|全部|所有|全都|都是|每[个人天年]|若干|一些"
)
DURATION = (
    r"\b(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?|decades?|centur\w+|nights?|overnight|moments?|forever|"
    r"instant\w*|immediate\w*|lifetime|while|until|since|long|short|quick\w*|brief\w*|permanent\w*|indefinite\w*|"
    r"generations?|season\w*|summer|winter)\b"
    rf"|{_COUNT}|世纪|一会|永远|一生|一辈子|终身|一直|很久|不久|[好许]久|长期|短期|长时间|短时间|瞬间|立刻|马上|即刻|通宵|整[天夜日]|"
    r"[从自直]到?[^，。]{1,12}[起到止]"
)
PERSON = (
    r"\b(?:i|we|you|he|she|they|me|us|him|her|them|my|our|your|his|their|people|persons?|\w*(?:man|men|woman|women)|"
    r"\w+(?:er|ers|or|ors|ist|ists|ian|ians|ant|ants|ee|ees|eur|eon|eons)|someone|nobody|everyone|anyone|none|no one|"
    r"family|mother|parents?|kids?|child\w*|guests?|friends?|boys?|girls?|king|queen|god|students?|staff|chefs?|bosses|"
    r"boss|clients?|residents?|presidents?|team|company|users?|police|crew|army|pilots?|guards?|nurses?|cooks?|public)\b"
)
_NAME = re.compile(r"(?<![A-Za-z])[A-Z][A-Za-z'’.-]+")
_NO_NAME = re.compile(
    r"(?:the|an?|its?|th(?:is|at|ese|ose)|t?here|because|since|as|[io]n|at|by|for|from|with|to|of|and|but|or|if|when|"
    r"while|after|before|during|yes|not?|is|are|was|were|ha[sd]|have|[wc]ould|should|will|can|may|might|according|"
    r"based|through|due)",
    re.IGNORECASE,
)
"""Words at the beginning of an answer that are no names."""
_NO_PERSON = re.compile(r"^(?:因为|由于|为了|是的|不是|在|通过|\d+年?)")
_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩冯邓曹彭曾肖田董潘袁蔡蒋余于杜叶程魏苏吕丁任卢姚沈钟姜崔谭陆范汪廖石金韦贾夏付方邹熊白孟秦"
    "邱侯江尹薛闫段雷龙黎史陶贺毛郝顾龚邵万覃武钱戴严莫孔向鲁诸司欧上贝爱达牛居伽哥莎"
)
PERSON_ZH = re.compile(
    r"[人者师员家们他她我你您民兵匠]|先生|女士|小姐|太太|父|母|爸|妈|爷|奶|哥|姐|弟|妹|儿子|女儿|孩|朋友|王|皇|帝|后羿|神|团队|"
    rf"公司|政府|军队|警察|学生|老板|总统|主席|经理|组织|大家|自己|·|(?:^|[是由被叫为，。、“《和与])[{_SURNAMES}][{HAN}]"
)
"""Words for people and for groups that act, and names by their first character."""
SHORT_NAME = 8
"""A Chinese answer up to this many characters may be a name."""
_HAN = re.compile(rf"[{HAN}]")
_SENTENCES = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


class AnswerKind(Filter):
    """Drop an answer without a duration to `how long`, a number to `how many`, or a person to `who`.

    Only the last sentence of the request is read, if it is a question. An answer passes with any word of the kind, such
    as `overnight`, `several` or `the miller`.

    Source: rules of our own, after the answer types of Li and Roth 2002, Learning question classifiers, section 3.
    """

    kind: Literal["answer_kind"] = "answer_kind"

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the answer, if the question is of a known kind."""
        del ask
        asked = kind_asked(request(sample.instruction))
        wrong = bool(asked and sample.answer) and not _is_a(asked, sample.answer)
        return Verdict(dropped=f"{self.kind}: answer is no {asked}" if wrong else None)


def kind_asked(text: str) -> str:
    """Return the kind that the last sentence of a text asks for, or the empty string."""
    last = ([part for part in _SENTENCES.split(text.strip()) if part] or [""])[-1]
    if not last.rstrip().endswith(("?", "？")):
        return ""
    return next((kind for kind, pattern in ASKED.items() if re.search(pattern, last, re.IGNORECASE)), "")


def _is_a(kind: str, answer: str) -> bool:
    if kind == "number":
        return bool(re.search(NUMBER, _NOT_COUNTED.sub(" ", answer), re.IGNORECASE))
    if kind == "duration":
        return bool(re.search(rf"\d|{DURATION}", answer, re.IGNORECASE))
    named = any(not _NO_NAME.fullmatch(word) for word in _NAME.findall(answer))
    if named or re.search(PERSON, answer, re.IGNORECASE):
        return True
    if not _HAN.search(answer) or _NO_PERSON.search(answer):
        return False
    return len(_HAN.findall(answer)) <= SHORT_NAME or bool(PERSON_ZH.search(answer))
