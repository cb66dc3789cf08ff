"""Weights that fit one's own camera, from its recordings and without a label: `adapt(AdaptConfig(…))`.

    recordings → frames that differ → statistics of BatchNorm → teacher → student → gate → weights, or "keep what you have"
                 (selection)          (statistics)              (teacher) (training) (gate, decision)

Nothing here is a second trainer: the student is a run of `lmanet_core.training` on `data: recorded`.
"""

from lmanet_core.adaptation.config import AdaptConfig

__all__ = ["AdaptConfig"]
