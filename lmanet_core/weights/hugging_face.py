"""Semantic-segmentation models of Hugging Face's transformers, from a folder that `save_pretrained` made or from the hub.

Nobody's code is run: `trust_remote_code` stays off, and a pickled file of weights is read with `weights_only`. Preprocessing is
read off `preprocessor_config.json`, so that neither torchvision nor Pillow is needed.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmanet_core.errors import ConfigError, WeightsError

_PROCESSOR = "preprocessor_config.json"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_WEIGHTS = re.compile(r".*\.(safetensors|bin|json)")
_MASK_CLASSIFIERS = ("maskformer", "mask2former", "eomt")  # OneFormer wants a task in words beside the image
_LEAST = 1e-6  # of a class's share, so that it has a logarithm
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Found:
    """A model and what its files say of it.

    Attributes:
        module: takes pixel values, gives an output with logits.
        family: such as "segformer".
        names: of the classes.
        mean, std: of RGB in 0–1.
        bgr: whether channels come as BGR.
        input_size: (height, width) it was trained on; None: not said.
        provenance: what else is worth telling.
    """

    module: nn.Module
    family: str
    names: tuple[str, ...]
    mean: Triple
    std: Triple
    bgr: bool
    input_size: tuple[int, int] | None
    provenance: Mapping[str, str] = field(default_factory=dict)


class MaskClassifier(nn.Module):
    """A model that gives masks and the class of each, as one that gives logits of each pixel.

    A class's share of a pixel is the sum over the masks of how much the mask covers it times how likely the mask is of that
    class (Cheng et al., "Per-Pixel Classification is Not All You Need", 2021); the logits are its logarithm.

    Args:
        model: gives `class_queries_logits` (B, Q, classes + 1) and `masks_queries_logits` (B, Q, h, w).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image (B, 3, H, W) → logits (B, classes, h, w)."""
        made = self.model(pixel_values=image)
        kinds = made.class_queries_logits.softmax(-1)[..., :-1]  # without "no object"
        covers = made.masks_queries_logits.sigmoid()
        return torch.einsum("bqc,bqhw->bchw", kinds, covers).clamp(min=_LEAST).log()


def load(name: str) -> Found:
    """The model in a folder, or on the hub.

    Args:
        name: a folder, or owner/name.

    Raises:
        ConfigError: transformers is not installed.
        WeightsError: no such model, no network, not a model for semantic segmentation, one that brings code of its own, or
            weights that leave parts of it unset.
    """
    transformers = _transformers()
    place = _place(name)
    with _quiet(transformers):
        try:
            module, report = _from_pretrained(place, transformers)
        except Exception as error:  # of transformers, its hub client and the model's code: many kinds
            raise WeightsError(f"hf:{name}: {_explain(name, error, transformers)}") from error
        processor = _read_processor(place, transformers)
    _require_all_weights(name, report)
    config = module.config
    mean, std, bgr = _preprocessing(name, processor)
    provenance = {"hugging_face": name}
    if not processor:
        provenance["note"] = f"no {_PROCESSOR}: ImageNet's mean and deviation are assumed"
    if processor.get("do_reduce_labels", processor.get("reduce_labels")):
        provenance["label images"] = "id 0 is void there, the others count one more than here (do_reduce_labels)"
    if config.model_type in _MASK_CLASSIFIERS:
        module = MaskClassifier(module)
    return Found(
        module, str(config.model_type), _class_names(config), mean, std, bgr, _input_size(processor, config), provenance
    )


def absolute(name: str) -> str:
    """The same name from any folder."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def _from_pretrained(place: str, transformers: Any) -> tuple[Any, Mapping[str, Any]]:
    """The model, and what transformers says of its weights."""
    options = {"trust_remote_code": False, "weights_only": True, "output_loading_info": True}
    try:
        module, report = transformers.AutoModelForSemanticSegmentation.from_pretrained(place, **options)
    except ValueError:
        if transformers.AutoConfig.from_pretrained(place, trust_remote_code=False).model_type not in _MASK_CLASSIFIERS:
            raise
        module, report = transformers.AutoModelForUniversalSegmentation.from_pretrained(place, **options)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()  # in the file they lie at any byte, where a CPU reads slowly and rounds otherwise
    return module, report


def files_of(name: str) -> list[Path]:
    """Configuration and weights of a model, in a folder or as the hub's client keeps them; none where it was never loaded."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download  # comes with transformers

        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except Exception:  # of the client: nothing kept
            return []
    return sorted(file for file in folder.iterdir() if _WEIGHTS.fullmatch(file.name))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"hf: needs transformers, which is not installed ({error}): pip install transformers, which is the extra hf"
        ) from error
    return transformers


def _place(name: str) -> str:
    """What `from_pretrained` gets: a folder where there is one, else the name on the hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise WeightsError(f"hf:{name}: no config.json in this folder; wanted one that save_pretrained made")
        return str(folder)
    if not _HUB_NAME.fullmatch(name):
        raise WeightsError(f"hf:{name}: no such folder; wanted hf:FOLDER as save_pretrained makes it, or hf:owner/name")
    return name


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its reports and bars, which tell what is an error here."""
    talk, client = transformers.utils.logging, logging.getLogger("huggingface_hub")
    before, bars, client_before = talk.get_verbosity(), talk.is_progress_bar_enabled(), client.level
    talk.set_verbosity(talk.CRITICAL)
    client.setLevel(logging.CRITICAL)
    talk.disable_progress_bar()
    try:
        yield
    finally:
        talk.set_verbosity(before)
        client.setLevel(client_before)
        if bars:
            talk.enable_progress_bar()


def _explain(name: str, error: Exception, transformers: Any) -> str:
    """What went wrong and what to do, in one sentence."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return (
            "this model brings code of its own, which is never run; if you trust it, give a function: python:FILE.py:function"
        )
    if isinstance(error, ValueError) and "AutoModelForSemanticSegmentation" in text:
        kind = re.search(r"(\w+)Config'>", text)
        return (
            f"wanted a model for semantic segmentation, got {kind[1] if kind else 'another'}; for others, OneFormer too, "
            "give a function that returns logits, python:FILE.py:function"
        )
    if not Path(name).expanduser().is_dir() and isinstance(error, OSError):
        return (
            "no folder of this name, and not to be had from the hub: is there a network, and does the model exist? Without a "
            f"network give a folder that save_pretrained made ({text.split('. ')[0][:160]})"
        )
    return f"cannot be loaded by transformers {transformers.__version__}: {type(error).__name__}: {text[:200]}"


def _require_all_weights(name: str, report: Mapping[str, Any]) -> None:
    missing = [key for key in report.get("missing_keys", ()) if not key.endswith("num_batches_tracked")]
    misshapen = [str(one[0] if isinstance(one, tuple) else one) for one in report.get("mismatched_keys", ())]
    for keys, what in ((missing, "are missing"), (misshapen, "have another shape")):
        if keys:
            shown = ", ".join(sorted(keys)[:3]) + (", …" if len(keys) > 3 else "")
            raise WeightsError(
                f"hf:{name}: {len(keys)} weights {what} ({shown}); is it trained for segmentation, and complete?"
            )


def _read_processor(place: str, transformers: Any) -> dict[str, Any]:
    """What the file on preprocessing says; empty where there is none."""
    if Path(place).is_dir():
        file: Path | str | None = Path(place) / _PROCESSOR
    else:
        try:
            file = transformers.utils.cached_file(place, _PROCESSOR, _raise_exceptions_for_missing_entries=False)
        except OSError:  # neither kept here nor to be had: as where there is none, which the provenance tells
            file = None
    if file is None or not Path(file).is_file():
        return {}
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file}: wanted JSON, got {error}; save the preprocessor again") from error
    return data if isinstance(data, dict) else {}


def _preprocessing(name: str, processor: Mapping[str, Any]) -> tuple[Triple, Triple, bool]:
    """Mean and deviation of RGB in 0–1, and whether BGR is wanted.

    The processor takes pixels · factor, then (x − mean) / std; here it is (pixels / 255 − mean) / std.
    """
    factor = float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 1.0
    bgr = bool(processor.get("do_flip_channel_order", False))
    means, stds = (processor.get(key) or usual for key, usual in zip(("image_mean", "image_std"), _IMAGENET, strict=True))
    if not processor.get("do_normalize", "image_mean" in processor or not processor):
        means, stds = (0.0,) * 3, (1.0,) * 3
    try:
        unit = 255.0 * factor
        (r, g, b), (u, v, w) = ([float(value) / unit for value in values] for values in (means, stds))
        assert min(u, v, w) > 0
    except (TypeError, ValueError, ZeroDivisionError, AssertionError) as error:
        raise WeightsError(
            f"hf:{name}: {_PROCESSOR}: image_mean and image_std must be three numbers, got {means}, {stds}"
        ) from error
    return ((b, g, r), (w, v, u), True) if bgr else ((r, g, b), (u, v, w), False)  # numbers are in the order of the channels


def _class_names(config: Any) -> tuple[str, ...]:
    """From `id2label`; a name that comes twice gets its id."""
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    return tuple(name if names.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(names))


def _input_size(processor: Mapping[str, Any], config: Any) -> tuple[int, int] | None:
    for size in (processor.get("crop_size") if processor.get("do_center_crop") else None, processor.get("size")):
        if isinstance(size, dict):
            size = (size.get("height"), size.get("width")) if "height" in size else size.get("shortest_edge")
        if isinstance(size, int):
            size = (size, size)
        if isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size):
            return size[0], size[1]
    trained = getattr(config, "image_size", None)
    if isinstance(trained, int):
        return trained, trained
    if isinstance(trained, tuple | list) and len(trained) == 2:
        return int(trained[0]), int(trained[1])
    return None
