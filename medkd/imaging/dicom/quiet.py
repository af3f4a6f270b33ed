"""pydicom without its warnings: they print what a header holds, and that may be a patient's name."""

from __future__ import annotations

import logging
import threading
import warnings


class Quiet:
    """A context without warnings, and without pydicom's log, while any thread is inside.

    Python's own context for warnings would leave them off for ever if threads leave it in disorder.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
                logging.getLogger("pydicom").disabled = True

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__(None, None, None)
                logging.getLogger("pydicom").disabled = False


quiet = Quiet()
