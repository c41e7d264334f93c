"""Personal data, secrets and the blocklist: published numbers, near misses, Chinese."""

import asyncio
import json
import sys
import types
from typing import Any

import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, Sample, ToolCall
from gristmill.generation.contracts import Filter, Snapshot, Verdict
from gristmill.generation.filters.blocklist import Blocklist
from gristmill.generation.filters.personal_data import PersonalData, chinese_id, luhn, mod97
from gristmill.generation.filters.secrets import Secrets, entropy
from gristmill.generation.prompting.masking import MaskSpan, masked, without_overlaps
from tests.fakes import ScriptedAsk


def judged(step: Filter, *turns: str, **tags: str) -> Verdict:
    roles = ("user", "assistant") * len(turns)
    messages = tuple(Message(role, text) for role, text in zip(roles, turns, strict=False))
    return asyncio.run(step.judge(Sample(id="s", messages=messages, tags=tags), ScriptedAsk()))


def after(step: Filter, text: str) -> str:
    messages = judged(step, text).messages
    return messages[0].text if messages else text


def test_checksums_accept_the_published_numbers_and_refuse_any_changed_digit() -> None:
    assert luhn("79927398713") and luhn("4111111111111111")  # ISO/IEC 7812-1, the usual example; a Visa test card
    assert mod97("GB82WEST12345698765432") and mod97("DE89370400440532013000")  # ISO 13616's registry
    assert chinese_id("11010519491231002X") and chinese_id("440524188001010014")  # the standard's own two
    for number, check in (("79927398713", luhn), ("11010519491231002X", chinese_id)):
        for place in range(len(number) - 1):
            changed = number[:place] + str((int(number[place]) + 1) % 10) + number[place + 1 :]
            assert not check(changed)
    assert not mod97("GB82WEST12345698765433")


def test_an_id_number_needs_a_province_and_a_real_date() -> None:
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)

    def whole(first: str) -> str:
        return first + "10X98765432"[sum(int(d) * w for d, w in zip(first, weights, strict=True)) % 11]

    assert chinese_id(whole("11010519491231002"))
    assert not chinese_id(whole("99010519491231002"))
    assert not chinese_id(whole("11010519490231002"))  # 31 February


@pytest.mark.parametrize(
    ("text", "masked_text"),
    [
        ("Write to anna.b+news@mail.co.uk today.", "Write to <EMAIL> today."),
        ("请发邮件到zhangwei@qq.com，谢谢", "请发邮件到<EMAIL>，谢谢"),
        ("Write to anna@example.com or me@server.test.", None),
        ("@anna said 3 @ 5 dollars; see user@localhost", None),
        ("Pay with 4111 1111 1111 1111 or 378282246310005.", "Pay with <CARD> or <CARD>."),
        ("卡号4111111111111111有效", "卡号<CARD>有效"),
        ("Your order number is 4111111111111112.", None),
        ("订单号1234567890123456已发货", None),
        ("Transfer to GB82 WEST 1234 5698 7654 32 AND wait.", "Transfer to <IBAN> AND wait."),
        ("账户DE89370400440532013000", "账户<IBAN>"),
        ("Transfer to GB82 WEST 1234 5698 7654 33 AND wait.", None),
        ("The server 8.8.8.8 answers, 2001:4860:4860::8888 too.", "The server <IP> answers, <IP> too."),
        ("服务器在8.8.8.8上", "服务器在<IP>上"),
        ("Use 127.0.0.1, 192.168.0.1 or 203.0.113.7; version 1.2.3.4; 300.1.1.1; 1.2.3.4.5", None),
        ("At 12:30:45 call std::vector::at in a::b::c", None),
        ("身份证号11010519491231002X，请核对", "身份证号<ID_CARD>，请核对"),
        ("编号110105194912310021，请核对", None),
        ("手机13812345678，或+86 139-1234-5678", "手机<PHONE>，或<PHONE>"),
        ("座机010-62345678、(021) 6888-1234", "座机<PHONE>、<PHONE>"),
        ("Call (212) 736-5000, 1-800-356-9377 or +44 20 7946 0018.", "Call <PHONE>, <PHONE> or <PHONE>."),
        ("合同编号213812345678共三份", None),
        ("The answer is 13812345678.5 metres, or 0.13812345678", None),
        ("从2019-2020年，12345678人，3.14159265358979", None),
        ("Between 1914-1918 and 1939-1945 there were 150,000,000 of them.", None),
        ("ISBN 978-3-16-148410-0", None),
        ("", None),
    ],
)
def test_personal_data_is_masked_and_near_misses_stay(text: str, masked_text: str | None) -> None:
    assert after(PersonalData(), text) == (masked_text or text)
    assert (judged(PersonalData(action="drop"), text).dropped is None) == (masked_text is None)


def test_the_mask_covers_every_turn_says_what_went_and_is_stable() -> None:
    verdict = judged(PersonalData(), "我的邮箱是li@163.com", "好的，我会写信到li@163.com，或打13812345678。")
    assert verdict.messages == (
        Message("user", "我的邮箱是<EMAIL>"),
        Message("assistant", "好的，我会写信到<EMAIL>，或打<PHONE>。"),
    )
    assert verdict.tags == {"personal_data": "email phone"}
    assert verdict.dropped is None
    assert judged(PersonalData(), *(turn.text for turn in verdict.messages)) == Verdict()
    later = judged(PersonalData(), "<EMAIL>", "call +44 20 7946 0018", personal_data="email")
    assert later.tags == {"personal_data": "email phone"}


KEY = "q7Zp2Xw9Lk4Tn8Vb3Rm6"
SECRETS = {"api_key": KEY, "note": "ok"}
WHOLE = Sample(
    id="s",
    messages=(
        Message("user", "hi", name="li@163.com"),
        Message(
            "assistant",
            None,
            reasoning="Her number is 13812345678.",
            tool_calls=(
                ToolCall("c1", "call", '{"to": 13812345678, "li@163.com": {"x": ["+44 20 7946 0018", 7]}, "n": 1.50}'),
                ToolCall("c2", "login", json.dumps(SECRETS)),
                ToolCall("c3", "cut", '{"to": "li@163.com'),
                ToolCall("c4", "plain", '{"a":1.50}'),
            ),
        ),
        Message("tool", "done", parts='[{"type": "image_url", "image_url": {"url": "ftp://u:Xk29fQ77@host/a.png"}}]'),
    ),
    tools='[{"name": "call", "description": "Ask li@163.com."}]',
)


def test_the_mask_covers_thoughts_calls_parts_and_tools() -> None:
    verdict = asyncio.run(PersonalData().judge(WHOLE, ScriptedAsk()))
    assert verdict.messages is not None
    asks, calls, tells = verdict.messages
    assert (asks.name, calls.reasoning) == ("<EMAIL>", "Her number is <PHONE>.")
    assert [call.arguments for call in calls.tool_calls] == [
        '{"to": "<PHONE>", "<EMAIL>": {"x": ["<PHONE>", 7]}, "n": 1.5}',
        json.dumps(SECRETS),
        '{"to": "<EMAIL>',
        '{"a":1.50}',
    ]
    assert verdict.tools == '[{"name": "call", "description": "Ask <EMAIL>."}]'
    assert tells == WHOLE.messages[2]
    verdict = asyncio.run(Secrets(action="mask").judge(WHOLE, ScriptedAsk()))
    assert verdict.messages is not None and verdict.tags == {"secrets": "password secret"}
    assert verdict.messages[1].tool_calls[1].arguments == json.dumps({"api_key": "<SECRET>", "note": "ok"})
    assert json.loads(verdict.messages[2].parts or "")[0]["image_url"]["url"] == "ftp://u:<PASSWORD>@host/a.png"
    assert asyncio.run(Secrets().judge(WHOLE, ScriptedAsk())).dropped == "secrets: has password"


def test_two_names_that_become_one_keep_what_they_hold() -> None:
    call = ToolCall(None, "f", '{"li@163.com": 1, "wu@163.com": 2}')
    sample = Sample("s", (Message("user", "q"), Message("assistant", None, tool_calls=(call,))))
    verdict = asyncio.run(PersonalData().judge(sample, ScriptedAsk()))
    assert verdict.messages is not None
    assert verdict.messages[1].tool_calls[0].arguments == '{"<EMAIL>": 1, "<EMAIL> (2)": 2}'


def test_only_what_is_looked_for_is_found_and_a_drop_names_it() -> None:
    text = "a@b.com, 13812345678"
    assert after(PersonalData(looks_for=("phone",)), text) == "a@b.com, <PHONE>"
    assert judged(PersonalData(action="drop"), text).dropped == "personal_data: has email"
    assert judged(PersonalData(action="drop"), "11010519491231002X").dropped == "personal_data: has id card"


def test_of_overlapping_spans_the_first_found_stays() -> None:
    spans = without_overlaps([MaskSpan(4, 8, "b"), MaskSpan(0, 5, "late"), MaskSpan(0, 2, "a")])
    assert spans == [MaskSpan(0, 2, "a"), MaskSpan(4, 8, "b")]
    assert masked("0123456789", spans) == "<A>23<B>89"


def fake_presidio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the three libraries behind `analyzer`, which are not installed with the project."""

    class Analyzer:
        def __init__(self, **settings: Any) -> None:
            self.languages = settings["supported_languages"]

        def analyze(self, text: str, *, language: str, entities: list[str], **_: Any) -> list[Any]:
            assert language in self.languages
            place = text.find("Ada")
            found = types.SimpleNamespace(start=place, end=place + 3, entity_type=entities[0])
            return [found] if place >= 0 else []

    class Registry:
        def __init__(self, **_: Any) -> None: ...

        def load_predefined_recognizers(self, **_: Any) -> None: ...

    presidio = types.ModuleType("presidio_analyzer")
    nlp = types.ModuleType("presidio_analyzer.nlp_engine")
    spacy = types.ModuleType("spacy")
    vars(presidio).update(AnalyzerEngine=Analyzer, RecognizerRegistry=Registry)
    vars(nlp).update(SpacyNlpEngine=lambda models: types.SimpleNamespace(models=models))
    vars(spacy).update(load=str.upper, blank=str.upper)
    for name, module in (("presidio_analyzer", presidio), ("presidio_analyzer.nlp_engine", nlp), ("spacy", spacy)):
        monkeypatch.setitem(sys.modules, name, module)


def test_presidio_adds_what_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_presidio(monkeypatch)
    step = PersonalData(presidio=("PERSON",))
    prepared = asyncio.run(step.prepare(Snapshot(0), None, ScriptedAsk()))
    assert asyncio.run(step.prepare(Snapshot(1), prepared, ScriptedAsk())) is prepared
    ask = ScriptedAsk(prepared=prepared)
    both = Sample(id="s", messages=(Message("user", "Ada has a@b.com"), Message("assistant", "Ada的邮箱是什么呢？")))
    verdict = asyncio.run(step.judge(both, ask))
    assert verdict.messages is not None
    assert [turn.text for turn in verdict.messages] == ["<PERSON> has <EMAIL>", "Ada的邮箱是什么呢？"]


def test_presidio_that_is_not_installed_is_an_error_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(JobError, match="install presidio-analyzer"):
        asyncio.run(PersonalData(presidio=("PERSON",)).prepare(Snapshot(0), None, ScriptedAsk()))
    assert asyncio.run(PersonalData().prepare(Snapshot(0), None, ScriptedAsk())) is None


KEY = "9fJ2kQ7xLw4Zm8TnB3vRc6YdH1sGp5KaW0eU"
"""36 signs without meaning; the forms are put together below, so that no scanner takes this file for a leak."""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Use AKIA" + "Q3EGZ7TMPLW2KFVA in the call", "aws_key"),
        ("令牌是ghp_" + KEY + "，请保密", "github_token"),
        ("github_pat_" + (KEY * 3)[:82], "github_token"),
        ("glpat-" + KEY[:20], "gitlab_token"),
        ("xoxb-" + "17653672481-" + KEY[:24], "slack_token"),
        ("https://hooks.slack.com/services/" + "T0A1B2C3D/B4E5F6G7H/" + KEY[:24], "slack_webhook"),
        ("AIza" + KEY[:35], "google_key"),
        ("GOCSPX-" + KEY[:28], "google_secret"),
        ("sk_live_" + KEY[:24], "stripe_key"),
        ("sk-proj-" + KEY + KEY, "model_api_key"),
        ("hf_" + KEY[:34], "huggingface_token"),
        ("npm_" + KEY, "registry_token"),
        ("SG." + KEY[:22] + "." + (KEY * 2)[:43], "sendgrid_key"),
        ("8130957264:AA" + KEY[:33], "telegram_token"),
        ("LTAI" + KEY[:20], "alibaba_key"),
        ("AKID" + KEY[:32], "tencent_key"),
        ("eyJ" + KEY[:20] + ".eyJ" + KEY + "." + KEY, "jwt"),
        ("-----BEGIN RSA PRIVATE KEY-----\n" + KEY + KEY + "\n-----END RSA PRIVATE KEY-----", "private_key"),
        ("postgres://admin:" + "h7Fk2pQz@db.internal/main", "password"),
        ('api_key = "' + KEY[:24] + '"', "secret"),
        ("数据库密码：" + KEY[:18], "secret"),
        ("The access token is " + KEY + ".", "secret"),
        ('{"client_secret": "3f9a1c07e5b2d8460f1e9c7a5d3b8e02"}', "secret"),
    ],
)
def test_secrets_are_found_by_form_and_by_randomness(text: str, what: str) -> None:
    assert judged(Secrets(), "How?", text).dropped == f"secrets: has {what.replace('_', ' ')}"
    hidden = judged(Secrets(action="mask"), text)
    assert hidden.messages is not None and f"<{what.upper()}>" in hidden.messages[0].text
    assert KEY[:18] not in hidden.messages[0].text
    assert hidden.tags == {"secrets": what}


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE is the key of the manual.",
        "api_key = 'YOUR_API_KEY_GOES_HERE_1234'",
        "export TOKEN=xxxxxxxxxxxxxxxxxxxxxxxx1",
        "Set ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx first.",
        "password = correcthorsebatterystaple",
        "password: aaaa1111aaaa1111aaaa1111",
        "The commit is 9f8e7d6c5b4a39281706f5e4d3c2b1a098765432.",
        "A PEM file starts with -----BEGIN PRIVATE KEY----- and goes on.",
        "https://user:password@host.net/path",
        "The secret is to whisk the eggs for a long time.",
        "密码是一串字符，建议至少16位，并且包含数字。",
        "密码：请输入您的密码",
        "skip sk-learn-is-a-library-for-machine-learning-in-python",
        "def get_token(self): return self.token_from_the_environment_of_process",
        "",
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert judged(Secrets(), text, text) == Verdict()


def test_entropy_is_that_of_shannon() -> None:
    """Shannon 1948, section 6: one bit for two equally likely signs, two for four, none for one."""
    assert (entropy("abab"), entropy("abcd"), entropy("aaaa"), entropy("")) == (1.0, 2.0, 0.0, 0.0)


LISTED = Blocklist(words=("ass", "kill yourself", "日本人", "傻逼", "C++"), patterns=(r"\bviagra\d*",))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("You ASS!", "ass"),
        ("A class about grass", ""),
        ("ass_1 and 2ass", ""),
        ("kill  yourself, he said", "kill  yourself"),
        ("kill yourselves", ""),
        ("buy VIAGRA24 now", "viagra24"),
        ("I like c++.", "c++"),
        ("他是日本人", "日本人"),
        ("今日本人很忙", ""),
        ("真是大傻逼啊", "傻逼"),
        ("傻瓜逼近了", ""),
        ("ｋｉｌｌ ｙｏｕｒｓｅｌｆ", "kill yourself"),
        ("你这个ass真讨厌", "ass"),
        ("", ""),
    ],
)
def test_listed_words_are_whole_in_any_script(text: str, found: str) -> None:
    assert LISTED.finds(text) == found
    assert (judged(LISTED, "Say it", text).dropped == "blocklist: has a listed word") == bool(found)


def test_the_blocklist_reads_the_roles_that_it_is_told() -> None:
    step = Blocklist(words=("hell",), roles=("assistant",))
    assert judged(step, "What the hell?", "Nothing.").dropped is None
    assert judged(step, "What?", "Oh hell.").dropped == "blocklist: has a listed word"


def test_an_empty_blocklist_and_a_broken_pattern_are_refused() -> None:
    for settings in ({}, {"words": (" ",)}, {"patterns": ("(",)}):
        with pytest.raises(ValidationError):
            Blocklist(**settings)
