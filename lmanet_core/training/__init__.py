"""Training: settings, losses, what is trained in which stage, and the run itself.

`lmanet_core.training.run.train(TrainConfig(…))` trains. Only `run`, `module` and `callbacks` import Lightning
(`pip install 'lmanet_ros[train]'`); the rest needs PyTorch alone.
"""

from lmanet_core.training.config import TrainConfig

__all__ = ["TrainConfig"]
