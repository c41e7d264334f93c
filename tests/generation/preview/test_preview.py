"""The preview: calls are found for their samples, printed readably, and nothing is written."""

import asyncio
import io
import json
from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console

from gristmill.cluster.cli import main as cli
from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import EngineError
from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.models.engine import Choose, Engine, Reply, Request, Score, Write
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.store import Store
from gristmill.generation.engines.actors import LiveEngine
from gristmill.generation.preview.page import as_json, show
from gristmill.generation.preview.record import (
    ModelCall,
    Preview,
    Recorder,
    SampleTrace,
    assign_calls,
    first_draws,
    preview,
)
from tests.fakes import ScriptedEngine, open_hashing_encoder
from tests.generation.ground import WORK, job, with_seeds

KEPT = Sample(
    "a" * 32,
    (Message("user", "Name a [bold]river[/bold]."), Message("assistant", "尼罗河")),
    method="respond",
    scores={"judge": 4.2},
    tags={"language": "en"},
)
DROPPED = Sample("b" * 32, (), method="respond", dropped="length: answer too short")


def call(seed: int, text: str, prompt: str = "<|im_start|>user\nHi", scored: str | None = None) -> ModelCall:
    asked = (Message("user", "Hi"),)
    request = Write(asked, 16, seed) if scored is None else Score(asked, scored)
    return ModelCall("tiny", request, Reply(text, "stop", 12, 3, cached_tokens=8), prompt)


def test_calls_go_to_the_sample_whose_seeds_they_have_in_their_order() -> None:
    first, second = (call(ids.request_seed(KEPT.id, n), f"call {n}") for n in range(2))
    other, nobody = call(ids.request_seed(DROPPED.id, 0), "other"), call(12345, "shared")
    scored = call(0, "", scored="尼罗河")
    found = assign_calls([KEPT, DROPPED], [second, nobody, scored, other, first], {"model": "tiny"})
    assert found.samples == (SampleTrace(KEPT, (first, second, scored)), SampleTrace(DROPPED, (other,)))
    assert found.shared == (nobody,)


def printed(shown: Preview, *, terminal: bool) -> str:
    out = io.StringIO()
    colours: Literal["standard", "auto"] = "standard" if terminal else "auto"
    show(shown, Console(file=out, force_terminal=terminal, width=60, highlight=False, color_system=colours))
    return out.getvalue()


SHOWN = Preview((SampleTrace(KEPT, (call(1, "word " * 40),)), SampleTrace(DROPPED, ())), (call(3, "for all"),))


def test_without_a_terminal_there_are_no_colours_and_no_broken_lines() -> None:
    text = printed(SHOWN, terminal=False)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "--- 1 of 2  respond ---"
    assert "call 1  tiny, 12 prompt tokens, 8 of them cached" in lines
    assert "    <|im_start|>user" in lines and "    " + "word " * 40 in lines
    assert "scores  judge 4.2" in lines and "tags  language=en" in lines and "verdict  kept" in lines
    assert "no call of the model" in lines and "verdict  dropped  length: answer too short" in lines
    assert lines[-1] == "2 samples, 1 kept and 1 dropped; nothing was written"


def test_on_a_terminal_lines_are_coloured_and_fit() -> None:
    text = printed(SHOWN, terminal=True)
    assert "\x1b[1;32mkept" in text and "\x1b[1;31mdropped" in text
    bare = Console(file=io.StringIO()).render_str(text, markup=False)
    assert "──" in bare.plain


def test_a_beginning_that_was_printed_is_not_printed_again() -> None:
    long = "\n".join(f"line {n}" for n in range(12))
    calls = (call(1, "a", long + "\nfirst"), call(2, "b", long + "\nsecond"), call(3, "c", "line 0\nline 1\nthird"))
    lines = printed(
        Preview((SampleTrace(KEPT, calls[:1]), SampleTrace(DROPPED, calls[1:]))), terminal=False
    ).splitlines()
    assert lines.count("    line 5") == 1 and lines.count("    line 1") == 2
    place = lines.index("    … 12 lines as in sample 1, call 1")
    assert lines[place + 1] == "    second" and "    third" in lines


def test_markup_of_a_model_is_text() -> None:
    odd = Preview((SampleTrace(KEPT, (call(1, "[/red] [bold]x[/bold]", "[user]\n[link=x]"),)),))
    assert "[/red] [bold]x[/bold]" in printed(odd, terminal=False)


def test_choices_are_shown_with_their_probabilities_and_scores_with_theirs() -> None:
    grade = ModelCall("tiny", Choose((), ("1", "2"), 1), Reply("2", "stop", 9, 1, {"1": 0.25, "2": 0.75}), "p")
    score = ModelCall("tiny", Score((), "x"), Reply("", "stop", 9, 4, logprob=-3.5), "p")
    text = printed(Preview((SampleTrace(KEPT, (grade, score)),)), terminal=False)
    assert "    2 75.0%  1 25.0%" in text and "the likeliest choice" in text
    assert "scored  4 tokens, log-probability -3.50" in text


def test_json_has_everything_and_is_json() -> None:
    value = json.loads(json.dumps(as_json(SHOWN)))
    assert value["samples"][0]["messages"][1] == {"role": "assistant", "content": "尼罗河"}
    assert value["samples"][0]["calls"][0]["reply"]["text"] == "word " * 40
    assert value["samples"][1]["dropped"] == "length: answer too short" and len(value["shared"]) == 1


@pytest.mark.parametrize(
    ("recipe", "says"), [("[select]\ninput = 'x.jsonl'\n", "has no section [generate]"), ("", "no job")]
)
def test_a_recipe_that_generates_nothing_is_refused(
    recipe: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.jsonl").write_text('{"instruction": "Name a river.", "output": "The Nile."}\n')
    (tmp_path / "r.toml").write_text(recipe)
    assert cli.main(["preview", str(tmp_path / "r.toml")]) == 2
    assert says in capsys.readouterr().err


def test_draws_are_the_first_ones_of_every_method_by_weight(tmp_path: Path) -> None:
    store = with_seeds(Store(str(tmp_path / "store")))
    two = job(methods=[{"kind": "self_instruct", "weight": 3}, {"kind": "respond"}])
    shards = first_draws(two, store, WORK, 8)
    assert [sum(shard.method == m for shard in shards) for m in (0, 1)] == [6, 2]
    assert [shard.first for shard in shards if shard.method == 0] == list(range(6))
    assert {(shard.draws, shard.round) for shard in shards} == {(1, 0)}
    every = first_draws(job(methods=[{"kind": "respond"}], target="all"), store, WORK, 100)
    assert len(every) == 9, "no more than there are inputs"


class Broken(ScriptedEngine):
    """Does not start."""

    async def ready(self) -> dict[str, object]:
        raise EngineError("engine tiny: did not start: out of memory")


def opened(settings: Engine) -> LiveEngine:
    return ScriptedEngine(settings)


def broken(settings: Engine) -> LiveEngine:
    return Broken(settings)


RECIPE = """
[generate]
input = "seeds.jsonl"
target = 50
[generate.engine]
cpus = 1
[generate.engines.grader]
cpus = 1
[[generate.methods]]
kind = "self_instruct"
[[generate.filters]]
kind = "length"
[[generate.filters]]
kind = "judge"
min_score = 2.5
engine = "grader"
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_preview_is_what_the_job_would_make_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text(RECIPE)
    seeds = [{"instruction": f"Write {n} lines about the sea.", "output": "Waves."} for n in range(9)]
    (tmp_path / "seeds.jsonl").write_text("\n".join(map(json.dumps, seeds)))
    recipe, works = open_recipe(tmp_path / "r.toml")
    found = preview(recipe, works["generate"], 3, Screen(quiet=True), (opened, open_hashing_encoder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.toml", "seeds.jsonl"], "something was written"
    assert len(found.samples) == 3 and not found.shared
    for shown in found.samples:
        request = shown.calls[0].request
        assert isinstance(request, Write) and request.seed == ids.request_seed(shown.sample.id, 0)
        assert shown.calls[0].prompt.startswith("[") and shown.calls[0].reply.text
        assert shown.sample.origin is not None
        assert sum(c.reply.prompt_tokens for c in shown.calls) == shown.sample.origin.prompt_tokens
    judged = [shown for shown in found.samples if "judge" in shown.sample.scores]
    graded = [isinstance(shown.calls[-1].request, Choose) for shown in judged]
    assert judged and all(graded), "the other engine is recorded too"
    again = preview(recipe, works["generate"], 2, Screen(quiet=True), (opened, open_hashing_encoder))
    assert [shown.sample for shown in again.samples] == [shown.sample for shown in found.samples[:2]]
    with pytest.raises(EngineError, match="out of memory"):
        preview(recipe, works["generate"], 2, Screen(quiet=True), (broken, open_hashing_encoder))


def test_a_recorder_shows_what_the_engine_says_it_renders() -> None:
    class Templated(ScriptedEngine):
        def render(self, request: Request) -> str:
            return f"<s>{request.messages[0].text}"

    async def run() -> list[ModelCall]:
        recorder = Recorder(Templated(Engine()), "tiny")
        reply = await recorder.ask(Write((Message("user", "Hi"),), 16, 1))
        assert recorder.calls[0].reply == reply and recorder.stats()["running"] == 0
        plain = Recorder(ScriptedEngine(Engine()), "tiny")
        await plain.ask(Write((Message("user", "Hi"),), 16, 1, prefix="Well"))
        return [*recorder.calls, *plain.calls]

    prompts = [one.prompt for one in asyncio.run(run())]
    assert prompts == ["<s>Hi", "[user]\nHi\n[assistant]\nWell"]
