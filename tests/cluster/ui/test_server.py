"""The server: who may ask, what is refused, what is answered, and how `gristmill ui` starts and ends."""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.sample import to_table
from gristmill.cluster.jobs.state import RUNS
from gristmill.cluster.store.ledger import Ledger, lock
from gristmill.cluster.store.store import Manifest, Store
from gristmill.cluster.ui import views
from gristmill.cluster.ui.server import FILES, HEADERS, Server
from gristmill.cluster.ui.views import Funnel
from tests.cluster.store.test_store import flip
from tests.cluster.ui.conftest import NASTY, ROWS, SEEDS, Page, made, put


def test_without_the_token_nothing_is_told(page: Page) -> None:
    token = page.server.token
    for given in ("", "Bearer ", "Bearer wrong", f"Basic {token}", f"Bearer {token}x", f"bearer {token}", "Bearer é"):
        for path in ("/api/store", "/api/rows?dataset=generate-1", "/api/decide", "/api/none", "/none"):
            for body in (None, {"dataset": "generate-1"}):
                status, value = page.ask(path, body, {"Authorization": given})
                assert (status, list(value)) == (401, ["error"])
    assert page.ask("/api/store", None, {})[0] == 401


def test_a_name_that_leads_here_from_elsewhere_is_refused(page: Page) -> None:
    sent = {"Authorization": f"Bearer {page.server.token}"}
    for host in (
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil",
        "",
        "[::2]",
        "x@localhost",
    ):
        for path in ("/api/store", "/", "/page.js"):
            assert page.ask(path, None, {**sent, "Host": host})[0] == 421
    for host in ("localhost", "localhost:9000", "127.0.0.1:1", "[::1]:80"):  # through a tunnel the port is another one
        assert page.ask("/api/store", None, {**sent, "Host": host})[0] == 200


def test_the_files_of_the_page_have_its_policy_and_name_nothing_outside(page: Page) -> None:
    for path in FILES:
        with urllib.request.urlopen(page.address + path, timeout=10) as answer:
            text = answer.read().decode()
            assert {name: answer.headers[name] for name in HEADERS} == HEADERS
            assert page.server.token not in text
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        assert not re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|<style|style=| on\w+=\"", text
        )
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_no_path_climbs_out_of_the_page(page: Page) -> None:
    for path in ("/../api.py", "/page/../api.py", "/%2e%2e/api.py", "/page.css/..", "//etc/passwd", "/__init__.py"):
        connection = http.client.HTTPConnection("127.0.0.1", page.server.server_address[1], timeout=10)
        connection.request("GET", path, headers={"Authorization": f"Bearer {page.server.token}"})
        answer = connection.getresponse()
        assert answer.status == 404
        assert b"import" not in answer.read()
        connection.close()


def test_no_name_leads_out_of_the_store(page: Page) -> None:
    for name in ("../store/generate-1", "runs/../generate-1", ".reviews", "", "/etc", "nul\0", "generate-1/", "absent"):
        for path in ("/api/dataset", "/api/rows", "/api/row"):
            assert page.ask(path, dataset=name)[0] == 404
        assert page.ask("/api/run", name=name)[0] == 404
        assert page.ask("/api/save", {"dataset": name})[0] == 404


WRONG: list[tuple[dict[str, str], str]] = [
    ({"page": "-1"}, "page: is '-1', must be a whole number"),
    ({"page": "9" * 30}, "must be a whole number"),
    ({"low": "nan", "score": "judge"}, "low: is 'nan', must be a number"),
    ({"high": "many"}, "must be a number"),
    ({"state": "both"}, "must be kept or dropped"),
    ({f"key{n}": "1" for n in range(60)}, "must have at most 50 fields"),
    ({"tag": "topic"}, "must be a JSON list of its name and its value"),
    ({"tag": '["topic", 3]'}, "must be a JSON list of its name and its value"),
    ({"decision": "maybe"}, "must be any, accepted"),
]


def test_a_wrong_query_is_refused_in_words(page: Page) -> None:
    page.rows()
    for asked, said in WRONG:
        status, value = page.ask("/api/rows", dataset="generate-1", **asked)
        assert status == 400
        assert said in value["error"]


REFUSED: list[tuple[object, int]] = [
    (b"{", 400),
    (b"[]", 400),
    (b'{"dataset":"generate-1","dataset":"x"}', 400),
    ({"dataset": "generate-1", "row": 0, "verdict": "liked"}, 400),
    ({"dataset": "generate-1", "row": -1, "verdict": "accepted"}, 400),
    ({"dataset": "generate-1", "row": 7, "verdict": "accepted"}, 404),
    ({"dataset": "generate-1", "row": 0, "verdict": "accepted", "more": 1}, 400),
    ({"dataset": "generate-1", "row": 0, "verdict": "accepted", "texts": ["a", "b"]}, 400),
    ({"dataset": "generate-1", "row": 0, "verdict": "edited", "texts": ["a"]}, 400),
    (b'{"dataset":"generate-1","row":0,"verdict":"rejected","note":"\\ud800"}', 400),
    ({"dataset": "absent", "row": 0, "verdict": "accepted"}, 404),
]


def test_a_wrong_decision_is_refused_and_not_stored(page: Page, filled: Store) -> None:
    page.rows()
    for body, status in REFUSED:
        assert page.ask("/api/decide", body)[0] == status, body
    assert not filled.exists(".reviews")


def test_a_large_or_unsized_request_is_refused(page: Page) -> None:
    for length in ("999999999999", "9" * 5_000, "-5", "x", "²", ""):
        connection = http.client.HTTPConnection("127.0.0.1", page.server.server_address[1], timeout=10)
        connection.putrequest("POST", "/api/save")
        connection.putheader("Authorization", f"Bearer {page.server.token}")
        connection.putheader("Content-Length", length.encode("latin-1"))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()


def test_rows_are_searched_and_filtered(page: Page) -> None:
    assert page.rows() == [1, 2, 3, 4, 5, 6, 7]
    assert page.rows(words="rivers") == [3, 5]
    assert page.rows(words="黄河") == [1]
    assert page.rows(state="dropped", reason="length") == [4, 6]
    assert page.rows(score="judge", low="3", sort="lowest:judge") == [3, 2, 1]
    assert page.rows(tag='["topic", "<b>code</b>"]') == [2]
    [row] = page.get("/api/rows", dataset="generate-1", words="onerror")["rows"]
    assert row["instruction"] == NASTY, "the text as it is: the page never reads it as HTML"


def test_a_row_has_its_relatives(page: Page) -> None:
    copy = page.get("/api/row", dataset="generate-1", row=4, relatives=1)
    while copy["waiting"]:
        copy = page.get("/api/row", dataset="generate-1", row=4, relatives=1)
    kin = copy["relatives"]
    assert [one["id"] for one in kin["named"]] == [ROWS[2].id]
    assert [[(one["dataset"], one["id"]) for one in some] for some in kin["parents"]] == [[("ingest-1", SEEDS[1].id)]]
    assert [one["id"] for one in kin["siblings"]] == [ROWS[0].id, ROWS[2].id]
    chain = page.get("/api/row", dataset="generate-1", row=6, relatives=1)["relatives"]["parents"]
    assert [[one["id"] for one in some] for some in chain] == [[ROWS[2].id], [SEEDS[1].id]]
    assert [
        one["id"] for one in page.get("/api/row", dataset="generate-1", row=2, relatives=1)["relatives"]["children"]
    ] == [ROWS[6].id]


def test_scores_that_are_no_numbers_do_not_break_the_page(page: Page, filled: Store) -> None:
    put(filled, "odd-1", [made(1, "a", "b", scores={"nan": float("nan"), "inf": float("inf"), "one": 1.0})], {})
    [row] = page.get("/api/rows", dataset="odd-1", sort="highest:inf")["rows"]
    assert row["scores"] == {"inf": "inf", "nan": "nan", "one": 1.0}
    scores = page.get("/api/dataset", dataset="odd-1")["scores"]
    assert (scores["nan"]["kept"], scores["inf"]["kept"], sum(scores["one"]["kept"])) == ([], [], 1)


def test_decisions_are_counted_shown_withdrawn_and_saved(page: Page, filled: Store) -> None:
    assert page.decide(0, "accepted")[1]["decisions"] == {"accepted": 1, "rejected": 0, "edited": 0}
    page.decide(1, "rejected", note=" no task ")
    page.decide(2, "edited", texts=["Name four rivers", "Elbe, Oder, Rhine, Main"])
    assert page.decide(0, None)[1]["decisions"] == {"accepted": 0, "rejected": 1, "edited": 1}
    assert page.rows(decision="any") == [2, 3]
    assert page.rows(decision="rejected") == [2]
    shown = page.get("/api/row", dataset="generate-1", row=1)
    assert (shown["verdict"], shown["decision"]["by"], shown["decision"]["note"]) == ("rejected", "Mei", "no task")
    status, made = page.ask("/api/save", {"dataset": "generate-1"})
    assert (status, made["rows"], made["kept"]) == (200, 8, 3)
    assert filled.manifest(made["dataset"]).inputs == {"samples": "generate-1"}
    assert made["dataset"] in [one["dataset"] for one in page.get("/api/store")["datasets"]]


def test_a_second_page_cannot_decide(page: Page, filled: Store) -> None:
    page.rows()  # the index is there
    with lock(filled, ".reviews/generate-1"):
        status, value = page.decide(0, "accepted")
    assert (status, "another `gristmill ui`" in value["error"]) == (409, True)


def test_an_altered_dataset_is_an_error_in_words(page: Page, filled: Store) -> None:
    flip(filled.folder("generate-1") / "shard-00000.arrow")
    status, value = page.ask("/api/rows", dataset="generate-1")
    while status == 400:
        status, value = page.ask("/api/rows", dataset="generate-1")
    assert (status, "does not match its digest" in value["error"]) == (500, True)


def test_the_funnel_of_a_running_job_counts_what_is_committed(page: Page, filled: Store) -> None:
    folder = f"{RUNS}/night-1"
    recipe = {"name": "night", "jobs": {"generate": {}}, "outputs": {"generate": "generate-2", "select": "select-2"}}
    filled.write_json(recipe, folder, "recipe.json")
    ledger = Ledger(filled, folder)
    ledger.append("run_started")
    ledger.append("job_done", job="ingest", output="ingest-1", figures={})
    ledger.append("job_started", job="generate", output="generate-2")
    ledger.append("shards_planned", job="generate", shards=4, committed=0)
    with lock(filled, folder):
        filled.commit_shard("generate-2", "shard-00000", to_table(ROWS[:4]))
        ledger.append("shard_done", job="generate")
        first = page.get("/api/run", name="night-1")
        assert first["state"] == "running"
        ingest, generate, select = first["jobs"]
        assert (ingest["complete"], ingest["rows"], ingest["kept"], ingest["reasons"]) == (True, 2, 2, [])
        assert (generate["shards_done"], generate["shards"], generate["rows"], generate["kept"]) == (1, 4, 4, 3)
        assert generate["reasons"] == [["length: … word, must be at least …", 1]]
        assert (select["state"], select["rows"]) == ("waiting", 0)
        raw = filled.commit_shard("generate-2", "raw-00001", to_table(ROWS[4:]))
        filled.commit_shard(
            "generate-2", "raw-00000.0+2", to_table(ROWS[:2])
        )  # its final one is there, it is not deleted yet
        assert page.get("/api/run", name="night-1")["jobs"][1]["rows"] == 7
        assert page.get("/api/store")["runs"][0]["state"] == "running"
    assert page.get("/api/run", name="night-1")["state"] == "stopped"
    filled.commit(Manifest("generate-2", "samples", "generate", "f" * 32, {}, {}, (raw,)))
    assert page.get("/api/run", name="night-1")["jobs"][1]["complete"]


def command(store: Store, *more: str) -> list[str]:
    return [sys.executable, "-m", "gristmill.cluster.cli.main", "ui", "--store", store.uri, "--port", "0", *more]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_starts_answers_and_ends_with_code_0(number: signal.Signals, filled: Store, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    with subprocess.Popen(
        command(filled, "--by", "Mei"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(rf"ui: {filled.uri} at (http://127\.0\.0\.1:\d+)/#token=([\w-]{{32}})\n", line)
        assert found, line
        request = urllib.request.Request(f"{found[1]}/api/store", headers={"Authorization": f"Bearer {found[2]}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert b'"by": "Mei"' in answer.read()
        begin = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - begin < 10
    assert (process.returncode, out.splitlines()[-1], err) == (0, "ui: ended", "")


def test_a_port_in_use_and_a_missing_store_are_one_line(
    page: Page, filled: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    port = str(page.server.server_address[1])
    assert main(["ui", "--store", filled.uri, "--port", port]) == 2
    assert re.fullmatch(
        rf"gristmill: --port {port}: cannot be listened on [^\n]+ must be free; [^\n]+\n", capsys.readouterr().err
    )
    assert main(["ui", "--store", filled.uri, "--port", "99999"]) == 2
    assert main(["ui", "--store", f"{filled.uri}-absent"]) == 2
    assert main(["ui", "--store", filled.uri, "--by", "\ud800"]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_two_servers_have_two_tokens(filled: Store, tmp_path: Path) -> None:
    servers = [Server(filled, 0, "Mei", tmp_path) for _ in range(2)]
    assert len({server.token for server in servers}) == 2
    for server in servers:
        server.server_close()


def test_reasons_are_counted_over_several_requests(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.write_json({"name": "night", "outputs": {"generate": "generate-1"}}, f"{RUNS}/night-1", "recipe.json")
    Ledger(filled, f"{RUNS}/night-1").append("run_started")
    funnel = Funnel(filled)
    monkeypatch.setattr(views, "COUNTING_S", -1.0)
    [job] = funnel.run("night-1")["jobs"]
    assert (job["rows"], job["kept"], job["reasons"], job["uncounted"]) == (7, 4, [], 3)
    monkeypatch.setattr(views, "COUNTING_S", 60.0)
    [job] = funnel.run("night-1")["jobs"]
    assert (sum(number for _, number in job["reasons"]), job["uncounted"]) == (3, 0)
