"""Memory of the process."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 1 << 30
_LARGEST = 32 << 20  # what older versions of glibc allow


def keep_freed_memory() -> None:
    """Keeps memory that tensors on the CPU give back, up to 1 GiB, where the C library is glibc.

    It would go back to the system after every operation and be handed out, page by page, before the next.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
