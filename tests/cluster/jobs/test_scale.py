"""What a plan says of a cluster of a given size: by hand, for the bounds, and what is not known."""

import json
from pathlib import Path

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.cli.text import size_lines
from gristmill.cluster.jobs.job import Plan
from gristmill.cluster.jobs.scale import Size, scale


def plan(**more: float) -> Plan:
    """A million drafts in 10,000 shards, of which one engine makes 2 a second."""
    found = Plan("generate", "generate-1", shards=10_000, samples=1_000_000, gpus=1, spreads=True, process_s=500_000)
    for name, value in more.items():
        setattr(found, name, value)
    return found


def test_the_time_is_that_of_the_engines_or_of_the_driver_whichever_is_longer() -> None:
    found = scale(plan(driver_s=64.0, driver_bytes=2**30), Size(64, 8, price=10.0))
    assert (found.processes, found.bound, found.driver_gib, found.requests) == (512, "engines", 1.0, 90_000)
    assert found.hours == pytest.approx(500_000 / 512 / 3600)
    assert found.money == pytest.approx(500_000 / 512 / 3600 * 64 * 10)
    slow = scale(plan(driver_s=3600.0), Size(64, 8))
    assert (slow.hours, slow.bound, slow.money) == (1.0, "driver", None)


def test_an_engine_of_several_gpus_is_on_one_machine_and_no_engine_has_less_than_a_shard() -> None:
    assert scale(plan(gpus=3), Size(2, 8)).processes == 4
    assert scale(plan(gpus=0.5), Size(2, 1)).processes == 4
    assert scale(plan(shards=5), Size(64, 8)).processes == 5
    none = scale(plan(gpus=16), Size(2, 8))
    assert (none.processes, none.hours) == (0, None)
    assert any("takes 16 GPUs, a machine has 8" in line for line in size_lines([plan(gpus=16)], Size(2, 8)))


def test_what_was_not_measured_is_not_known() -> None:
    unknown = scale(plan(process_s=0, driver_s=64.0), Size(4, 1, price=3.0))
    assert (unknown.hours, unknown.bound, unknown.money) == (None, "", None)
    lines = list(size_lines([plan(process_s=0), Plan("train", "train-1", actors=2)], Size(4, 1)))
    assert lines[2].split() == ["generate", "4", "?", "?", "?", "90,000", "?"]
    assert lines[3].split() == ["train", "2", "?", "?", "?", "?", "?"]
    assert any("the speed of an engine is not known: run a few hundred samples" in line for line in lines)
    alone = scale(Plan("select", "select-1", actors=1, driver_s=7200.0), Size(4, 1))
    assert (alone.hours, alone.bound, alone.processes, alone.requests) == (2.0, "driver", 1, None)


def test_plan_prints_it_for_people_and_for_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeds.jsonl").write_text('{"instruction": "Name a bird.", "output": "A wren."}\n', encoding="utf-8")
    (tmp_path / "mill.toml").write_text(
        '[generate]\ninput = "seeds.jsonl"\ntarget = 100000\n[select]\n', encoding="utf-8"
    )
    assert main(["plan", "mill.toml"]) == 0
    assert "machines" not in capsys.readouterr().out
    assert main(["plan", "mill.toml", "--nodes", "64", "--gpus", "8", "--price", "98"]) == 0
    said = capsys.readouterr().out
    assert "on 64 machines of 8 GPUs:" in said and "0.064 ms of a core and 27 bytes a draft" in said
    assert main(["plan", "mill.toml", "--nodes", "64", "--json"]) == 0
    size = json.loads(capsys.readouterr().out)["size"]
    assert (size["nodes"], size["gpus"], [job["job"] for job in size["jobs"]]) == (64, 1, ["generate", "select"])
    assert size["jobs"][0]["driver_gib"] > 0.2
    assert size["jobs"][1]["hours"] is None, "the time of embedding is not known"
    for key, wrong in (("--nodes", "0"), ("--nodes", "x"), ("--gpus", "-1"), ("--price", "nan"), ("--price", "-3")):
        with pytest.raises(SystemExit) as caught:
            main(["plan", "mill.toml", f"{key}={wrong}"])
        assert caught.value.code == 2 and f"'{wrong}', must be a" in capsys.readouterr().err
