"""A folder that a run writes its results into, and what may be removed from it: only what a run of ours wrote, as it wrote it.

A run claims its folder before it writes. The claim leaves a manifest there, which the end of the run completes with the size
and SHA-256 of every file; a later run with `overwrite` removes exactly those files, if all are as they were. Whatever else is
in the folder, be it a user's own file, a result that somebody has edited, or what a killed run left half written, is never
touched: the folder is refused, with a name that is free. Two runs cannot hold one folder at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from lmanet_core.errors import ConfigError, OutputError
from lmanet_core.files import output_errors

MANIFEST = ".lmanet.json"

_AS_IT_IS: list[Any] = []

fcntl: Any
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


class ResultFolder:
    """One run's claim on a folder; a context manager.

    Args:
        path: of the folder; made where it is missing.
        overwrite: remove what an earlier run of ours left there.
        inputs: files and folders that the run reads; none of them may be among what is removed.
        resume: go on with what an earlier run of ours left, if there is any: nothing is removed then.
        writes: files and folders in it that the run writes; what is there of them after a kill is ours when a run goes on.
        run: what the result depends on, plain values; a run that goes on must have the same.

    Raises:
        ConfigError: `resume`, and the earlier run had other settings.
        OutputError: the folder holds results and `overwrite` is not given, or it holds anything that no run of ours wrote, or
            another run is writing there, or the disk says no. Nothing was removed then.
    """

    def __init__(
        self,
        path: Path,
        *,
        overwrite: bool = False,
        inputs: Iterable[str | Path] = (),
        resume: bool = False,
        writes: Iterable[str] = (),
        run: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self._about = {"writes": sorted(writes), "run": dict(run or {})}
        #: Set to False by a run that has no result yet: an exception then leaves the folder as it was before the claim.
        self.keep = True
        self._made: list[Path] = []  # folders made for this claim
        self._lock: IO[str] | None = None
        with output_errors(path):
            manifest = _read_manifest(path)
            found = sorted(_files(path))
            self._goes_on = resume and bool(manifest)
            self._foreign: frozenset[Path] = frozenset()
            if self._goes_on:
                self._compare(manifest)
                self._about["writes"] = sorted({*self._about["writes"], *manifest.get("writes", ())})
                written = [path / one for one in manifest.get("writes", ())]
                claimed = {one for one in found if any(one == own or own in one.parents for own in written)}
                self._foreign = frozenset(found) - frozenset(_ours(path)) - claimed
            if found and not self._goes_on:
                self._check(found, manifest, overwrite, [Path(one) for one in inputs])
            for folder in reversed([path, *path.parents]):
                if not folder.exists():
                    folder.mkdir()
                    self._made.append(folder)
            self._take_lock()
            if not self._goes_on:
                _remove(path, found)
            self._write({"complete": False, "files": manifest["files"] if self._goes_on else {}})

    def _compare(self, manifest: dict[str, Any]) -> None:
        """Whether a run of these settings may go on with one of those; raises ConfigError."""
        before, now = manifest.get("run") or {}, json.loads(json.dumps(self._about["run"]))
        differing = [f"{name}: was {before.get(name)!r}, now {now[name]!r}" for name in now if before.get(name) != now[name]]
        if before and differing:
            raise ConfigError(f"the run in {self.path} cannot go on with other settings: {'; '.join(differing)}")

    def _check(self, found: list[Path], manifest: dict[str, Any], overwrite: bool, inputs: list[Path]) -> None:
        """Whether everything there is may be removed; raises OutputError."""
        path, ours = self.path, _ours(self.path)
        foreign = [one for one in found if one not in ours]
        if foreign:
            name = foreign[0].relative_to(path).as_posix()
            if manifest and not manifest.get("complete"):
                why = "which may be of a run that was killed: --resume goes on where there is one, or remove it yourself, or"
            else:
                why = "which lmanet did not write:"
            raise OutputError(f"{path} holds {name}, {why} {self._elsewhere()}")
        if not overwrite:
            name = found[0].relative_to(path).parts[0]
            raise OutputError(f"{path} already holds results ({name}, …); {self._elsewhere()}, or pass --overwrite")
        for one in found:
            if not _is_unchanged(one, ours[one]):
                name = one.relative_to(path).as_posix()
                raise OutputError(f"{path} holds {name}, which was changed since lmanet wrote it; {self._elsewhere()}")
        for source in inputs:
            resolved = source.resolve()
            if any(one.resolve() == resolved or resolved in one.resolve().parents for one in found):
                raise OutputError(f"--overwrite would delete the input {source}; {self._elsewhere()}")

    def update(self, complete: bool = False) -> None:
        """Write down every file that is there now as ours, but for what somebody else left there before the claim."""
        with output_errors(self.path):
            ours = (one for one in sorted(_files(self.path)) if one not in self._foreign)
            files = {one.relative_to(self.path).as_posix(): _describe(one) for one in ours}
            self._write({"complete": complete, "files": files})

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """A run that failed before it had a result leaves nothing that would block the next one."""
        try:
            if kind is not None and not self._goes_on and not (self.keep and any(_files(self.path))):
                with contextlib.suppress(OSError):
                    _remove(self.path, list(_files(self.path)))
                    for root, _, _ in os.walk(self.path, topdown=False):
                        if root != str(self.path):
                            Path(root).rmdir()
                    (self.path / MANIFEST).unlink(missing_ok=True)
                    for folder in reversed(self._made):
                        folder.rmdir()
            else:
                try:
                    self.update(complete=True)
                except OutputError:
                    if kind is None:  # else the first error says more
                        raise
        finally:
            if self._lock is not None:
                self._lock.close()

    def _write(self, content: dict[str, Any]) -> None:
        """In place, for the lock is on this very file."""
        assert self._lock is not None
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(json.dumps({"by": "lmanet", "pid": os.getpid(), **self._about, **content}, indent=1) + "\n")
        self._lock.flush()

    def _take_lock(self) -> None:
        self._lock = (self.path / MANIFEST).open("a+", encoding="utf-8")
        if fcntl is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            pid = _read_manifest(self.path).get("pid", "unknown")
            raise OutputError(
                f"another lmanet (process {pid}) is writing to {self.path}; wait for it, or {self._elsewhere()}"
            ) from error

    def _elsewhere(self) -> str:
        return f"choose another --out, such as {free_name(self.path)}"


def free_name(path: Path) -> Path:
    """A name like this one that nothing has yet."""
    number = 2
    stem, suffix = (path.stem, path.suffix) if path.is_file() else (path.name or "out", "")
    while (free := path.with_name(f"{stem}_{number}{suffix}")).exists():
        number += 1
    return free


def _files(folder: Path) -> Iterator[Path]:
    """Files and links below a folder, the manifest left out; links are not followed."""
    for root, folders, files in os.walk(folder):
        here = Path(root)
        yield from (here / name for name in files if not (here == folder and name == MANIFEST))
        yield from (here / name for name in folders if (here / name).is_symlink())


def _ours(folder: Path) -> dict[Path, list[Any]]:
    """File → size and hash, by the manifests in a folder and below; the manifests themselves are ours as they are."""
    found: dict[Path, list[Any]] = {}
    for manifest in sorted(folder.rglob(MANIFEST), key=lambda one: len(one.parts)):  # those below know better
        content = _read_manifest(manifest.parent)
        if content:
            found |= {manifest.parent / name: entry for name, entry in content["files"].items()}
            found[manifest] = _AS_IT_IS
    return found


def _remove(folder: Path, files: Iterable[Path]) -> None:
    """Remove files, and the folders below `folder` that are empty then."""
    parents = set()
    for path in files:
        path.unlink()
        parents |= {parent for parent in path.parents if folder in parent.parents}
    for parent in sorted(parents, key=lambda one: -len(one.parts)):
        if not any(parent.iterdir()):
            parent.rmdir()


def _describe(path: Path) -> list[Any]:
    """Size and SHA-256 of a file."""
    if path.is_symlink():
        return [0, "link"]
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return [size, digest.hexdigest()]


def _is_unchanged(path: Path, written: list[Any]) -> bool:
    """Whether a file is as it was written down; a log may have grown since."""
    if written == _AS_IT_IS:
        return True
    if path.is_symlink():
        return False
    size, wanted = written
    if path.stat().st_size != size and path.suffix != ".csv":
        return False
    with path.open("rb") as file:
        digest, left = hashlib.sha256(), int(size)
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
    return left == 0 and digest.hexdigest() == wanted


def _read_manifest(folder: Path) -> dict[str, Any]:
    """What an earlier run wrote down; empty where there is nothing that can be understood."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.get("by") == "lmanet" and "files" in content else {}
