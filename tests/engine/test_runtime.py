from __future__ import annotations

import pytest
import torch

from medkd.engine.options import RuntimeOptions
from medkd.engine.runtime import Runtime, open_runtime
from medkd.errors import InputError


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "meta", "mps"])
def test_a_device_that_is_not_allowed_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError, match=rf"runtime\.device is {name!r}; allowed: auto, cpu, cuda, cuda:N"):
        open_runtime(RuntimeOptions(device=name))


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_that_is_not_there_is_an_input_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"no CUDA device is visible here; use runtime\.device=cpu"):
        open_runtime(RuntimeOptions(device=name))
    assert open_runtime(RuntimeOptions(device="auto")).device.type == "cpu"


def test_a_gpu_number_that_is_not_there_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert open_runtime(RuntimeOptions(device="cuda:1")).device.index == 1
    assert open_runtime(RuntimeOptions(device="auto")).device.type == "cuda"
    with pytest.raises(InputError, match="'cuda:2'"):
        open_runtime(RuntimeOptions(device="cuda:2"))


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        open_runtime(RuntimeOptions(device="cpu", threads=before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_precision(precision: str, dtype: torch.dtype | None) -> None:
    runtime = Runtime(torch.device("cpu"), precision)
    with runtime.autocast():
        assert (torch.zeros(2, 2) @ torch.zeros(2, 2)).dtype == (dtype or torch.float32)
    assert runtime.scaler().is_enabled() == (precision == "fp16")
