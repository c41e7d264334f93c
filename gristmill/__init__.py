"""Gristmill: seeds into a fine-tuning dataset, the dataset into a better model."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
if not (Path(__file__).parent / "cluster").exists() and (_ROOT / "cluster" / "contract").is_dir():
    __path__.append(str(_ROOT))  # a checkout: the packages are beside this folder, an installation maps them into it

try:
    __version__ = version("gristmill")
except PackageNotFoundError:
    __version__ = "0+checkout"
