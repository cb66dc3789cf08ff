"""The weights that come with the package: ERFNet and its memory, trained from nothing on the generated street."""

from __future__ import annotations

from pathlib import Path

from lmanet_core.errors import WeightsError

_WEIGHTS = Path(__file__).parents[1] / "assets" / "erfnet_street.safetensors"


#: Said once to whoever segments with them.
STREET_ONLY = (
    "these weights know a generated street and nothing else; for real images see `lmanet weights list`, such as "
    "`lmanet weights fetch erfnet_cityscapes`"
)


def default_weights() -> Path:
    """The file; `lmanet weights info` says how it was trained.

    Raises:
        WeightsError: this installation came without it.
    """
    if not _WEIGHTS.is_file():
        raise WeightsError(f"the weights that ship with lmanet_ros are missing ({_WEIGHTS}); install it again, or give weights")
    return _WEIGHTS
