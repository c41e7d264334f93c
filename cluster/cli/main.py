"""The command line: one function for each verb.

Each function imports what its verb needs, so that `--help` is instant.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import gristmill
from gristmill.cluster.cli.arguments import (
    MODEL_FORMS,
    export_arguments,
    plan_arguments,
    refresh_arguments,
    serve_arguments,
    submit_arguments,
)
from gristmill.cluster.contract.errors import TRY_AGAIN, GristmillError, JobError
from gristmill.cluster.contract.secrets import public_text, public_uri
from gristmill.cluster.runtime.interrupt import interruptible, signal_name
from gristmill.cluster.text.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from gristmill.cluster.store.store import Store

JOB_VERBS = {
    "run": "run every section that the recipe has",
    "generate": "synthesize and self-filter samples with vLLM",
    "review": "combine votes into labels, queue the least certain for people, and read the labels that people gave",
    "select": "embed, deduplicate and choose",
    "lift": "find out which samples help a classifier",
    "train": "fine-tune with DeepSpeed ZeRO",
    "evaluate": "compare the tuned model with its base",
}
CALLS = {
    "preview": "gristmill.generation.preview.page:run",
    "serve": "gristmill.training.serve:run",
    "submit": "gristmill.cluster.jobs.submit:run",
    "clean": "gristmill.cluster.jobs.clean:run",
    "lineage": "gristmill.cluster.refresh.lineage:run",
    "refresh": "gristmill.cluster.refresh.rounds:run",
    "forget": "gristmill.cluster.refresh.forget:run",
    "rollback": "gristmill.cluster.refresh.quarantine:run",
}
"""Functions of verbs, as `module:function`. Each takes the parsed arguments and returns the exit code."""
SHELLS = ("bash", "zsh", "fish")
MODEL_EXPORT = "gristmill.training.card:export"
"""The function that exports a trained model. It is a string, as those of `CALLS` are."""


def _ui(arguments: argparse.Namespace) -> int:
    from gristmill.cluster.ui.server import serve

    serve(_store(arguments.store), arguments.port, arguments.by, _print, browser=arguments.browser)
    return 0


def _jobs(arguments: argparse.Namespace) -> int:
    from gristmill.cluster.cli.text import run_lines
    from gristmill.cluster.jobs.recipe import open_recipe
    from gristmill.cluster.jobs.run import execute
    from gristmill.cluster.runtime.progress import Screen
    from gristmill.cluster.store.store import Store

    recipe, works = open_recipe(arguments.recipe, arguments.set)
    verb = arguments.verb
    if verb != "run" and verb not in works:
        raise JobError(f"{arguments.recipe}: has no section [{verb}], must have one to run it")
    screen = Screen(quiet=arguments.quiet)
    run_id = execute(recipe, works, list(works) if verb == "run" else [verb], screen)
    for line in ("", *run_lines(Store(recipe.store), run_id)):
        screen.say(line)
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gristmill.cluster.cli.text import plan_lines, size_lines
    from gristmill.cluster.jobs.recipe import open_recipe, plans_of
    from gristmill.cluster.jobs.scale import Size, scale

    size = Size(arguments.nodes, arguments.gpus, arguments.price) if arguments.nodes else None
    recipe, works = open_recipe(arguments.recipe, arguments.set)
    plans = plans_of(recipe, works)
    if arguments.json:
        value: dict[str, object] = {"run": recipe.run_id(works), "jobs": [asdict(p) for p in plans]}
        if size:
            value["size"] = asdict(size) | {"jobs": [asdict(scale(p, size)) for p in plans]}
        _print(json.dumps(value, indent=1))
    else:
        _print("\n".join([*plan_lines(plans), *(["", *size_lines(plans, size)] if size else [])]))
    return 0


def _imported(arguments: argparse.Namespace) -> int:
    module, _, name = CALLS[arguments.verb].partition(":")
    return int(getattr(import_module(module), name)(arguments))


def _explain(arguments: argparse.Namespace) -> int:
    from gristmill.cluster.cli.explain import lines

    _print("\n".join(lines(arguments.path)))
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from gristmill.cluster.cli.schema import schema

    del arguments
    _print(json.dumps(schema(), indent=1, ensure_ascii=False))
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    from gristmill.cluster.cli.completion import script

    print(script(parser(), arguments.shell), end="")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gristmill.cluster.cli.text import SCHEMA, dataset_lines, listing, listing_lines, run_lines
    from gristmill.cluster.jobs.run import find, runs
    from gristmill.cluster.jobs.state import json_of

    store = _store(arguments.store)
    if arguments.name is None:
        value = listing(store, runs(store))
        _print(json.dumps(value, indent=1) if arguments.json else "\n".join(listing_lines(value)))
        return 0
    kind, name = find(store, arguments.name)
    manifest = store.manifest(name) if kind == "dataset" else None
    if manifest is not None:
        figures = store.figures(name)
        whole = {"schema": SCHEMA, **asdict(manifest), "figures": figures}
        value, lines = whole, dataset_lines(manifest, figures)
    else:
        value, lines = {"schema": SCHEMA, **json_of(store, name)}, run_lines(store, name)
    _print(json.dumps(value, indent=1, ensure_ascii=False) if arguments.json else "\n".join(lines))
    return 0


def _head(arguments: argparse.Namespace) -> int:
    from gristmill.cluster.cli.text import sample_lines
    from gristmill.cluster.contract.sample import from_table

    store = _store(arguments.store)
    left = arguments.n
    name = arguments.name
    for table in _committed(store, name) if arguments.committed else store.scan(_dataset(store, name)):
        for sample in from_table(table):
            if left and bool(sample.dropped) == arguments.dropped:
                _print("\n".join(sample_lines(sample)))
                left -= 1
        if not left:
            break
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from gristmill.cluster.io.export import export

    store = _store(arguments.store)
    if arguments.form in MODEL_FORMS:
        module, _, function = MODEL_EXPORT.partition(":")
        _print(getattr(import_module(module), function)(store, arguments.name, arguments.target, arguments.form))
        return 0
    name = _dataset(store, arguments.name)
    how = {key: getattr(arguments, key) for key in ("dropped", "provenance", "by", "threshold", "public")}
    done = export(store, name, arguments.target, arguments.form, **how)
    _print(f"{done.rows} rows of {name} written to {public_uri(arguments.target)}")
    for reason, count in sorted(done.left_out.items()):
        _print(f"left out: {count} samples, each {reason}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from gristmill.cluster.jobs.run import find
    from gristmill.cluster.refresh import report as line_report
    from gristmill.cluster.refresh.registry import Line
    from gristmill.cluster.report import run as report

    store = _store(arguments.store)
    line = Line(store, arguments.name)
    if line.exists():
        _print(line_report.write(line))
        return 0
    kind, name = find(store, arguments.name)
    if kind != "run":
        raise JobError(f"{name}: a dataset, must be a run; `gristmill show` lists the runs")
    _print(report.write(store, name))
    return 0


def _store(uri: str) -> "Store":
    from gristmill.cluster.store.store import Store

    store = Store(uri)
    if not store.exists():
        raise JobError(f"{uri}: absent, must be a store; name it with --store, or run a recipe first")
    if store.is_file():
        raise JobError(f"{uri}: a file, must be the folder of a store; name that with --store")
    return store


def _dataset(store: "Store", name: str) -> str:
    """Return the full name of the dataset of samples with this name, or of the last one of the run with this name."""
    from gristmill.cluster.jobs.run import ended_samples, find

    kind, full = find(store, name)
    if kind == "run":
        full = ended_samples(store, full)
    if store.manifest(full).kind != "samples":
        raise JobError(f"{full}: holds {store.manifest(full).kind}, must be a dataset of samples")
    return full


def _committed(store: "Store", name: str) -> "Iterator[pa.Table]":
    """Yield the committed shards of a dataset, or of the last job of a run that makes samples.

    The job need not have ended.
    """
    from gristmill.cluster.jobs.run import find, samples_of

    kind, full = find(store, name)
    output = samples_of(store, full)[1] if kind == "run" else full
    if store.complete(output):
        yield from store.scan(output)
        return
    for shard in (*store.committed(output).values(), *store.committed(output, prefix="raw-").values()):
        yield store.read_shard(output, shard)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="gristmill",
        description="Grind seeds into a fine-tuning dataset, and the dataset into a better model.",
        epilog="Exit codes: 0 done, 1 failed, 2 recipe or arguments wrong, 75 busy or interrupted (try again).",
    )
    top.add_argument("--version", action="version", version=f"gristmill {gristmill.__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    _recipe_verbs(verbs)
    text = "say what a section, a step or a setting is, such as select.minhash or train.lora.r"
    sub = verbs.add_parser("explain", help=text, description=text)
    sub.add_argument("path", nargs="?", default="", help="a dotted path; without one, all sections and steps")
    sub.set_defaults(call=_explain)
    text = "print the JSON schema of recipes, with which editors complete and check them"
    sub = verbs.add_parser("schema", help=text, description=text)
    sub.set_defaults(call=_schema)
    text = "print the script with which a shell completes verbs, options, recipes, names and keys"
    sub = verbs.add_parser("completion", help=text, description=text)
    sub.add_argument("shell", choices=SHELLS, help="which shell")
    sub.set_defaults(call=_completion)
    sub = _store_verb(verbs, "show", "list runs and datasets of a store, or show one in detail")
    sub.add_argument("name", nargs="?", help="a run or dataset, or the beginning of its name")
    sub.add_argument("--json", action="store_true", help="for scripts")
    sub.set_defaults(call=_show)
    sub = _store_verb(verbs, "head", "print samples readably")
    sub.add_argument("name", help="a dataset or run, or the beginning of its name")
    sub.add_argument("-n", type=int, default=5, metavar="N", help="how many (default: 5)")
    sub.add_argument("--dropped", action="store_true", help="the dropped ones, with their reasons")
    sub.add_argument(
        "--committed", action="store_true", help="the samples that are committed so far, of a job that has not ended"
    )
    sub.set_defaults(call=_head)
    sub = _store_verb(verbs, "export", "write a dataset or a trained model in a form that other tools read")
    export_arguments(sub)
    sub.set_defaults(call=_export)
    sub = _store_verb(verbs, "serve", "answer requests in the form of OpenAI's API with the tuned model of a run")
    serve_arguments(sub)
    sub.set_defaults(call=_imported)
    _line_verbs(verbs)
    _clean_verb(verbs)
    sub = _store_verb(verbs, "lineage", "say what a row comes from, and which datasets and models it went into")
    sub.add_argument("id", help="the id of a row, or its beginning; or the name of a dataset or model")
    sub.add_argument("--json", action="store_true", help="for scripts")
    sub.set_defaults(call=_imported)
    sub = _store_verb(verbs, "report", "write report.html of a run or a line again")
    sub.add_argument("name", help="a run, the beginning of its name, or a line")
    sub.set_defaults(call=_report)
    _ui_verb(verbs)
    return top


def _ui_verb(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    sub = _store_verb(verbs, "ui", "show runs and samples in the browser, and accept, reject or edit samples there")
    sub.add_argument("--port", type=int, default=8480, help="port on this machine; 0 takes a free one (default: 8480)")
    sub.add_argument("--by", default="", metavar="NAME", help="who decides, for tag decided_by (default: login name)")
    sub.add_argument("--browser", action="store_true", help="open the page in the browser")
    sub.set_defaults(call=_ui)


def _line_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs that take the name of a line."""
    sub = _store_verb(verbs, "rollback", "make the model before the champion of a line the champion again")
    sub.add_argument("line", help="name of the line, which is that of its recipe")
    sub.add_argument("--reason", default="", metavar="TEXT", help="why, for the record")
    sub.set_defaults(call=_imported)
    sub = _store_verb(verbs, "forget", "do the rounds of a line again without some rows, as if it had never read them")
    sub.add_argument("line", help="name of the line, which is that of its recipe")
    sub.add_argument("id", nargs="+", help="ids of rows of its inputs")
    sub.set_defaults(call=_imported)


def _clean_verb(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    sub = _store_verb(verbs, "clean", "list what nothing needs: leftovers, and datasets that no run refers to")
    sub.add_argument("--delete", action="store_true", help="delete it; without this, nothing is changed")
    sub.add_argument("--json", action="store_true", help="for scripts")
    sub.set_defaults(call=_imported)


def _recipe_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs that take a recipe."""
    for verb, text in JOB_VERBS.items():
        sub = _recipe_verb(verbs, verb, text)
        sub.add_argument("--quiet", action="store_true", help="no progress, no summary")
        sub.set_defaults(call=_jobs)
    sub = _recipe_verb(verbs, "plan", "say what would run, loading no model, or list every error of the recipe")
    plan_arguments(sub)
    sub.set_defaults(call=_plan)
    sub = _recipe_verb(verbs, "submit", "send a recipe and the files that it reads to a cluster, and run it there")
    submit_arguments(sub)
    sub.set_defaults(call=_imported)
    sub = _recipe_verb(verbs, "refresh", "do one round of a line, or continue it, if the recipe's [refresh] says so")
    refresh_arguments(sub)
    sub.set_defaults(call=_imported)
    sub = _recipe_verb(verbs, "preview", "make a few samples and print every prompt and every reply of the model")
    sub.add_argument("-n", type=int, default=5, metavar="N", help="how many draws (default: 5)")
    sub.add_argument("--json", action="store_true", help="for scripts")
    sub.set_defaults(call=_imported)


def _recipe_verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", verb: str, text: str
) -> argparse.ArgumentParser:
    sub = verbs.add_parser(verb, help=text, description=text)
    sub.add_argument("recipe", type=Path, help="a recipe (.toml), or the recipe.json of a run")
    sub.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="replace one setting")
    return sub


def _store_verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", verb: str, text: str
) -> argparse.ArgumentParser:
    sub = verbs.add_parser(verb, help=text, description=text)
    sub.add_argument("--store", default="runs", help="folder or URI (default: runs)")
    return sub


def _print(text: object, stream: TextIO | None = None) -> None:
    """Print a text, by default to standard output, without characters that steer a terminal."""
    print(visible(str(text)), file=stream)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb, and return the exit code.

    Ctrl-C, SIGTERM and SIGHUP stop the verb, which then cleans up and ends with code 75. During this time a second
    signal is ignored, and a third one ends the process at once (`gristmill.cluster.runtime.interrupt`).
    """
    parsed = parser().parse_args(arguments)
    with interruptible():
        return _call(parsed)


def _call(parsed: argparse.Namespace) -> int:
    try:
        return int(parsed.call(parsed))
    except GristmillError as error:
        _print(f"gristmill: {error}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        again = "the same command continues after what is committed"
        _print(f"gristmill: interrupted by {signal_name(error)}; {again}", sys.stderr)
        return TRY_AGAIN
    except BrokenPipeError:  # `gristmill head … | less` was closed
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk, a folder that may not be written
        _print(f"gristmill: {public_text(str(error))}", sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
