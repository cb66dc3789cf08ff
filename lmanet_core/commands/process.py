"""Tell the C library to keep freed memory. For executables, at their start; a library has no business calling this.

By default glibc gives blocks of camera-image and feature-map size back to the system when they are freed, and every new one is
cleared by the kernel page by page, for each message and each layer of each frame.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # bytes; older glibc refuses more
_KEEP = 512 * 2**20  # bytes; a frame's own needs come and go far below this


def keep_freed_memory() -> bool:
    """Reuse freed blocks instead of asking the system for new ones.

    Resident memory stays at its peak, as far as that is below 512 MiB above what is in use. Blocks above 32 MiB are not kept.

    Returns:
        Whether the C library took it; only glibc knows how.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _KEEP))
