"""An ONNX network as a module, run by onnxruntime on the CPU. It has logits only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lmanet_core.errors import ConfigError, WeightsError


class OnnxModule(nn.Module):
    """Feed images (1, 3, H, W) to the file's only input, take its first output for the logits.

    Args:
        path: of the file.

    Attributes:
        input_size: (height, width) where the file fixes it; None where any goes.

    Raises:
        ConfigError: onnxruntime is not installed.
        WeightsError: the file is damaged, or has not one input of images.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(
                f"{path.name} needs onnxruntime, which is not installed: pip install onnxruntime, the extra onnx"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of onnxruntime, which has a class of its own for each
            raise WeightsError(f"{path.name}: not an ONNX network, or damaged ({str(error)[:160]}); export it again") from error
        inputs = session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        images = len(shape) == 4 and (shape[1] in (3, None) or isinstance(shape[1], str))
        if not images or inputs[0].type != "tensor(float)":
            got = ", ".join(f"{one.name} {one.shape} {one.type}" for one in inputs)
            raise WeightsError(f"{path.name}: wanted one input (1, 3, H, W) of float32, got {got}; export it so")
        self._session, self._input = _Shared(session), inputs[0].name
        height, width = shape[2:]
        self.input_size = (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image (1, 3, H, W) → logits, on the image's device and in its precision."""
        (logits, *_) = self._session.run(None, {self._input: image.float().cpu().numpy()})
        return torch.from_numpy(np.asarray(logits)).to(image.device, image.dtype)


class _Shared:
    """A session that copies of a module share; it holds no state of any stream."""

    def __init__(self, session: Any) -> None:
        self.run = session.run

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self
