"""Tasks of lm-evaluation-harness: the one file that knows `lm_eval`, the version of which is 0.4.13.

The harness reads the task and its documents, writes the prompts, filters the replies, and computes the metrics. The
models are asked by the inference engine, as the items of any suite are. So nothing of the harness's own models is used.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gristmill.cluster.contract.errors import JobError, RunError

FEWSHOT_SEED = 1234
"""Seed by which solved cases are drawn; the default of the harness."""
KNOWN = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_p"})
"""Keys of `generation_kwargs` that have a counterpart in the engine."""
KINDS = ("multiple_choice", "loglikelihood", "generate_until")
READ = (".yaml", ".yml", ".py")
"""Suffixes of files next to a task that it may include, or take functions from."""
Reply = str | tuple[float, bool]
"""What the harness gets of a request: a written text, or a log-likelihood. It is not known whether the text is the
likeliest one: that is always false here, and metrics that need it are refused."""


class Asked(NamedTuple):
    """One request of a task: a conversation with the beginning of the model's turn, and what is asked of it."""

    messages: list[tuple[str, str]]
    """Role and text of each turn."""
    prefix: str
    scored: str | None
    """The text whose likelihood is asked for; None if the model writes."""
    settings: Mapping[str, Any]
    """The `generation_kwargs` of a text that is written."""
    times: int
    """Number of times that the request is sent."""


class Doc(NamedTuple):
    """One document of a task."""

    question: str
    """Its text without solved cases."""
    answer: str
    asked: list[Asked]


class HarnessTask:
    """A task of the harness with its documents."""

    def __init__(self, path: Path, shots: int | None) -> None:
        """Load a task from its YAML file. `shots` replaces its number of solved cases."""
        where = f"lm_eval task {path}"
        self.name = name_of(path)
        try:
            with redirect_stderr(io.StringIO()):  # bars of tqdm and datasets
                manager = import_module("lm_eval.tasks").TaskManager(include_path=[path.parent], include_defaults=False)
                self._task: Any = manager.load(self.name)["tasks"][self.name]
                if shots is not None:
                    self._task.set_config("num_fewshot", shots)
                self._task.set_fewshot_seed(FEWSHOT_SEED)
                self._require_known(where)
                self._task.build_all_requests(apply_chat_template=True, chat_template=_as_json)
        except JobError:
            raise
        except Exception as error:  # whatever a file of a user's lets the harness and its readers raise
            raise JobError(
                f"{where}: lm_eval cannot load it ({type(error).__name__}: {error}), must be a task with documents; "
                "its dataset_kwargs.data_files are looked up from the folder in which gristmill runs"
            ) from error
        self._docs: dict[int, list[Any]] = {}
        for instance in self._task.instances:
            self._docs.setdefault(instance.doc_id, []).append(instance)

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return tuple(self._task.aggregation())

    def docs(self) -> dict[int, Doc]:
        """Return the documents by their number."""
        return {number: self._doc(instances) for number, instances in self._docs.items()}

    def metrics(self, number: int, replies: Sequence[Sequence[Reply]]) -> dict[str, Any]:
        """Return what the metrics need of one document, by name; mostly a number.

        A metric of a filter that has a name is called `metric,filter`, as the harness does.

        Args:
            number: number of the document.
            replies: the replies to each request, which may have been sent several times.
        """
        instances = self._docs[number]
        for instance, some in zip(instances, replies, strict=True):
            instance.resps, instance.filtered_resps = list(some), {}
        for one in self._task._filters:
            one.apply(instances)
        found = {}
        for filter_ in instances[0].filtered_resps:
            filtered = [instance.filtered_resps[filter_] for instance in instances]
            for metric, value in self._task.process_results(instances[0].doc, filtered).items():
                found[metric if filter_ == "none" else f"{metric},{filter_}"] = value
        return found

    def aggregated(self, name: str, values: Sequence[Any]) -> float:
        """Return a metric over all documents from what it needs of each.

        Raises:
            RunError: when the harness cannot compute it of these documents.
        """
        reduce: Callable[[Sequence[Any]], Any] = self._task.aggregation().get(name.partition(",")[0], np.mean)
        try:
            return float(reduce(values))
        except (ValueError, TypeError, ArithmeticError) as error:
            raise RunError(
                f"lm_eval task {self.name}: its metric {name} fails on these documents ({error}), must not; leave it "
                "out of the task's metric_list"
            ) from error

    def sign(self, name: str) -> int:
        """Return 1 if higher values of a metric are better, else -1."""
        return 1 if self._task.higher_is_better().get(name.partition(",")[0], True) else -1

    def _doc(self, instances: Sequence[Any]) -> Doc:
        doc = instances[0].doc
        question, answer = self._task.doc_to_text(doc), self._task.doc_to_target(doc)
        asked = [_asked(instance) for instance in instances]
        if not isinstance(question, str):  # the choices are in the prompts, and the number of the right one is here
            question = asked[0].messages[-1][1]
        choices = self._task.doc_to_choice(doc) if self._task.config.doc_to_choice else []
        if isinstance(answer, int) and 0 <= answer < len(choices):
            answer = choices[answer]
        return Doc(question, answer if isinstance(answer, str) else json.dumps(answer, default=str), asked)

    def _require_known(self, where: str) -> None:
        """Refuse what the engine cannot answer as the harness means it."""
        task, kind, metrics = self._task, self._task.OUTPUT_TYPE, self._task.aggregation()
        unknown = sorted((task.config.generation_kwargs or {}).keys() - KNOWN) if kind == "generate_until" else []
        likeliest = {"loglikelihood": "acc", "multiple_choice": "exact_match"}.get(kind)
        problem = ""
        if kind not in KINDS:
            problem = f"has output_type {kind}, must have {', '.join(KINDS)}"
        elif "acc_mutual_info" in metrics:
            problem = "has the metric acc_mutual_info, must have another; it needs likelihoods without a prompt"
        elif likeliest in metrics:
            problem = f"has the metric {likeliest} with {kind}, must have another; the engine does not say whether a "
            problem += "text is the likeliest"
        elif unknown:
            problem = f"has generation_kwargs {', '.join(unknown)}, must have none but {', '.join(sorted(KNOWN))}"
        elif getattr(task, "UNSAFE_CODE", False):
            problem = "runs code that a model writes, must not"
        elif getattr(task, "MULTIMODAL", False):
            problem = "has images or sounds, must have texts only"
        if problem:
            raise JobError(f"{where}: {problem}")


@lru_cache(16)
def opened(path: str, shots: int | None) -> HarnessTask:
    """Return the task of a YAML file. It is loaded once for a process.

    Raises:
        JobError: when it cannot be loaded, or needs what the engine cannot answer.
    """
    return HarnessTask(Path(path), shots)


def name_of(path: Path) -> str:
    """Return the name of the task in a YAML file.

    Raises:
        JobError: when the file has none, because it is no task but a group or a part of others.
    """
    found = _yaml(path).get("task")
    if not isinstance(found, str):
        raise JobError(f"lm_eval task {path}: has no `task` with a name, must be the YAML file of a single task")
    return found


def files(path: Path) -> list[Path]:
    """Return the files that decide what a task asks: YAML and Python files in its folder, and local documents."""
    kwargs = _yaml(path).get("dataset_kwargs")
    data = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    named = [one for some in (data.values() if isinstance(data, dict) else [data]) for one in _texts(some)]
    beside = [one for one in path.parent.iterdir() if one.suffix in READ]
    return sorted({one.absolute() for one in (*beside, *map(Path, named)) if one.is_file()})


def _texts(value: object) -> list[str]:
    """Return the texts of a list, or a text as a list of one."""
    listed = value if isinstance(value, list) else [value]
    return [one for one in listed if isinstance(one, str)]


def _yaml(path: Path) -> dict[str, Any]:
    """Return the keys of a YAML file; values with a tag, such as `!function`, are None.

    Raises:
        JobError: when the file is not there or is no YAML table.
    """
    import yaml

    loader = type("Loader", (yaml.SafeLoader,), {})  # of its own, because tags are added to a class
    loader.add_multi_constructor("!", lambda loader, suffix, node: None)  # type: ignore[attr-defined] # of yaml's
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise JobError(f"lm_eval task {path}: cannot be read ({error}), must be the YAML file of a task") from error
    if not isinstance(found, dict):
        raise JobError(f"lm_eval task {path}: is no YAML table, must be the YAML file of a task")
    return found


def _as_json(turns: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """Take the place of a chat template: the conversation is rendered by the engine."""
    del add_generation_prompt
    return json.dumps(turns)


def _asked(instance: Any) -> Asked:  # noqa: ANN401 - of the harness
    context, second = instance.arguments[:2]
    turns = [(turn["role"], turn["content"]) for turn in json.loads(context)]
    prefix = turns.pop()[1] if turns[-1][0] == "assistant" else ""
    if isinstance(second, str):
        return Asked(turns, prefix, second, {}, 1)
    return Asked(turns, prefix, None, {**second, "until": _texts(second.get("until", []))}, instance.repeats or 1)
