"""Device and precision. The only file that will know ranks."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from medkd.engine.options import RuntimeOptions
from medkd.errors import InputError

_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    device: torch.device
    precision: str = "fp32"

    def autocast(self) -> AbstractContextManager[object]:
        """Autocast to the chosen precision; losses leave it again (they compute in float32)."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPE[self.precision])

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler, active only in fp16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")


def open_runtime(options: RuntimeOptions) -> Runtime:
    """Choose the device, set the threads. Raises InputError if the device is not there."""
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    allowed = "allowed: auto, cpu, cuda, cuda:N"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"runtime.device is {name!r}; {allowed}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"runtime.device is {name!r}; {allowed}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("runtime.device is 'cuda', but no CUDA device is visible here; use runtime.device=cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError(
            f"runtime.device is {name!r}, but CUDA devices 0 to {count - 1} are visible here; use one of these"
        )
    if options.threads:
        torch.set_num_threads(options.threads)
    return Runtime(device, options.precision)
