"""Gristmill makes a fine-tuning dataset from seeds, and a better model from the dataset.

    import gristmill

    run = gristmill.run("recipe.toml", "generate.target=512")     # or a dict; continues a run that was stopped
    run.dataset.to_pandas()                                       # or .table(), .to_datasets(); dropped=True: the rest
    gristmill.load("generate").reasons()                          # why samples were dropped
    gristmill.select("reviews.csv", "exact", "minhash").dropped   # any selector on any table
    gristmill.preview("recipe.toml", 3)                           # a few samples with every prompt and reply

Heavy libraries are imported only when they are needed.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

_ROOT = Path(__file__).resolve().parent.parent
if not (Path(__file__).parent / "cluster").exists() and (_ROOT / "cluster" / "contract").is_dir():
    __path__.append(str(_ROOT))  # a checkout: the packages are beside this folder, an installation maps them into it

try:
    __version__ = version("gristmill")
except PackageNotFoundError:
    __version__ = "0+checkout"

if TYPE_CHECKING:
    from gristmill.cluster.jobs.library import Dataset, Run, load, plan, run
    from gristmill.generation.preview.library import preview
    from gristmill.selection.library import Selection, select

__all__ = ["Dataset", "Run", "Selection", "__version__", "load", "plan", "preview", "run", "select"]
_WHERE = {
    **dict.fromkeys(("Dataset", "Run", "load", "plan", "run"), "gristmill.cluster.jobs.library"),
    **dict.fromkeys(("Selection", "select"), "gristmill.selection.library"),
    "preview": "gristmill.generation.preview.library",
}
"""The module that defines each name. It is imported when the name is first used."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the names above
    """Import the module that defines a name, and return the object of this name."""
    if name not in _WHERE:
        raise AttributeError(f"module 'gristmill' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """Return the public names, sorted."""
    return sorted(__all__)
