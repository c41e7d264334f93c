"""The ledger: what a kill leaves of it, and the state that follows from it."""

import pytest

from gristmill.cluster.contract.errors import BusyError
from gristmill.cluster.store.ledger import LEDGER, Ledger, fold, lock, read_lines, state
from gristmill.cluster.store.store import Store


def test_a_line_that_a_kill_cut_is_ignored_and_the_next_event_is_not_lost(store: Store) -> None:
    Ledger(store, "run").append("run_started")
    with (store.folder("run") / LEDGER).open("a", encoding="utf-8") as out:
        out.write('{"time": 1, "event": "run_fai')
    assert [fold([line]).state for line in read_lines(store, "run")] == ["running"]
    Ledger(store, "run").append("run_done")
    assert len(read_lines(store, "run")) == 2
    assert fold(read_lines(store, "run")).state == "done"


def test_facts_may_hold_any_letters(store: Store) -> None:
    Ledger(store, "run").append("run_failed", error="断电\u2028line\nnext \x85")
    assert fold(read_lines(store, "run")).error == "断电\u2028line\nnext \x85"


def test_the_state_of_a_run_is_a_fold(store: Store) -> None:
    ledger = Ledger(store, "run")
    ledger.append("run_started", jobs=["generate", "select"])
    ledger.append("job_started", job="generate", output="generate-1")
    ledger.append("shards_planned", job="generate", shards=4, committed=0)
    for shard in range(2):
        ledger.append("shard_done", job="generate", shard=shard)
    state = fold(read_lines(store, "run"))
    assert (state.state, state.attempts) == ("running", 1)
    assert (state.jobs["generate"].shards_done, state.jobs["generate"].shards) == (2, 4)

    ledger.append("job_failed", job="generate")
    ledger.append("run_failed", error="engine died")
    state = fold(read_lines(store, "run"))
    assert (state.state, state.error, state.jobs["generate"].state) == ("failed", "engine died", "failed")

    again = Ledger(store, "run")
    again.append("run_started", jobs=["generate"])
    again.append("job_started", job="generate", output="generate-1")
    again.append("shards_planned", job="generate", shards=4, committed=2)
    for shard in (2, 3):
        again.append("shard_done", job="generate", shard=shard)
    again.append("job_done", job="generate", output="generate-1", figures={"rows": 8})
    again.append("job_done", job="select", output="select-1", reused=True)
    again.append("run_done")
    state = fold(read_lines(store, "run"))
    assert (state.state, state.attempts, state.error) == ("done", 2, "")
    assert state.jobs["generate"].shards_done == 4
    assert state.jobs["generate"].figures == {"rows": 8}
    assert [job.reused for job in state.jobs.values()] == [False, True]
    assert state.ended >= state.started > 0


def test_a_job_that_ran_when_the_run_ended_has_ended_too(store: Store) -> None:
    for event, ended in (("run_stopped", "stopped"), ("run_failed", "failed")):
        ledger = Ledger(store, event)
        ledger.append("run_started", jobs=["select"])
        ledger.append("job_done", job="ingest", output="ingest-1")
        ledger.append("job_started", job="select", output="select-1")
        ledger.append(event, error="interrupted by SIGTERM")
        run = fold(read_lines(store, event))
        assert (run.state, [job.state for job in run.jobs.values()]) == (ended, ["done", ended])


def test_lines_that_are_no_events_are_left_out(store: Store) -> None:
    ledger = Ledger(store, "run")
    ledger.append("run_started", jobs=["select"])
    path = store.folder("run") / "ledger.jsonl"
    for line in ("[]", "{}", '{"time": "x", "event": "run_done"}', '{"time": 1e99, "event": "run_done"}', "[" * 5000):
        path.write_text(f"{path.read_text()}{line}\n")
    path.write_text(
        path.read_text() + '{"time": 5, "event": "job_started"}\n{"time": 6, "event": "shard_done", "job": "a"}\n'
    )
    run = fold(read_lines(store, "run"))
    assert (run.state, run.ended, run.jobs["a"].shards_done) == ("running", 6, 1)


def test_no_ledger_is_an_empty_one(store: Store) -> None:
    assert read_lines(store, "run") == []
    assert fold([]).jobs == {}


def test_a_run_whose_driver_is_gone_has_stopped_and_a_second_driver_is_refused(store: Store) -> None:
    with lock(store, "runs/one"):
        ledger = Ledger(store, "runs/one")
        ledger.append("run_started")
        ledger.append("job_started", job="train", output="train-1")
        assert state(store, "runs/one").state == "running"
        with pytest.raises(BusyError, match="another process"), lock(store, "runs/one"):
            pass
    run = state(store, "runs/one")
    assert (run.state, run.jobs["train"].state) == ("stopped", "stopped")
