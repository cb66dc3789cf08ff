"""`lmanet adapt`: weights that fit one's own camera, from its recordings and without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from lmanet_core.adaptation.config import AdaptConfig
from lmanet_core.commands.evaluate import list_recordings
from lmanet_core.commands.options import choose_weights, wants_lightning
from lmanet_core.commands.terminal import cell, console, progress
from lmanet_core.settings import settings_of

if TYPE_CHECKING:
    from lmanet_core.adaptation.gate import Judged


def make_parser() -> ArgumentParser:
    """Every setting of `AdaptConfig` as an option."""
    parser = ArgumentParser(
        description="Adapt weights to a camera from its recordings, without labels; exit code 1 where they are no better.",
        exit_on_error=False,
    )
    parser.add_argument("input", type=str, nargs="+", help="videos, bags, folders of images of one camera")
    parser.add_argument("--out", type=str, required=True, help="folder for the adapted weights, the labels and the report")
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    for one in settings_of(AdaptConfig):
        about = one.setting
        if one.kind is bool and not one.default:
            parser.add_argument(f"--{one.option}", action="store_true", help=about.help)
        else:
            parser.add_argument(f"--{one.option}", type=one.kind, default=one.default, help=about.help)
    return parser


def run(options: Namespace) -> int:
    """Adapt, and say what came of it; returns the exit code.

    Raises:
        LmanetError: recordings, weights, labels or output are not usable.
    """
    given = {one.name: options[one.name] for one in settings_of(AdaptConfig)}
    given["weights"] = choose_weights(options.weights)
    config = AdaptConfig(recordings=list_recordings(options.input, "adapt"), out=options.out, **given)
    with wants_lightning("adapting"):
        from lmanet_core.adaptation.run import adapt
    result = adapt(config, progress, lambda text: console.print(text, highlight=False, soft_wrap=True))
    _print_figures(result.before, result.after)
    for condition in result.conditions:
        print(condition.describe())
    if result.weights is None:
        print(f"no better: keep the weights as they are; {result.folder / 'summary.json'} says why")
        if not config.steps:
            print("a student may be steadier: --steps 300 trains one")
        return 1
    print(f"adopted: {result.weights}, the report is {result.report}")
    return 0


def _print_figures(before: Judged, after: Judged) -> None:
    """The weights as they were and as they are now, single frames and as the product runs."""
    table = Table(box=None, pad_edge=False)
    table.add_column()
    for column in ("single before", "before", "single after", "after"):
        table.add_column(column, justify="right")
    for name in ("miou", "flicker", "tc"):
        values = [getattr(one, prefix + name) for one in (before, after) for prefix in ("single_", "")]
        if any(value is not None for value in values):
            table.add_row(name, *(cell(value) for value in values))
    first, second = (cell(one.mirror.information) for one in (before, after))
    table.add_row("bits told of mirrored pictures", first, "", second, "")
    Console(soft_wrap=True, markup=False, highlight=False).print(table)
