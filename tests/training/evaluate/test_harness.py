"""Tasks of lm-evaluation-harness as suites: the values are those of its own `simple_evaluate` on the same model."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.jobs.recipe import load
from gristmill.cluster.jobs.submit import files_of
from gristmill.cluster.models.engine import Reply, Request, Score
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.evaluate.scorers import harness as module
from gristmill.training.evaluate.scorers.contract import OWN
from gristmill.training.evaluate.scorers.harness import Harness
from gristmill.training.evaluate.suites import compare, freeze
from gristmill.training.evaluate.suites.ask import Part, Questions
from tests.training.evaluate.items import gathered_of
from tests.training.evaluate.test_reducers import measured
from tests.training.evaluate.test_scorers import scorer

TEMPLATE = (
    "{% for turn in messages %}{{ turn.role }}={{ turn.content }};{% endfor %}"
    "{% if add_generation_prompt %}assistant={% endif %}"
)
"""A template whose header does not end in a line break, which the harness's models would count to the choices."""
FACTS = (
    ("The sun is", ["a planet", "a star"], 1),
    ("Water is", ["wet", "a dry stone"], 0),
    ("Paris is in", ["France", "Peru"], 0),
    ("A cat is", ["a number", "an animal"], 1),
    ("Two and two are", ["four", "nine"], 0),
    ("A cat is", ["a plant", "an animal"], 1),
)
CHOICES = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
"""
WRITTEN = """
fewshot_split: train
num_fewshot: 2
output_type: generate_until
description: "Answer in one word."
doc_to_text: "Q: {{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["zz"], max_gen_toks: 6, do_sample: false}
filter_list:
  - {name: whole, filter: [{function: take_first}]}
  - {name: begin, filter: [{function: regex, regex_pattern: "^(..)"}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def task(folder: Path, name: str, body: str, docs: Sequence[dict[str, Any]]) -> Path:
    """Write a task with its documents."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    data = json.dumps({split: str(folder / f"{name}.jsonl") for split in ("test", "train")})
    head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {data}}}\ntest_split: test\n"
    (folder / f"{name}.yaml").write_text(head + body)
    return folder / f"{name}.yaml"


def facts(folder: Path, body: str = CHOICES) -> Path:
    return task(folder, "facts", body, [{"question": q, "choices": c, "answer": a} for q, c, a in FACTS])


class Transformers:
    """An engine that answers with a model of transformers, one request after the other."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tok = AutoTokenizer.from_pretrained(folder)
        self.tok.chat_template = TEMPLATE
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.asked = 0

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += len(requests)
        return [self.reply(request) for request in requests]

    def reply(self, request: Any) -> Reply:
        import torch

        turns = [{"role": turn.role, "content": turn.text} for turn in request.messages]
        head = self.tok.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) + request.prefix
        ids = self.tok(head, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            if isinstance(request, Score):
                own = self.tok(request.text, add_special_tokens=False, return_tensors="pt")["input_ids"]
                chances = self.model(torch.cat([ids, own], 1)).logits[0].log_softmax(-1)[ids.shape[1] - 1 : -1]
                return Reply("", "stop", 1, 1, logprob=float(chances.gather(1, own.T).sum()))
            made = self.model.generate(ids, max_new_tokens=request.max_tokens, do_sample=False)[0, ids.shape[1] :]
        text = str(self.tok.decode(made, skip_special_tokens=True))
        return Reply(min((text.partition(stop)[0] for stop in request.stop), key=len), "stop", 1, 1)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Documents are read from files, and the harness is installed."""
    pytest.importorskip("lm_eval", reason="lm_eval is not installed; pip install lm-eval==0.4.13")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def asked(store: Store, made: Harness, engine: Transformers) -> tuple[freeze.Suite, list[Any]]:
    suite = freeze.freeze(store, "mine", made, None)
    return suite, Questions(engine).judged(Part("p", "m", suite, 1, np.arange(len(suite.items))))


def theirs(path: Path, engine: Transformers) -> dict[str, Any]:
    """Return what the harness itself measures with its own model class."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=[path.parent], include_defaults=False)
    model = HFLM(pretrained=engine.model, tokenizer=engine.tok, batch_size=1)
    found: dict[str, Any] = simple_evaluate(
        model=model, tasks=[path.stem], task_manager=tasks, apply_chat_template=True, bootstrap_iters=0
    )
    return found


@pytest.mark.usefixtures("offline")
def test_choices_have_the_values_of_the_harness(store: Store, tiny: str, tmp_path: Path) -> None:
    path, engine = facts(tmp_path), Transformers(tiny)
    made = scorer("harness", input=str(path), metric="acc_norm")
    assert isinstance(made, Harness)
    suite, judged = asked(store, made, engine)
    assert len(suite.items) == 6 and engine.asked == 12 and len(suite.families) == 6
    found = measured(made, judged)
    other = theirs(path, engine)
    for name in ("acc", "acc_norm", "brier_score"):
        assert found[name] == pytest.approx(other["results"]["facts"][f"{name},none"], abs=1e-6), name
    assert 0 < found["acc"] < 1
    for sample, row in zip(other["samples"]["facts"], judged, strict=True):
        assert row.scores["acc_norm"].value == row.scores[OWN].value == sample["acc_norm"]
        lls = [float(one[0][0]) for one in sample["resps"]]
        assert np.ravel(json.loads(row.scores[OWN].reply)) == pytest.approx(lls, abs=1e-4)
    gathered = gathered_of([suite], {("m", "mine"): {row.item.id: row.scores for row in judged}})
    [figures] = compare.compare([suite], ["m"], gathered, {}, compare.Draws(50, 0))
    assert figures.models[0].value == pytest.approx(found["acc_norm"]) and figures.models[0].measures == found


@pytest.mark.usefixtures("offline")
def test_written_replies_are_filtered_and_judged_by_the_harness(store: Store, tiny: str, tmp_path: Path) -> None:
    engine = Transformers(tiny)
    docs = [{"question": f"What is {n}?", "answer": "?"} for n in range(5)]
    first = Harness.model_validate({"input": str(task(tmp_path, "plain", WRITTEN, docs)), "shots": 0})
    _, judged = asked(store, first, engine)
    said = {row.item.prompt[-1].text: json.loads(row.scores[OWN].reply)[0][0] for row in judged}
    for n, doc in enumerate(docs):  # some are right as a whole, some in their beginning, some not
        text = said[f"Q: {doc['question']}"]
        doc["answer"] = (text, text[:2], "?")[n % 3]
    path = task(tmp_path, "words", WRITTEN.replace("num_fewshot: 2", "num_fewshot: 0"), docs)
    made = Harness.model_validate({"input": str(path)})
    _, judged = asked(store, made, engine)
    found, other = measured(made, judged), theirs(path, engine)["results"]["words"]
    assert found == {name: pytest.approx(other[name]) for name in ("exact_match,whole", "exact_match,begin")}
    assert 0 < found["exact_match,begin"] < 1 and found["exact_match,whole"] > 0
    assert [row.scores[OWN].value for row in judged] == [row.scores["exact_match,whole"].value for row in judged]
    shown = made.model_copy(update={"shots": 2}).rows()[0]
    turns = json.loads(shown.tags["harness_requests"])[0][0]
    assert [role for role, _ in turns] == ["system", "user"] and turns[1][1].count("Q:") == 3
    assert shown.instruction == "Q: What is 0?", "solved cases do not make all items alike"


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ("output_type: loglikelihood_rolling", "has output_type loglikelihood_rolling"),
        ("metric_list: [{metric: exact_match}]", "has the metric exact_match with multiple_choice"),
        ("metric_list: [{metric: acc_mutual_info}]", "needs likelihoods without a prompt"),
        ("output_type: generate_until\ngeneration_kwargs: {num_beams: 4}", "has generation_kwargs num_beams"),
        ("dataset_kwargs: {data_files: {test: /nowhere.jsonl}}", "lm_eval cannot load it"),
        ("doc_to_text: '{{question'", "lm_eval cannot load it"),
    ],
)
def test_what_the_engine_cannot_answer_is_refused_in_one_line(tmp_path: Path, changed: str, why: str) -> None:
    names = {line.partition(":")[0] for line in changed.splitlines()}
    body = [line for line in CHOICES.strip().splitlines() if line.partition(":")[0] not in names]
    if "metric_list" in names:
        body = [line for line in body if not line.startswith("  -")]
    path = facts(tmp_path, "\n".join([*body, changed]) + "\n")
    if "dataset_kwargs" in names:
        path.write_text("".join(x for x in path.read_text().splitlines(True) if "facts.jsonl" not in x))
    with pytest.raises(JobError, match=why) as error:
        Harness.model_validate({"input": str(path)}).rows()
    assert str(error.value).startswith(f"lm_eval task {path}: ")
    with pytest.raises(JobError, match="has no metric bleu, must be one of acc, acc_norm, brier_score"):
        Harness.model_validate({"input": str(facts(tmp_path)), "metric": "bleu"}).rows()


def test_a_changed_task_is_another_suite(tmp_path: Path) -> None:
    path = facts(tmp_path)
    made = Harness.model_validate({"input": str(path)})
    before = made.fingerprint()
    (tmp_path / "facts.jsonl").write_text("")
    assert made.fingerprint() != before
    before = made.fingerprint()
    (tmp_path / "utils.py").write_text("# read by !function")
    assert made.fingerprint() != before
    before = made.fingerprint()
    (tmp_path / "notes.txt").write_text("not read")
    assert made.fingerprint() == before


def test_a_submitted_recipe_takes_the_files_of_its_tasks_along(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "tasks").mkdir(parents=True)
    facts(home / "tasks")
    for name in ("tasks/utils.py", "tasks/secret.txt", "rows.jsonl"):
        (home / name).write_text("")
    text = '[train]\ninput = "rows.jsonl"\n[evaluate.suites.facts]\nkind = "harness"\ninput = "tasks/facts.yaml"\n'
    (home / "mill.toml").write_text(text)
    sent = files_of(load(home / "mill.toml", look=False))
    names = ["mill.toml", "rows.jsonl", "tasks/facts.jsonl", "tasks/facts.yaml", "tasks/utils.py"]
    assert list(map(str, sent)) == names


def test_a_task_that_cannot_be_asked_is_refused_by_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    job = Evaluate.model_validate({"suites": {"facts": {"kind": "harness", "input": str(facts(tmp_path))}}})
    assert "samples" not in job.sources() and not [role for role in job.sources() if role.startswith("suites.")]
    assert job.check(tmp_path) == [
        "suites.facts.kind: harness, but lm_eval is not installed; pip install lm-eval==0.4.13, or leave the suite out"
    ]
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    gone = replace_input(job, tmp_path / "gone.yaml")
    assert gone.check(tmp_path) == [
        f"suites.facts.input: {tmp_path / 'gone.yaml'} is no file, must be the YAML file of a task"
    ]
    (tmp_path / "group.yaml").write_text("group: all\ntask: [facts, words]\n")
    (tmp_path / "broken.yaml").write_text("task: [\n")
    for name, why in (("group", "has no `task` with a name"), ("broken", "cannot be read")):
        with pytest.raises(JobError, match=why):
            Harness.model_validate({"input": str(tmp_path / f"{name}.yaml")}).rows()
    with pytest.raises(ValidationError, match="the task writes the prompts"):
        Harness.model_validate({"input": "x.yaml", "prompt": "Answer: {prompt}"})


def replace_input(job: Evaluate, path: Path) -> Evaluate:
    return job.model_copy(update={"suites": {"facts": Harness.model_validate({"input": str(path)})}})
