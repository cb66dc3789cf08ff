"""A network's parts through torch.compile (Inductor), for the setting `compile`; the machine code is kept on disk.

    prepare → `NetworkCompiler` → `compile_for` at each image: compiles where the size is new, else does nothing
                                → network.encode, decode, remember: compiled where that size is, else as they were

All compiling happens in `compile_for`. Where it fails, one warning says why, and the network runs as it was written. Inductor's
own CUDA graphs stay off: frames are captured by `stream.cuda_graph`, which calls `compile_for` in its warm-up.
"""

from __future__ import annotations

import logging
import os
import shutil
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmanet_core.network import LMANet
from lmanet_core.network.lmanet import stack_memory

#: Image sizes that a network is compiled for; Inductor makes code for one size.
MOST_SIZES = 4
_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_log = logging.getLogger(__name__)


class NetworkCompiler:
    """Has the parts of a network run compiled: encode and decode, and the memory's convolutions and fusion.

    The read between them stays as it is: on CUDA it is a Triton kernel already.

    Args:
        network: in eval mode, where and as it will run; its methods are replaced.
    """

    def __init__(self, network: LMANet) -> None:
        self._network = network
        owners: list[tuple[nn.Module, tuple[str, ...]]] = [(network.backbone, ("encode", "decode"))]
        if network.memory is not None:
            owners.append((network.memory, ("remember", "project_query", "fuse")))
        self.parts = [_Part(owner, name) for owner, names in owners for name in names]
        self._sizes: set[tuple[int, ...]] = set()  # that need no more thought: compiled, or never to be
        self._compiled = 0  # sizes
        self._closed = False  # nothing more is compiled
        self._lock = threading.Lock()

    def compile_for(self, image: torch.Tensor, attention: str = "auto") -> None:
        """Compile for images like this one, unless that is done; the network is run for it, the memory is not touched.

        Args:
            image: (B, 3, h, w), normalised, on the network's device, laid out as later ones will be.
            attention: implementation of `local_attention`.

        Raises:
            torch.OutOfMemoryError: as the network itself.
        """
        size = tuple(image.shape)
        if size in self._sizes:
            return
        with self._lock:
            if size not in self._sizes:
                self._compile_new(image, attention)
                self._sizes.add(size)

    def _compile_new(self, image: torch.Tensor, attention: str) -> None:
        height, width = image.shape[-2:]
        if self._closed:
            return
        if self._compiled == MOST_SIZES:
            self._closed = True
            _log.warning(
                "the network is compiled for %d image sizes already: %dx%d and others run without, more slowly",
                MOST_SIZES,
                width,
                height,
            )
            return
        start = time.perf_counter()
        if self._compiled:
            _log.warning("images have another size: the network is compiled for %dx%d, too, which takes a while", width, height)
        reason = why_not_compile(image.device) or self._try(image.clone(), attention)
        if reason is not None:
            self._closed = True
            _log.warning("the network cannot be compiled (%s); %dx%d runs without, more slowly", reason, width, height)
            return
        self._compiled += 1
        _log.info("compiled for %dx%d in %.1f s, kept in %s", width, height, time.perf_counter() - start, disk_cache())

    def _try(self, image: torch.Tensor, attention: str) -> str | None:
        """Run everything once, each part compiled for what it gets; what went wrong, in words."""
        done = False
        try:
            os.environ[_CACHE_VARIABLE] = str(disk_cache())  # before Inductor looks
            for part in self.parts:
                part.begin()
            features = self._network.encode(image)
            self._network.decode(features, impl=attention)
            if self._network.memory is not None:
                past = stack_memory([self._network.remember(features)])
                self._network.decode(features, past, attention)
            done = True
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of Dynamo, Inductor, Triton, a compiler, the disk, or the network as it is traced
            return _in_short(error)
        finally:
            for part in self.parts:
                part.end(keep=done)
        return None


class _Part:
    """A method of a module that runs compiled for the inputs that it was compiled for, and as it was for others.

    Attributes:
        calls: that ran compiled, and as it was.
    """

    def __init__(self, owner: nn.Module, name: str) -> None:
        self._plain: Callable[..., Any] = getattr(owner, name)
        self._fast: Callable[..., Any] | None = None
        self._known: set[tuple[Any, ...]] = set()
        self._new: set[tuple[Any, ...]] | None = None  # what it is being compiled for
        self.calls = {"compiled": 0, "plain": 0}
        setattr(owner, name, self)

    def begin(self) -> None:
        """From now on, compile for whatever comes."""
        self._new = set()
        if self._fast is None:  # not before: the import of Inductor alone may fail, where nothing can be written
            # fullgraph: what cannot be traced is an error, not a graph in pieces. The default mode leaves CUDA graphs alone.
            self._fast = torch.compile(self._plain, fullgraph=True, dynamic=False)

    def end(self, keep: bool) -> None:
        """Compile no more; what was compiled since `begin` is used, or not."""
        if keep and self._new is not None:
            self._known |= self._new
        self._new = None

    def __call__(self, *tensors: torch.Tensor) -> Any:
        about = tuple((tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors)
        fast = self._fast
        if self._new is not None:
            self._new.add(about)
        elif about not in self._known:
            fast = None
        if fast is None:
            self.calls["plain"] += 1
            return self._plain(*tensors)
        try:
            made = fast(*tensors)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # what compiled code was made for is no longer so, and it cannot be made anew
            if self._new is not None:
                raise
            self._known.clear()
            _log.warning("compiled code failed (%s); this part of the network runs without from now on", _in_short(error))
            return self(*tensors)
        self.calls["compiled"] += 1
        return made


def why_not_compile(device: torch.device) -> str | None:
    """What torch.compile lacks on this machine for such a device, in words; None where nothing is known to be missing."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "wanted the package triton (CUDA builds of PyTorch bring it)"
        wanted, found = "a C compiler (CC, gcc or clang)", find_compiler("CC", "gcc", "clang")
    else:
        wanted, found = "a C++ compiler (CXX or g++)", find_compiler("CXX", "g++")
    if found is None:
        return f"wanted {wanted}, found none; on Ubuntu: sudo apt install g++"
    if device.type != "cuda" and not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "wanted Python.h, which is not there; on Ubuntu: sudo apt install python3-dev"
    return None


def find_compiler(variable: str, *names: str) -> str | None:
    """The program that an environment variable names, else the first of these that is on PATH; None where there is none."""
    given = os.environ.get(variable)
    return next(filter(None, map(shutil.which, [given] if given else names)), None)


def disk_cache() -> Path:
    """Where code is kept: where TORCHINDUCTOR_CACHE_DIR says, else among the user's caches, which outlive a restart."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 (pathlib fails where there is no home)
    given = os.environ.get(_CACHE_VARIABLE)
    if given and not given.startswith(str(Path(tempfile.gettempdir(), "torchinductor_"))):  # that Inductor writes there itself
        return Path(given)
    return caches / "lmanet" / "inductor"


def _in_short(error: BaseException) -> str:
    """Kind of the error and the line that says most, of what went wrong within a compiler."""
    inner = getattr(error, "inner_exception", error)
    lines = str(inner).strip().splitlines() or [""]
    line = next((line for line in lines if "error: " in line), lines[0])  # of a C++ compiler
    return f"{type(inner).__name__}: {line.strip()}"
