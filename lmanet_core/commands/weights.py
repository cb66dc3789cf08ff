"""`lmanet weights`: look at weights or a model of somebody else's, convert them to our format, fetch published ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from lmanet_core.commands.terminal import plain_table, transfer
from lmanet_core.errors import ConfigError, OutputError
from lmanet_core.geometry import Size
from lmanet_core.labels import list_label_sets
from lmanet_core.media.result_folder import free_name
from lmanet_core.network import Backbone, ModuleBackbone
from lmanet_core.weights.adapters import Preprocessing, recut, relabel
from lmanet_core.weights.catalogue import CATALOGUE, find_weights
from lmanet_core.weights.checkpoint import hash_file, is_ours, load_model, save_model
from lmanet_core.weights.download import fetch

_LABELS = f"names, colours and groups of the classes: {', '.join(list_label_sets())} or a YAML file"


def make_parser() -> ArgumentParser:
    """Options of `lmanet weights`."""
    parser = ArgumentParser(description="Look at weights of any understood kind, or convert them.", exit_on_error=False)
    commands = parser.add_subcommands(required=True, dest="action")
    info = ArgumentParser(description="Print what a weights file holds, or what a model takes and gives.", exit_on_error=False)
    info.add_argument(
        "file", type=str, help="a file of any understood kind, hf:FOLDER, hf:owner/name or python:FILE.py:function"
    )
    info.add_argument("--cut", type=str, default="auto", help="layer of a model of your own before which the memory goes in")
    info.add_argument("--labels", type=str, default="", help=_LABELS)
    convert = ArgumentParser(description="Write weights as safetensors with metadata.", exit_on_error=False)
    convert.add_argument("file", type=str, help="weights of any understood kind")
    convert.add_argument("--out", type=str, required=True, help="file to write, .safetensors")
    convert.add_argument("--labels", type=str, default="", help=_LABELS)
    convert.add_argument("--half", action="store_true", help="float16, half the size")
    convert.add_argument("--overwrite", action="store_true", help="replace a file that is there, if it is in our format")
    commands.add_subcommand("info", info, help="print what a file holds")
    listing = ArgumentParser(description="Print the published weights that are known by name.", exit_on_error=False)
    fetching = ArgumentParser(description="Fetch published weights; their licence is shown first.", exit_on_error=False)
    fetching.add_argument("name", type=str, help="as `lmanet weights list` has it")
    fetching.add_argument("--out", type=str | None, default=None, help="file to write; default: its own name, here")
    fetching.add_argument("--accept-licence", action="store_true", help="you have read the licence and accept it")
    commands.add_subcommand("convert", convert, help="write our format")
    commands.add_subcommand("list", listing, help="published weights by name")
    commands.add_subcommand("fetch", fetching, help="fetch published weights")
    return parser


def run(options: Namespace) -> int:
    """Do what the word after `weights` says; returns the exit code.

    Raises:
        ConfigError: unknown weights, or a licence that was not accepted.
        WeightsError: not a file of weights that is understood.
        OutputError: the new file exists, or cannot be written.
    """
    action = options[options.action]
    if options.action == "list":
        return _list()
    if options.action == "fetch":
        return _fetch(action)
    if options.action == "convert":
        check_target(Path(action.out), Path(action.file), action.overwrite)
    model = load_model(action.file)
    if options.action == "info" and action.cut != "auto":
        model = recut(model, action.cut)
    if action.labels:
        model = relabel(model, action.labels)
    if options.action == "convert":
        provenance = {
            **model.config.provenance,
            "converted_from": Path(action.file).name,
            "sha256": hash_file(Path(action.file)),
        }
        save_model(action.out, model.network, replace(model.config, provenance=provenance), action.half)
        print(f"{action.out}: {model.source}, {model.parameters:,} parameters")
        return 0
    config = model.config
    table = plain_table()
    table.add_row("file", action.file)
    table.add_row("kind", model.source)
    table.add_row("architecture", config.architecture)
    table.add_row("parameters", f"{model.parameters:,}")
    for name, value in _describe(model.network.backbone):
        table.add_row(name, value)
    table.add_row("trained at", str(config.input_size))
    memory = config.memory
    if memory is None:
        table.add_row("memory", "none trained; the label memory needs none")
    else:
        table.add_row("memory", f"{memory.memory_frames} frames, window {memory.window or 'global'}, {memory.fusion} fusion")
        table.add_row("key, value", f"{memory.key_channels}, {memory.value_channels or 'the features'} channels")
        if memory.pool > 1:
            table.add_row("pool", f"{memory.pool}: it is read at stride {model.network.memory_stride}")
        if memory.position_bias:
            table.add_row(
                "position bias", f"{memory.position_bias:g}{', motion-compensated' if memory.motion_compensation else ''}"
            )
    table.add_row("classes", f"{len(config.labels.names)}: {', '.join(config.labels.names)}")
    for group, members in config.labels.groups.items():
        table.add_row(f"group {group}", ", ".join(members))
    for key, value in config.provenance.items():
        table.add_row(key, value)
    for reason in sorted(set(model.dropped.values())):
        keys = [key for key, why in model.dropped.items() if why == reason]
        table.add_row("not used", f"{len(keys)} keys ({keys[0]}, …): {reason}")
    width = None if sys.stdout.isatty() else 160  # in a pipe: a line each
    Console(soft_wrap=True, markup=False, width=width).print(table)
    return 0


def _describe(backbone: Backbone) -> Iterator[tuple[str, str]]:
    """What people ask about somebody else's model: preprocessing, cut, stride, channels, sizes."""
    if not isinstance(backbone, ModuleBackbone):
        return
    yield "preprocessing", str(Preprocessing(backbone.mean, backbone.std, backbone.bgr))
    cut = backbone.cut
    if cut is None:
        yield "cut", f"none, labels are remembered but no features: {backbone.no_cut}"
    else:
        yield "cut", f"before {cut.layer}: {cut.channels} channels at stride {cut.stride}"
        yield "logits", f"at 1/{cut.shrink} of the input's size, enlarged to it" if cut.shrink > 1 else "at the input's size"
    fixed = backbone.fixed_size
    yield "input sides", f"{Size(*fixed)} only" if fixed is not None else f"multiples of {backbone.size_multiple}"


def _list() -> int:
    for one in CATALOGUE:
        miou = f"; mIoU {one.miou}, as its authors say" if one.miou else ""
        size = "" if one.size is None else f"; {one.size / 1e6:.1f} MB"
        print(f"{one.name}: {one.data_set}{miou}{size}\n  licence: {one.licence}\n  {one.address}")
    return 0


def _fetch(options: Namespace) -> int:
    known = find_weights(options.name)
    print(f"{known.name}: {known.data_set}; licence: {known.licence}", flush=True)
    if known.on_hub:
        raise ConfigError(f"{known.name} comes with the hub's own client: give --weights {known.address} to any command")
    if not options.accept_licence:
        raise ConfigError(f"{known.name} has a licence of its own, shown above; --accept-licence says that you accept it")
    target = Path(options.out or known.file)
    with transfer(known.file) as progress:
        new = fetch(known, target, progress)
    print(f"{target}: {'fetched and checked' if new else 'is there already, and is the right one'}")
    return 0


def check_target(target: Path, source: Path, overwrite: bool) -> None:
    """Whether weights may be written there; raises OutputError where something would be lost."""
    if not target.exists():
        return
    if target.resolve() == source.resolve():
        raise OutputError(f"{target} is the file to convert; choose another --out, such as {free_name(target)}")
    if not overwrite:
        raise OutputError(f"{target} exists; choose another --out, such as {free_name(target)}, or pass --overwrite")
    if not is_ours(target):
        raise OutputError(f"{target} is none of lmanet's files and stays; choose another --out, such as {free_name(target)}")
