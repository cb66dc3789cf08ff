"""Training: settings, losses, what is trained in which stage, and the run itself.

`lmanet_core.training.run.train(TrainConfig(…))` trains. `run` and `machine` import Lightning's Fabric, `run_files` TensorBoard
(`pip install '.[train]'` in the checkout); the rest needs PyTorch alone.
"""

from lmanet_core.training.config import TrainConfig

__all__ = ["TrainConfig"]
