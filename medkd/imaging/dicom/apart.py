"""Decoding in a process of its own: a file that crashes a decoder, or keeps it busy for ever, costs one message."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medkd.errors import InputError
from medkd.imaging.dicom.layout import Layout

SECONDS = 30.0
"""A file may take this long, and as long again for every SECONDS_BYTES that it has: far more than decoders need."""
SECONDS_BYTES = 16 << 20
ROOM = 1 << 30
"""Bytes that a decoder may take, besides DECODED times the pixels (JPEG 2000 works in several copies of 4 bytes)."""
DECODED = 16


class _Decoder:
    """The child of this process: started when first needed, again after a crash, gone when its input closes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.child: subprocess.Popen[bytes] | None = None
        self.owner = 0

    def ask(self, request: dict, seconds: float) -> np.ndarray:
        with self.lock:
            child = self._started()
            assert child.stdin is not None
            replies = child.stdout
            assert isinstance(replies, io.BufferedReader)
            timer = threading.Timer(seconds, child.kill)
            timer.start()
            try:
                child.stdin.write(json.dumps(request).encode() + b"\n")
                child.stdin.flush()
                reply = json.loads(replies.readline() or b"{}")
                if "problems" in reply:
                    raise InputError(reply["problems"])
                if "shape" in reply:
                    array = np.empty(reply["shape"], reply["dtype"])
                    if array.nbytes == 0 or replies.readinto(array.data.cast("B")) == array.nbytes:
                        return array
            except (OSError, ValueError):
                pass  # it ended while it was spoken to
            finally:
                expired = not timer.is_alive()
                timer.cancel()
            self.child = None
            child.kill()
            child.communicate()
        raise InputError(
            f"its decoder did not finish in {seconds:.0f} s" if expired else "its pixels crash the decoder"
        )

    def _started(self) -> subprocess.Popen[bytes]:
        if self.child is None or self.owner != os.getpid() or self.child.poll() is not None:
            root = str(Path(__file__).parents[3])
            paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
            self.owner = os.getpid()  # a forked process must not share the pipes of its parent
            self.child = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libjpeg prints what it tries
                env={**os.environ, "PYTHONPATH": paths},
            )
        return self.child


_decoder = _Decoder()


def decode_apart(file: Path, layout: Layout, frames: Sequence[int]) -> np.ndarray:
    """`decode` in the other process, with its errors; also InputError if it crashes or does not end."""
    request = {"file": str(file.absolute()), "layout": list(layout), "frames": list(frames)}
    return _decoder.ask(request, SECONDS * (1 + file.stat().st_size / SECONDS_BYTES))


def _serve() -> None:
    """Answer requests, one JSON line each: a JSON line and, if it went well, the bytes of the array."""
    from medkd.imaging.dicom.decode import decode

    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not speak into the replies
    for line in sys.stdin.buffer:
        request = json.loads(line)
        layout, data = Layout(*request["layout"]), b""
        _limit_memory(ROOM + DECODED * layout.frames * layout.frame_bytes)
        try:
            array = np.ascontiguousarray(decode(Path(request["file"]), layout, request["frames"]))
            reply = {"shape": array.shape, "dtype": array.dtype.str}
            data = array.tobytes()
        except InputError as error:
            reply = {"problems": error.problems}
        except (OSError, MemoryError) as error:
            reply = {"problems": [f"its pixels cannot be read ({error or 'out of memory'})"]}
        with contextlib.suppress(BrokenPipeError):
            replies.write(json.dumps(reply).encode() + b"\n" + data)
            replies.flush()


def _limit_memory(room: int) -> None:
    """Let this process grow by so many bytes and no further, where the system can do that (Linux)."""
    try:
        import resource

        here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (here + room, resource.RLIM_INFINITY))
    except (ImportError, OSError, ValueError):
        pass


if __name__ == "__main__":
    _serve()
