"""Products in float32 stay those of float32, whichever library computes them."""

from typing import Any

import pytest

from gristmill.cluster.models import products


@pytest.mark.parametrize(
    ("vendor", "flags", "faster"),
    [
        ("AuthenticAMD", {"avx2", "avx512f", "avx512_bf16"}, True),
        ("AuthenticAMD", {"avx2"}, False),
        ("AuthenticAMD", {"avx2", "avx512f", "amx_bf16"}, False),
        ("GenuineIntel", {"avx2", "avx512f"}, False),
        ("", {"asimd", "bf16"}, False),
    ],
)
def test_one_kind_of_cpu_is_slower_with_mkl(vendor: str, flags: set[str], *, faster: bool) -> None:
    assert products._faster(vendor, frozenset(flags)) == faster


def test_products_stay_exact_and_the_setting_says_who_computes_them() -> None:
    import torch

    library: Any = torch.backends.mkldnn
    setting = library.matmul
    before = setting.fp32_precision
    try:
        used = products.use_avx512()
        assert setting.fp32_precision == ("bf16" if used else before)
        assert max(map(products._error, products.SHAPES)) < products.EXACT
    finally:
        setting.fp32_precision = before


def test_a_library_that_rounds_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    library: Any = torch.backends.mkldnn
    setting = library.matmul
    before = setting.fp32_precision
    monkeypatch.setattr(products, "_faster", lambda vendor, flags: True)
    monkeypatch.setattr(products, "EXACT", 1e-9)
    assert not products.use_avx512()
    assert setting.fp32_precision == before


def test_rounding_to_bfloat16_is_far_above_the_bound() -> None:
    import torch

    torch.manual_seed(0)
    one, other = torch.randn(64, 512), torch.randn(512, 64)
    exact = one.double() @ other.double()
    rounded = one.bfloat16().double() @ other.bfloat16().double()
    assert float((rounded - exact).abs().max() / exact.square().mean().sqrt()) > 10 * products.EXACT
