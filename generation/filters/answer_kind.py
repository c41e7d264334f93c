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
"""What asks for each kind, in the last sentence of the request."""
_WORDS = (
    r"zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|hundreds?|thousands?|"
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty(?:-\w+)?|"
    r"millions?|billions?|dozens?|half|quarter|third|once|twice|none|no|nobody|several|many|most|few|all|both|couple|"
    r"pair|single|never|always|free|nothing|everything|infinite\w*|unlimited|countless|equal|same|lots?|"
    r"fortune|enough|little|much"
)
NUMBER = rf"\d|[%½¼¾]|\b(?:{_WORDS})\b|[零〇一二两三四五六七八九十百千万亿半几数每双无没多少全]"
DURATION = (
    r"\b(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?|decades?|centur\w+|nights?|overnight|moments?|forever|"
    r"instant\w*|immediate\w*|lifetime|while|until|since|long|short|quick\w*|brief\w*|permanent\w*|indefinite\w*|"
    r"generations?|season\w*|summer|winter)\b"
    r"|[秒分时天日周月年夜载]|世纪|一会|永远|一生|一直|很久|长期|短期|瞬间|立刻|马上"
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
"""Words that an answer begins with and that are no name."""
_NO_PERSON = re.compile(r"^(?:因为|由于|为了|是的|不是|在|通过|\d+年?)")
_HAN = re.compile(rf"[{HAN}]{{2,}}")
_SENTENCES = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


class AnswerKind(Filter):
    """Drop an answer without a duration to `how long`, a number to `how many`, or a person to `who`.

    The last sentence of the request is read, where it is a question; an answer passes with any word of the kind, such
    as `overnight`, `several` or `the miller`.

    Source: rules of our own, after the answer types of Li and Roth 2002, Learning question classifiers, section 3.
    """

    kind: Literal["answer_kind"] = "answer_kind"

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the answer, where the question is of a known kind."""
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
        return bool(re.search(NUMBER, answer, re.IGNORECASE))
    if kind == "duration":
        return any(re.search(pattern, answer, re.IGNORECASE) for pattern in (NUMBER, DURATION))
    named = any(not _NO_NAME.fullmatch(word) for word in _NAME.findall(answer))
    if named or re.search(PERSON, answer, re.IGNORECASE):
        return True
    return bool(_HAN.search(answer)) and not _NO_PERSON.search(answer)
