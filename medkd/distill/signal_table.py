"""What a slow teacher made of samples, made once and read by id: embeddings for LEAF, pair scores for Margin-MSE.

The file is safetensors, memory-mapped, with the ids and the space in its header. A space names the teacher and how its
input was prepared (prompt, crop, view): signals of another one would look right and teach nonsense, so they are
refused, as is an id that is not there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medkd.errors import InputError

FORMAT = "medkd signals 1"
SHOWN = 5  # ids that an error names


class SignalTable:
    """values (N, ...): one entry for each of the N ids, which differ."""

    def __init__(self, values: Tensor, ids: Sequence[str], space: str):
        if values.ndim < 1 or len(values) != len(ids):
            raise ValueError(f"values have shape {tuple(values.shape)}; needed: ({len(ids)}, ...), an entry an id")
        self.rows = {name: row for row, name in enumerate(ids)}
        if len(self.rows) < len(ids):
            twice = [name for name, times in Counter(ids).items() if times > 1]
            raise InputError(f"ids of signals must differ{named(twice)}")
        self.values, self.space = values.detach().cpu(), space

    def of(self, ids: Sequence[str], space: str) -> Tensor:
        """(B, ...) for B ids, on the CPU. Raises InputError for another space and for ids that are not there."""
        if space != self.space:
            raise InputError(f"the signals are of the space {self.space!r}, not {space!r}; store those of the teacher "
                             "that is meant, its input prepared alike")  # fmt: skip
        missing = [name for name in ids if name not in self.rows]
        if missing:
            raise InputError(f"no signal for {len(missing)} of {len(ids)} samples{named(missing)}")
        return self.values[torch.tensor([self.rows[name] for name in ids], dtype=torch.int64)]

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        about = {"format": FORMAT, "space": self.space, "ids": json.dumps(list(self.rows))}
        partial = path.with_name(path.name + ".partial")
        save_file({"values": self.values.contiguous()}, partial, about)
        partial.replace(path)


def read_table(path: Path) -> SignalTable:
    """What `SignalTable.save` wrote. Raises InputError for another file; nothing in it is ever executed."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise InputError(f"{path} holds no signals of this version ({FORMAT})")
            return SignalTable(file.get_tensor("values"), json.loads(about["ids"]), about["space"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read as signals: {error}") from None


def pair_id(query: str, case: str) -> str:
    """The id of an ordered pair, for scores of pairs; no two pairs share one.

    >>> pair_id("knee 1", "knee 2")
    '["knee 1", "knee 2"]'
    """
    return json.dumps([query, case])


def named(ids: Sequence[str]) -> str:
    """The first few, for an error."""
    return ": " + ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
