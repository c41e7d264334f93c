"""`gristmill completion SHELL` prints a script with which a shell completes verbs, options, recipes, names and keys.

The script contains all names, so completion starts no Python process. Only this file imports shtab.
"""

import argparse
from collections.abc import Iterator
from typing import Any

from gristmill.cluster.cli import explain
from gristmill.cluster.contract.settings import Settings, Step

BASH = """
# $1=names $2=word: the names that begin with the word, up to their next dot
_gristmill_part() {
  local name rest
  for name in $(compgen -W "$1" -- "$2"); do
    rest="${name#"$2"}"
    echo "$2${rest%%.*}"
  done | sort -u
}
"""
BASH_END = """
# a name may go on, and a key wants its value: no space after them
_gristmill() {
  _shtab_gristmill "$@"
  if [[ ${COMP_WORDS[1]} == explain || ${COMP_WORDS[COMP_CWORD-1]} == --set ]]; then
    compopt -o nospace 2>/dev/null || :
  fi
}
complete -o bashdefault -F _gristmill gristmill
"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the completion script of a shell, which is one of `bash`, `zsh` and `fish`.

    The script completes the verbs and options of the parser, and the values of its arguments `recipe`, `path`, `set`,
    `target` and `store`.
    """
    import shtab

    found: dict[str, Any] = {
        "recipe": shtab.glob("*.toml", "*.json"),
        "path": _complete("_gristmill_names", list(names())),
        "set": _complete("_gristmill_keys", list(settable())),
        "target": shtab.FILE,
        "store": shtab.DIRECTORY,
    }
    for action in _actions(parser):
        if action.dest in found:
            vars(action)["complete"] = found[action.dest]  # where shtab looks
    begin, end = (BASH, BASH_END) if shell == "bash" else ("", "\n")
    return f"{shtab.complete(parser, shell, preamble=begin)}{end}"


def names() -> Iterator[str]:
    """Yield every name that `gristmill explain` accepts: sections, tables, steps and settings.

    A step is yielded twice: with the name of its list, and without it.
    """
    for name, kind in explain.sections().items():
        yield from _below(name, kind)


def settable() -> Iterator[str]:
    """Yield the keys that `--set` accepts, each with `=` at its end.

    Keys inside lists are left out, and so are keys under a name that the user chooses.
    """
    yield from ("name=", "store=")
    for name, kind in explain.sections().items():
        yield from _keys(name, kind)


def _below(path: str, kind: type[Settings]) -> Iterator[str]:
    yield path
    for name, info in kind.model_fields.items():
        yield f"{path}.{name}"
        for inner in explain.classes(info.annotation):
            if not issubclass(inner, Step):
                yield from list(_below(f"{path}.{name}", inner))[1:]
    for name, some in explain.steps(kind).items():
        for step, inner in some.items():
            yield from _below(f"{path}.{name}.{step}", inner)
            yield from _below(f"{path}.{step}", inner)


def _keys(path: str, kind: type[Settings]) -> Iterator[str]:
    for name, info in kind.model_fields.items():
        inner = explain.classes(info.annotation)
        words = explain.words(info.annotation)
        if not inner:
            yield f"{path}.{name}="
        elif words == "step":
            yield from dict.fromkeys(key for one in inner for key in _keys(f"{path}.{name}", one))
        elif words.startswith("table") and " by name" not in words:
            yield from _keys(f"{path}.{name}", inner[0])


def _complete(function: str, known: list[str]) -> dict[str, Any]:
    """Return the code with which each shell completes these names, one dotted part at a time where the shell can."""
    words = " ".join(known)
    return {
        "bash": function,
        "zsh": function,
        "fish": f"({function})",
        "preamble": {
            "bash": f'{function}() {{ _gristmill_part "{words}" "$1"; }}',
            "zsh": f"{function}() {{ _multi_parts -S '' . \"({words})\"; }}",
            "fish": f"function {function}\n  printf '%s\\n' {words}\nend",
        },
    }


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)
