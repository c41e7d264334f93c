"""Personal data: mask addresses and numbers that identify a person, or drop the sample."""

import asyncio
import ipaddress
import re
from calendar import monthrange
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.scripts import is_chinese
from gristmill.generation.contracts import Ask, Filter, Snapshot, Stage, Verdict
from gristmill.generation.prompting.masking import MaskSpan, masking, without_overlaps

What = Literal["email", "id_card", "card", "iban", "ip", "phone"]
EVERY: tuple[What, ...] = ("email", "id_card", "card", "iban", "ip", "phone")
"""Kinds in the order in which they are looked for; the order matters because an ID card number also looks like a card
number."""

FREE = r"(?<!\d)(?<!\d[.,])"
"""Not after a digit or a decimal point; `\\b` would see no edge between a Chinese character and a digit."""
END = r"(?!\d)(?![.,]\d)"
EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}[@＠]((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
    r"[A-Za-z]{2,24})(?![A-Za-z0-9])"
)
RESERVED = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost)$", re.IGNORECASE)
"""Domains that belong to nobody (RFC 2606)."""
ID_CARD = re.compile(rf"{FREE}\d{{17}}[\dXx](?![0-9A-Za-z])")
CARD = re.compile(
    rf"{FREE}(?:\d{{13,19}}|\d{{4}}([ -])\d{{4}}\1\d{{4}}\1\d{{4}}(?:\1\d{{3}})?|\d{{4}}([ -])\d{{6}}\2\d{{4,5}}){END}"
)
ISSUER = re.compile(r"4|5[1-5]|2[2-7]|3[0-8]|6")
"""First digits of the networks: Visa, Mastercard, Amex, Diners, JCB, Discover, UnionPay."""
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}")
IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)", re.ASCII)
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?![\w:])", re.ASCII)
VERSION = re.compile(r"(?:version|release|build|chapter|section|\bv|版本号?|第)\W{0,2}$", re.IGNORECASE)
"""Words which show that the four numbers after them are no IP address."""
PHONES = (
    rf"{FREE}(?:(?:\+|00)86[- ]?)?1[3-9]\d[- ]?\d{{4}}[- ]?\d{{4}}{END}",  # Chinese mobile
    rf"{FREE}\(?0\d{{2,3}}\)?[- ]\d{{3,4}}[- ]?\d{{4}}{END}",  # Chinese and other landlines with their area
    rf"{FREE}(?:\+?1[-. ])?(?:\(\d{{3}}\) ?|\d{{3}}[-. ])\d{{3}}[-. ]\d{{4}}{END}",  # North America
    rf"{FREE}\+[1-9]\d{{0,2}}(?:[-. ]?\(?\d{{1,4}}\)?){{2,5}}\d{END}",  # any country, in its international form
)
PHONE = re.compile("|".join(PHONES))
DENSE = re.compile(r"\d(?:\D{0,3}\d){6}")
"""Seven digits near each other. Every number except an IP address has them, so this fast test settles most texts."""
FEWEST_DIGITS, MOST_DIGITS = 8, 15
"""Digits of an international number (ITU-T E.164)."""
REGISTRY = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 "
    "EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 "
    "IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 "
    "NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 "
    "TR26 UA29 VA22 VG24 XK20"
)
"""Countries and the lengths of their IBANs (the registry of ISO 13616)."""
IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in REGISTRY.split()}
PROVINCES = "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83"
WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


MIN_SCORE = 0.5
"""Smallest confidence, 0 to 1, of Presidio's findings that are used."""


class Analyzer(Protocol):
    """Presidio's analyzer."""

    def analyze(self, text: str, language: str, entities: list[str], *, score_threshold: float) -> Iterable[Any]:
        """Return entities with `start`, `end` and `entity_type`."""


class PersonalData(Filter[Analyzer | None]):
    """Mask e-mail addresses, phone, card, account and ID numbers and IP addresses in a sample, or drop it.

    Everything in a sample except its tags is searched: contents, thoughts, names, arguments of calls, parts and tools.

    Numbers with a checksum must pass it, so an order number of 16 digits stays. Addresses that belong to no one stay
    too: reserved domains, private and documentation networks. The tag `personal_data` says what was masked. Names and
    places need a model: with `presidio`, Microsoft Presidio searches the texts, if it is installed.

    Source: ISO/IEC 7812-1 (cards: Luhn), ISO 13616 and ISO 7064 (IBAN: mod 97), GB 11643-1999 (Chinese ID card: weights
    2^(18-i) mod 11), RFC 2606, RFC 5737; masking as in Dolma (Soldaini et al. 2024, arXiv:2402.00159, section 3).
    Departures: every kind has a placeholder of its own, such as `<EMAIL>`, which is the same for all values; ID numbers
    of 15 digits, from before 1999, have no checksum and are not looked for; a national phone number needs separators or
    the form of a Chinese mobile number.
    """

    revision: ClassVar[int] = 2  # thoughts, calls, parts and tools are searched too
    kind: Literal["personal_data"] = "personal_data"
    stages: ClassVar[tuple[Stage, ...]] = ("instruction", "sample")
    action: Literal["mask", "drop"] = "mask"
    """What to do with a sample that contains personal data."""
    looks_for: tuple[What, ...] = EVERY
    """Kinds to find by rules."""
    presidio: tuple[str, ...] = ()
    """Further entities for Presidio to find, such as `PERSON` and `LOCATION`; needs `presidio-analyzer`."""
    presidio_models: dict[str, str] = Field(default_factory=lambda: {"en": "en_core_web_sm"})
    """spaCy pipelines for Presidio, by language; a pipeline named `blank` finds only numbers. Presidio does not see
    texts in other languages."""

    async def prepare(self, snapshot: Snapshot, before: Analyzer | None, ask: Ask) -> Analyzer | None:
        """Return the analyzer of Presidio if the settings ask for it."""
        del snapshot, ask
        if not self.presidio or before is not None:
            return before
        return await asyncio.to_thread(analyzer, self.presidio_models)

    async def judge(self, sample: Sample, ask: Ask[Analyzer | None]) -> Verdict:
        """Search all texts of the sample."""
        found = partial(self.spans, presidio=ask.prepared)
        return masking(sample, self.kind, found, drop=self.action == "drop")

    def spans(self, text: str, presidio: Analyzer | None = None) -> list[MaskSpan]:
        """Return the places of personal data in a text, in order and without overlaps."""
        quick = {"email": "@" in text or "＠" in text, "ip": text.count(".") > 2 or text.count(":") > 2}
        dense = DENSE.search(text) is not None
        wanted = [what for what in EVERY if what in self.looks_for and quick.get(what, dense)]
        found = [MaskSpan(*place, what) for what in wanted for place in FINDERS[what](text)]
        language = "zh" if is_chinese(text) else "en"
        if presidio is not None and language in self.presidio_models:
            seen = presidio.analyze(text, language=language, entities=list(self.presidio), score_threshold=MIN_SCORE)
            found += [MaskSpan(entity.start, entity.end, entity.entity_type.lower()) for entity in seen]
        return without_overlaps(found)


def analyzer(pipelines: Mapping[str, str]) -> Analyzer:
    """Return Presidio's analyzer with spaCy pipelines by language. This takes seconds.

    Raises:
        JobError: when Presidio or a pipeline is not installed.
    """
    try:
        presidio, nlp, spacy = map(import_module, ("presidio_analyzer", "presidio_analyzer.nlp_engine", "spacy"))
        engine = nlp.SpacyNlpEngine(models=[])
        engine.nlp = {
            language: spacy.blank(language) if name == "blank" else spacy.load(name)
            for language, name in pipelines.items()
        }
    except (ImportError, OSError) as error:
        raise JobError(f"personal_data.presidio: {error}; install presidio-analyzer and its spaCy pipeline") from error
    registry = presidio.RecognizerRegistry(supported_languages=list(pipelines))
    registry.load_predefined_recognizers(languages=list(pipelines), nlp_engine=engine)
    found: Analyzer = presidio.AnalyzerEngine(nlp_engine=engine, registry=registry, supported_languages=list(pipelines))
    return found


def luhn(number: str) -> bool:
    """Return whether a number passes the Luhn check.

    Every second digit from the right is doubled. The sum of all digits must be divisible by ten.
    """
    digits = [int(digit) for digit in reversed(number)]
    return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0


def mod97(iban: str) -> bool:
    """Return whether an IBAN without spaces passes its check.

    Its first four characters move to the end, and letters become numbers from 10 on. The remainder by 97 must be 1.
    """
    return int("".join(str(int(sign, 36)) for sign in iban[4:] + iban[:4])) % 97 == 1


def chinese_id(number: str) -> bool:
    """Return whether 18 signs are a Chinese ID number: a province, a date of birth, and the right check sign."""
    year, month, day = int(number[6:10]), int(number[10:12]), int(number[12:14])
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], WEIGHTS, strict=True))
    rules = (
        number[:2] in PROVINCES.split(),
        1800 <= year <= 2100 and 1 <= month <= 12 and 1 <= day <= monthrange(year, month)[1],
        "10X98765432"[total % 11] == number[17].upper(),
    )
    return all(rules)


Place = tuple[int, int]


def _emails(text: str) -> Iterator[Place]:
    return (found.span() for found in EMAIL.finditer(text) if not RESERVED.search(found[1]))


def _id_cards(text: str) -> Iterator[Place]:
    return (found.span() for found in ID_CARD.finditer(text) if chinese_id(found[0]))


def _cards(text: str) -> Iterator[Place]:
    for found in CARD.finditer(text):
        number = re.sub(r"\D", "", found[0])
        if ISSUER.match(number) and luhn(number):
            yield found.span()


def _ibans(text: str) -> Iterator[Place]:
    for found in IBAN.finditer(text):
        length = IBAN_LENGTHS.get(found[0][:2], 0)
        signs = [place for place, sign in enumerate(found[0]) if sign != " "][:length]
        if length and len(signs) == length and mod97("".join(found[0][place] for place in signs)):
            stop = found.start() + signs[-1] + 1
            if not re.match(r"[A-Za-z0-9]", text[stop : stop + 1]):
                yield found.start(), stop


def _ips(text: str) -> Iterator[Place]:
    for pattern in (IPV4, IPV6):
        for found in pattern.finditer(text):
            try:
                public = ipaddress.ip_address(found[0]).is_global
            except ValueError:
                continue
            if public and not VERSION.search(text[max(0, found.start() - 12) : found.start()]):
                yield found.span()


def _phones(text: str) -> Iterator[Place]:
    for found in PHONE.finditer(text):
        if FEWEST_DIGITS <= sum(sign.isdigit() for sign in found[0]) <= MOST_DIGITS:
            yield found.span()


FINDERS: dict[What, Callable[[str], Iterator[Place]]] = {
    "email": _emails,
    "id_card": _id_cards,
    "card": _cards,
    "iban": _ibans,
    "ip": _ips,
    "phone": _phones,
}
