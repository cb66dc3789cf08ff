"""Photographs of telephones: HEIC and HEIF files. Needs pi-heif, the extra "heic"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import InputError
from lmanet_core.media.pixels import to_rgb

HEIF_SUFFIXES = (".heic", ".heif")


def require_heif() -> Any:
    """pi-heif; raises InputError, one sentence, where it is not installed."""
    try:
        import pi_heif
    except ImportError as error:
        raise InputError(
            "HEIC images need pi-heif, which is not installed: pip install pi-heif, the extra heic; or convert them to JPEG"
        ) from error
    return pi_heif


def decode_heif(file: Path) -> UInt8Array:
    """The picture of a file, (H, W, 3) uint8 RGB, upright as libheif turns it.

    Raises:
        InputError: pi-heif is not installed, or the file is damaged.
    """
    try:
        return to_rgb(np.asarray(require_heif().open_heif(file, convert_hdr_to_8bit=True)))
    except (ValueError, RuntimeError, EOFError, SyntaxError) as error:
        raise InputError(f"it cannot be decoded: {error}") from error
