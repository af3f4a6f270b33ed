"""Which samples a step reads: an infinite run of shuffled passes, as a pure function of the step.

The few labelled cases are passed over again and again while one pass over the unlabelled ones lasts: there are no
epochs, no iterator to save and no workers to restart. Within a pass no sample repeats; what is left of a pass at the
end of a batch opens the next batch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from medkd.engine.randomness import key


def indices(seed: int, name: str, samples: int, batch: int, step: int) -> np.ndarray:
    """The `batch` sample numbers (0 .. samples - 1) that stream `name` reads at `step`."""
    first = step * batch
    positions = np.arange(first, first + batch)
    return np.array([_pass(seed, name, samples, p // samples)[p % samples] for p in positions])


@lru_cache(maxsize=64)
def _pass(seed: int, name: str, samples: int, number: int) -> np.ndarray:
    return np.random.default_rng(key(seed, "pass", name, number)).permutation(samples)
