"""Secrets: drop or mask keys, tokens and passwords, which must not be trained on."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.generation.contracts import Ask, Filter, Stage, Verdict
from gristmill.generation.prompting.masking import MaskSpan, masking, without_overlaps

EDGE, END = r"(?<![A-Za-z0-9_])", r"(?![A-Za-z0-9_])"
FORMS: dict[str, str] = {
    "private_key": (
        r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:\s|\\n)*"
        r"(?:[A-Za-z-]{2,20}: [^\n]{0,99}\n\s*){0,4}"
        r"[A-Za-z0-9+/=\s\\]{40,}(?:-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----)?"
    ),
    "aws_key": rf"{EDGE}(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z2-7]{{16}}{END}",
    "github_token": rf"{EDGE}(?:gh[pousr]_[A-Za-z0-9]{{36,255}}|github_pat_[A-Za-z0-9_]{{82}}){END}",
    "gitlab_token": rf"{EDGE}glpat-[A-Za-z0-9_-]{{20,}}",
    "slack_token": rf"{EDGE}xox[abeoprs]-(?:\d+-)?[A-Za-z0-9-]{{10,}}",
    "slack_webhook": r"https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9+/]{40,}",
    "google_key": rf"{EDGE}AIza[A-Za-z0-9_-]{{35}}(?![A-Za-z0-9_-])",
    "google_secret": rf"{EDGE}(?:GOCSPX-[A-Za-z0-9_-]{{28}}|ya29\.[A-Za-z0-9_-]{{20,}})",
    "stripe_key": rf"{EDGE}(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{{16,}}{END}",
    "model_api_key": rf"{EDGE}sk-(?:(?:ant|proj|svcacct|or)-)?(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{{32,}}",
    "huggingface_token": rf"{EDGE}hf_[A-Za-z0-9]{{34,}}{END}",
    "registry_token": rf"{EDGE}(?:npm_[A-Za-z0-9]{{36}}|pypi-AgE[A-Za-z0-9_-]{{50,}})",
    "sendgrid_key": rf"{EDGE}SG\.[A-Za-z0-9_-]{{22}}\.[A-Za-z0-9_-]{{43}}",
    "telegram_token": rf"{EDGE}\d{{8,10}}:AA[A-Za-z0-9_-]{{33}}(?![A-Za-z0-9_-])",
    "alibaba_key": rf"{EDGE}LTAI[A-Za-z0-9]{{12,20}}{END}",
    "tencent_key": rf"{EDGE}AKID[A-Za-z0-9]{{32}}{END}",
    "jwt": rf"{EDGE}eyJ[A-Za-z0-9_-]{{8,}}\.eyJ[A-Za-z0-9_-]{{8,}}\.[A-Za-z0-9_-]{{10,}}",
}
"""The forms of keys that issuers document, by kind."""
UNBROKEN = r"[A-Za-z0-9+/_=.~!@#$%^&*-]"
"""A character that keys consist of. Most texts have no long run of these characters, and need no further search."""
URL_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^\s:/@'\"<>]{1,64}:([^\s/@'\"<>]{3,128})@", re.IGNORECASE)
ASSIGNED = re.compile(
    r"(?:pass(?:word|wd|phrase)|pwd|secret|token|credential|(?:api|access|auth|private)[_ -]?key|"
    r"密码|口令|密钥|秘钥|令牌)[\w-]{0,24}[\"'”’\]]{0,2}\s{0,3}(?::=|=>|==?|[:：]|是|为|\bis\b)\s{0,3}[\"'“‘`]?"
    rf"({UNBROKEN}{{8,512}})",
    re.IGNORECASE,
)
FEWEST = 16
"""Length of the shortest run of `UNBROKEN` characters in any of the forms."""
PLACEHOLDER = re.compile(
    r"example|sample|dummy|placeholder|redacted|your|change|insert|replace|enter|todo|secret|passw|x{4,}|\*{3,}|"
    r"\.{3}|12345|abcde|^\$|^%|[({]$",
    re.IGNORECASE,
)
"""Parts of example values that are no secrets, such as `AKIAIOSFODNN7EXAMPLE` of AWS's documentation."""
HEX = re.compile(r"[0-9a-fA-F-]+")


class Secrets(Filter):
    """Drop a sample that contains a credential, or mask the credential.

    Everything in a sample except its tags is searched: contents, thoughts, names, arguments of calls, parts and tools.
    Three things are found: the documented forms of well-known issuers, passwords inside URLs, and values that are
    assigned to a name such as `api_key` or `密码` and are as random as a key. A value that is marked as an example
    stays.

    Source: Meli et al. 2019, How Bad Can It Get? Characterizing Secret Leakage in Public GitHub Repositories, NDSS,
    section III (distinct forms, entropy, words and patterns that make a match invalid); the bounds of 3.0 bits for hex
    are those of Yelp's detect-secrets. Departures: the bound for other values is 3.5 bits instead of 4.5, and they must
    mix letters and digits, because a value of 20 signs has 4.3 bits at most; only assigned values are measured.
    """

    revision: ClassVar[int] = 2  # thoughts, calls, parts and tools are searched too
    kind: Literal["secrets"] = "secrets"
    stages: ClassVar[tuple[Stage, ...]] = ("instruction", "sample")
    action: Literal["drop", "mask"] = "drop"
    """What to do with a sample that contains a secret; a mask names its kind, such as `<AWS_KEY>`."""
    min_entropy: float = Field(default=3.5, ge=0, le=8)
    """Smallest entropy of an assigned value that counts as a secret, in bits per character."""
    min_hex_entropy: float = Field(default=3.0, ge=0, le=4)
    """The same bound for a value of hexadecimal digits, in bits per character."""
    min_chars: int = Field(default=16, ge=8)
    """Assigned values with fewer characters are not measured."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Search all texts of the sample."""
        del ask
        return masking(sample, self.kind, self.spans, drop=self.action == "drop")

    def spans(self, text: str) -> list[MaskSpan]:
        """Return the places of secrets in a text, in order and without overlaps."""
        found = list(_in_urls(text)) if "://" in text else []
        if re.search(f"{UNBROKEN}{{{min(self.min_chars, FEWEST)}}}", text):
            found = [*_known(text), *found, *self._assigned(text)]
        return without_overlaps(found)

    def _assigned(self, text: str) -> Iterator[MaskSpan]:
        for found in ASSIGNED.finditer(text):
            value = found[1].rstrip(".!")
            if self._random(value) and not PLACEHOLDER.search(value):
                yield MaskSpan(found.start(1), found.start(1) + len(value), "secret")

    def _random(self, value: str) -> bool:
        if len(value) < self.min_chars or not re.search(r"\d", value) or not re.search(r"[A-Za-z]", value):
            return False
        return entropy(value) >= (self.min_hex_entropy if HEX.fullmatch(value) else self.min_entropy)


def entropy(text: str) -> float:
    """Return Shannon's entropy of the characters of a text, in bits per character."""
    return sum(n / len(text) * math.log2(len(text) / n) for n in Counter(text).values())


def _in_urls(text: str) -> Iterator[MaskSpan]:
    for found in URL_PASSWORD.finditer(text):
        if not PLACEHOLDER.search(found[1]):
            yield MaskSpan(*found.span(1), "password")


def _known(text: str) -> Iterator[MaskSpan]:
    for what, form in FORMS.items():
        for found in re.finditer(form, text):
            if what == "private_key" or not PLACEHOLDER.search(found[0]):
                yield MaskSpan(*found.span(), what)
