"""Every test draws the same numbers on every machine, and no test fails because the machine is busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("medkd", derandomize=True)
settings.load_profile("medkd")
