"""What `auto` becomes: by time on a CPU, by capability on a GPU, and never another type in the middle of a dataset."""

import json
from pathlib import Path

import pytest

from gristmill.cluster.models import dtypes
from gristmill.cluster.models import names as models
from gristmill.cluster.models.dtypes import DTypeChoice, choose_by_time, suit_slowest
from gristmill.cluster.models.engine import Engine
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.job import Train

AVX2 = frozenset({"avx2"})
AMX = frozenset({"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
SLOW_BF16 = {"bfloat16": 0.287, "float32": 0.058}
"""Seconds of 48 x 576 x 49152 on a CPU with AVX2 alone."""
FAST_BF16 = {"bfloat16": 0.010, "float32": 0.058}


def test_the_defaults_are_auto() -> None:
    assert Engine().dtype == "auto"
    assert Train().precision == "auto"
    assert Evaluate().precision == "auto"


def test_a_cpu_that_emulates_bfloat16_computes_in_float32_and_says_why() -> None:
    choice = choose_by_time(SLOW_BF16, AVX2)
    assert choice.dtype == "float32"
    assert choice.reason == "this CPU has no bfloat16 (a product takes 4.9 times as long)"


def test_a_cpu_with_bfloat16_uses_it() -> None:
    choice = choose_by_time(FAST_BF16, AMX)
    assert choice.dtype == "bfloat16"
    assert choice.reason.startswith("this CPU has bfloat16")


def test_the_time_decides_also_against_the_flags() -> None:
    assert choose_by_time(SLOW_BF16, AMX).reason.startswith("this CPU computes bfloat16 slower")
    assert choose_by_time(FAST_BF16, AVX2).dtype == "bfloat16"


def test_a_tie_goes_to_the_type_of_half_the_memory() -> None:
    assert choose_by_time({"bfloat16": 1.05, "float32": 1.0}, AVX2).dtype == "bfloat16"
    assert choose_by_time({"bfloat16": 1.15, "float32": 1.0}, AVX2).dtype == "float32"


@pytest.mark.parametrize(
    ("choices", "dtype"),
    [
        ([DTypeChoice("bfloat16", "a", FAST_BF16), DTypeChoice("float32", "b", SLOW_BF16)], "float32"),
        ([DTypeChoice("bfloat16", "a", FAST_BF16)] * 2, "bfloat16"),
        # the second machine is slow in both: what suits it counts more than what the first would like
        (
            [
                DTypeChoice("float32", "a", {"bfloat16": 0.02, "float32": 0.01}),
                DTypeChoice("bfloat16", "b", {"bfloat16": 0.10, "float32": 0.30}),
            ],
            "bfloat16",
        ),
        ([DTypeChoice("bfloat16", "an A100 has it"), DTypeChoice("float16", "a V100 has none")], "float32"),
    ],
)
def test_training_takes_what_suits_its_slowest_worker(choices: list[DTypeChoice], dtype: str) -> None:
    assert suit_slowest(choices).dtype == dtype


def test_a_dataset_keeps_the_type_that_it_began_with_on_another_machine(store: Store) -> None:
    store.folder("generate-x")
    first = dtypes.keep(store, "generate-x", {"engine": "auto"}, lambda _: choose_by_time(FAST_BF16, AMX))
    assert first["engine"].dtype == "bfloat16"
    again = dtypes.keep(store, "generate-x", {"engine": "auto"}, lambda _: choose_by_time(SLOW_BF16, AVX2))
    assert again["engine"].dtype == "bfloat16"
    assert again["engine"].reason.startswith("as the dataset began; here float32 is faster: this CPU has no bfloat16")
    assert dtypes.read(store, "generate-x") == {"engine": "bfloat16"}
    other = dtypes.keep(store, "generate-y", {"engine": "auto"}, lambda _: choose_by_time(SLOW_BF16, AVX2))
    assert other["engine"].dtype == "float32"


def test_a_type_that_the_recipe_names_is_taken_without_asking_the_machine(store: Store) -> None:
    def never(name: str) -> DTypeChoice:
        raise AssertionError(name)

    assert dtypes.keep(store, "generate-x", {"engine": "float16"}, never)["engine"].dtype == "float16"


def test_the_identity_is_what_the_recipe_says_not_what_the_machine_made_of_it() -> None:
    assert Engine().identity()["fields"]["dtype"] == "auto"
    assert Engine().fingerprint() != Engine(dtype="float32").fingerprint()


def test_this_machine_is_measured_once_and_again_after_a_torn_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRISTMILL_CACHE", str(tmp_path))
    first = dtypes.choose(models.SMOLLM2)
    [kept] = (tmp_path / dtypes.CACHE).iterdir()
    kept.write_text(json.dumps({"bfloat16": 9.0, "float32": 1.0}))
    assert dtypes.choose(models.SMOLLM2).reason.endswith("(a product takes 9.0 times as long)"), "read from the cache"
    kept.write_text("{torn")
    again, told = dtypes.choose(models.SMOLLM2), json.loads(kept.read_text())
    assert told.keys() == {"bfloat16", "float32"} and min(told.values()) > 0, "measured again"
    assert dtypes.choose(models.SMOLLM2).dtype == again.dtype, "as it was measured last; a busy machine may say another"
    if "avx2" in dtypes.cpu_flags() and "avx512f" not in dtypes.cpu_flags():
        assert first.dtype == "float32"


def test_what_hides_instructions_from_the_libraries_is_measured_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRISTMILL_CACHE", str(tmp_path))
    for name in dtypes.LIMITS:
        monkeypatch.delenv(name, raising=False)
    dtypes.choose(models.SMOLLM2)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    dtypes.choose(models.SMOLLM2)
    assert len(list((tmp_path / dtypes.CACHE).iterdir())) == 2


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"hidden_size": 576, "intermediate_size": 1536}, (576, 1536)),
        ({"n_embd": 768, "n_inner": None}, (768, 3072)),
        ({"d_model": 512, "d_ff": 2048}, (512, 2048)),
        ({"text_config": {"hidden_size": 64, "intermediate_size": 128}}, (64, 128)),
        ({}, (1024, 4096)),
    ],
)
def test_the_shape_of_the_product_is_that_of_the_model(
    tmp_path: Path, config: dict[str, object], shape: tuple[int, int]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert models.widest_layer(str(tmp_path)) == shape
