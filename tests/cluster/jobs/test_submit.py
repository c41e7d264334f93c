"""`gristmill submit`: what is sent, and what is refused before anything is."""

from pathlib import Path

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.jobs.recipe import load
from gristmill.cluster.jobs.submit import LARGEST, files_of, pack, store_problem

OWN = "from gristmill.selection.contracts import Selector\n\n\nclass Most(Selector):\n"
OWN += "    def pick(self, view, rng):\n        raise NotImplementedError\n"


def recipe(folder: Path, source: str, *, steps: str = '{kind = "exact"}') -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "mill.toml"
    path.write_text(f'store = "/shared/runs"\n[select]\ninput = {source}\nsteps = [{steps}]\n', encoding="utf-8")
    return path


def test_the_recipe_its_inputs_and_its_own_steps_are_sent_and_nothing_else(tmp_path: Path) -> None:
    home = tmp_path / "home"
    steps = '{kind = "exact"}, {kind = "steps.py:Most"}, {kind = "decontaminate", sets = ["exam.jsonl"]}'
    path = recipe(home, '["data/*.jsonl", "/elsewhere/rows.jsonl", "s3://bucket/rows.jsonl"]', steps=steps)
    for name in ("data/a.jsonl", "data/b.jsonl", "data/c.csv", "exam.jsonl", "secret.txt"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text('{"text": "x"}\n')
    (home / "steps.py").write_text(OWN)
    sent = pack(load(path, look=False), tmp_path / "sent")
    assert list(map(str, sent)) == ["data/a.jsonl", "data/b.jsonl", "exam.jsonl", "mill.toml", "steps.py"]
    assert sorted(f for f in (tmp_path / "sent").rglob("*") if f.is_file()) == [tmp_path / "sent" / f for f in sent]
    assert (tmp_path / "sent" / "steps.py").read_text() == OWN


def test_what_cannot_be_sent_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    outside = load(recipe(tmp_path / "home", '"../rows.jsonl"'), look=False)
    with pytest.raises(JobError, match=r"\.\./rows\.jsonl: is outside the folder of the recipe, must be in it"):
        files_of(outside)
    with pytest.raises(JobError, match=r"none\.jsonl: absent, must be a file in the folder of the recipe"):
        files_of(load(recipe(tmp_path / "home", '"none.jsonl"'), look=False))
    with (tmp_path / "home" / "large.jsonl").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(JobError, match="must have at most 100"):
        pack(load(recipe(tmp_path / "home", '"large.jsonl"'), look=False), tmp_path / "sent")


def test_a_store_must_be_one_that_the_cluster_shares() -> None:
    assert "store: runs is relative" in store_problem("runs")
    assert store_problem("/shared/runs") == store_problem("s3://bucket/runs") == ""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--set", "store=runs"], "store: runs is relative"),
        (["--set", "store=s3://KEY:SECRET@bucket/runs"], "--set store: holds credentials, must not"),
        ([], "--address: absent, must be that of the cluster's dashboard"),
        (["--address", "auto"], "--address: auto, must be"),
        (["--address", "http://127.0.0.1:1"], "Failed to connect to Ray at address: http://127.0.0.1:1"),
        (["--env", "GRISTMILL_NO_SUCH_KEY"], "--env GRISTMILL_NO_SUCH_KEY: the variable is not set"),
    ],
)
def test_a_wrong_argument_ends_it_before_anything_is_sent(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}\n')
    assert main(["submit", str(recipe(tmp_path, '"rows.jsonl"')), *flags]) == 2
    assert said in capsys.readouterr().err
