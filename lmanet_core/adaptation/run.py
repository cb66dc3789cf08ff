"""`adapt`: recordings and weights in; weights that fit the camera out, or a plain "keep what you have".

    OUT/teacher/               frames; for a student also soft labels, label maps, an overlay video and a bag of them
    OUT/statistics.safetensors the weights with statistics of the recordings, where that is better
    OUT/gains.safetensors      and with gains and biases of the first layers, where that is better still
    OUT/training/              the student's run, where steps are given
    OUT/before/ OUT/after/     reports of lmanet evaluate on what was held out
    OUT/adapted.safetensors    only where the gate lets it pass
    OUT/summary.json           what was decided, and why

Each step leaves its result on the disk, so that an adaptation that was killed goes on with the step it was in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from lmanet_core.adaptation.config import AdaptConfig
from lmanet_core.adaptation.decision import GAINS, STATISTICS, WRITES, Adaptation, HeldOut, anew, decide
from lmanet_core.adaptation.gains import STEPS, adapt_gains
from lmanet_core.adaptation.gate import listed, runtime_device
from lmanet_core.adaptation.inspect import write_look
from lmanet_core.adaptation.progress import Progress, silent
from lmanet_core.adaptation.selection import Survey, choose, keep_clips, survey
from lmanet_core.adaptation.statistics import SHARES, adapt_statistics
from lmanet_core.adaptation.student import PAST, student_config
from lmanet_core.adaptation.teacher import THRESHOLDS, Teacher, label_clips
from lmanet_core.data.recorded_clips import RecordedClips
from lmanet_core.errors import ConfigError, InputError, WeightsError
from lmanet_core.evaluation.preflight import check_inputs
from lmanet_core.evaluation.session import name_cameras
from lmanet_core.files import output_errors, replace_file
from lmanet_core.geometry import GeometryPlan
from lmanet_core.labels.mapping import LabelMapping, load_mapping
from lmanet_core.media.result_folder import ResultFolder
from lmanet_core.network.adapter import ModuleBackbone
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.stream.stream_plan import plan_stream
from lmanet_core.training.run import train
from lmanet_core.training.run_files import LAST, RESUME
from lmanet_core.weights.checkpoint import FOREIGN, Model, hash_file, load_model, save_model
from lmanet_core.weights.runtime import prepare
from lmanet_core.weights.shipped import default_weights

_MEASURED = 32  # clips that statistics are measured on, and images that agreement is


def adapt(config: AdaptConfig, progress: Progress | None = None, say: Callable[[str], None] = lambda text: None) -> Adaptation:
    """Adapt, or go on with an adaptation that was interrupted.

    Args:
        config: see `AdaptConfig`.
        progress: makes a progress bar for what is done, in words.
        say: told what was found out.

    Raises:
        LmanetError: recordings, weights, labels or the place for results are not usable; the message says which.
    """
    progress = progress or silent
    weights = config.weights or str(default_weights())
    model = load_model(weights)
    _require_adaptable(model, config)
    _check_labels(config, model)
    out = Path(config.out)
    run = {**config.learned_from(), "weights": _identity(weights)}
    inputs = (*config.recordings, *listed(config.judge), *listed(config.guard))
    with ResultFolder(out, overwrite=config.overwrite, inputs=inputs, resume=config.resume, writes=WRITES, run=run) as folder:
        folder.keep = False
        surveys, judged = _look(config, progress)
        plan = _plan(config, model, [*surveys, *judged])
        clips = _choose_clips(config, model, plan, surveys, out / "teacher", progress)
        folder.keep = True
        frames = sum(len(seen.stamps_ns) for seen in surveys)
        say(f"{len(clips)} frames to learn from, of {frames}; network size {plan.network_size}")
        start = _adapt_statistics(config, model, weights, clips, out, progress, say)
        start = _adapt_gains(config, start, clips, out, progress, say)
        candidates = [start] if start != weights else []
        if config.steps:
            _label(config, start, clips, out, progress)
            candidates.insert(0, _train(config, load_model(start), start, clips, out, say))
        result = decide(config, model.config.labels.names, weights, candidates, HeldOut(config, surveys, judged), progress)
        _write_summary(config, weights, clips, result)
    return result


def _check_labels(config: AdaptConfig, model: Model) -> None:
    """Before an hour is spent: raises ConfigError or InputError where the labels cannot be used."""
    if not config.labels:
        return
    segmenter = VideoSegmenter(prepare(model, runtime_device(config)), SegmenterConfig(network_size=config.network_size))
    labels = model.config.labels
    mapping = load_mapping(config.mapping, labels) if config.mapping else LabelMapping.identity(labels)
    recordings = listed(config.judge) or config.recordings
    check_inputs(name_cameras(recordings, listed(config.topic), listed(config.labels), config.fps), segmenter, mapping)


def _require_adaptable(model: Model, config: AdaptConfig) -> None:
    backbone = model.network.backbone
    if model.config.architecture == FOREIGN:
        raise WeightsError(f"{model.source} cannot be trained: give the model itself, as python:FILE.py:function or hf:…")
    if config.steps and not config.all and isinstance(backbone, ModuleBackbone) and backbone.cut is None:
        raise ConfigError(
            "no last layer was found to train in these weights: --all trains all of them, and without --steps "
            "statistics and gains alone are adapted"
        )


def _past(config: AdaptConfig, model: Model) -> int:
    """Frames before each chosen one that are kept."""
    if config.stills:
        return 0
    trained = model.config.memory
    return PAST if trained is None else max(PAST, trained.memory_frames)


def _look(config: AdaptConfig, progress: Progress) -> tuple[list[Survey], list[Survey]]:
    """First passes over the recordings that are learned from, and over those that are only judged."""
    surveys = []
    for recordings, stills in ((config.recordings, config.stills), (listed(config.judge), False)):
        cameras = name_cameras(recordings, listed(config.topic), (), config.fps) if recordings else []
        seen = []
        for camera in cameras:
            with progress(f"looking at {camera.recording.name}") as advance:
                seen.append(survey(camera, 20 * config.moments, stills, advance.expect, advance))
        surveys.append(seen)
    return surveys[0], surveys[1]


def _plan(config: AdaptConfig, model: Model, surveys: Sequence[Survey]) -> GeometryPlan:
    """How all images become the network's input; raises InputError where they are of different cameras."""
    first = surveys[0]
    assert first.size is not None
    for other in surveys[1:]:
        if other.size != first.size:
            raise InputError(
                f"recordings of one camera are wanted: {first.camera.recording.name} is {first.size}, "
                f"{other.camera.recording.name} is {other.size}; adapt to each camera by itself"
            )
    settings = SegmenterConfig(network_size=config.network_size)
    return plan_stream(settings, model.network.backbone, model.config.input_size, first.size)


def _choose_clips(
    config: AdaptConfig, model: Model, plan: GeometryPlan, surveys: Sequence[Survey], root: Path, progress: Progress
) -> RecordedClips:
    if not (root / "clips.json").is_file():
        held_out = 0.0 if config.judge else config.held_out
        moments = choose(surveys, config.moments, _past(config, model), held_out)
        with progress("keeping the frames that differ") as advance:
            advance.expect(sum({moment.survey.camera.name: moment.window.stop for moment in moments}.values()))
            keep_clips(root, moments, plan, model.config.labels, advance)
    return RecordedClips(root)


def _adapt_statistics(
    config: AdaptConfig,
    model: Model,
    weights: str,
    clips: RecordedClips,
    out: Path,
    progress: Progress,
    say: Callable[[str], None],
) -> str:
    """Where the weights are that everything else starts from."""
    decided = out / "statistics.json"
    if config.statistics == "auto" and not decided.is_file():
        chosen = np.linspace(0, len(clips) - 1, min(len(clips), _MEASURED)).round().astype(int)
        frames = 1 if model.config.memory is None else model.config.memory.memory_frames + 1
        rng = np.random.default_rng(config.seed)
        images = [clips.image(clips.name(index)) for index in chosen]
        pictures = [torch.from_numpy(clips.clip(index, frames, 1, rng).frames.transpose(0, 3, 1, 2).copy()) for index in chosen]
        with progress("measuring statistics") as advance:
            advance.expect(len(SHARES) * len(images))
            adapted, agreement = adapt_statistics(model, pictures, images, runtime_device(config), advance)
        if adapted.network is not model.network:
            known = {**model.config.provenance, "statistics": f"adapted to {len(images)} frames of {_names(config)}"}
            save_model(out / STATISTICS, adapted.network, replace(model.config, provenance=known))
        with replace_file(decided) as file:
            file.write_text(json.dumps({str(share): round(value, 5) for share, value in agreement.items()}) + "\n")
    if decided.is_file():
        agreement = {float(share): value for share, value in json.loads(decided.read_text()).items()}
        shown = ", ".join(f"{value:.2f} bits with {100 * share:.0f} %" for share, value in agreement.items())
        say(f"what labels tell of mirrored pictures: {shown} of the statistics from the recordings")
    return str(out / STATISTICS) if (out / STATISTICS).is_file() else weights


def _adapt_gains(
    config: AdaptConfig, start: str, clips: RecordedClips, out: Path, progress: Progress, say: Callable[[str], None]
) -> str:
    """The same, with gains and biases of the first layers trained."""
    decided = out / "gains.json"
    if config.gains == "auto" and not decided.is_file():
        model = load_model(start)
        images = [clips.image(clips.name(index)) for index in range(len(clips))]
        with progress("training gains and biases of the first layers") as advance:
            advance.expect(STEPS)
            adapted, gained = adapt_gains(model, images, runtime_device(config), config.seed, advance)
        if adapted is not model:
            known = {
                **model.config.provenance,
                "gains": f"of the first layers, trained on {len(images)} frames of {_names(config)}",
            }
            save_model(out / GAINS, adapted.network, replace(model.config, provenance=known))
        with replace_file(decided) as file:
            file.write_text(json.dumps(None if gained is None else asdict(gained)) + "\n")
    if decided.is_file() and (told := json.loads(decided.read_text())) is not None:
        what = "are taken" if (out / GAINS).is_file() else "stay as they are"
        say(
            f"gains and biases of the first layers: {told['before']:.2f} → {told['after']:.2f} bits, agreement with reduced "
            f"pictures {100 * told['agreed_before']:.1f} → {100 * told['agreed_after']:.1f} %; they {what}"
        )
    return str(out / GAINS) if (out / GAINS).is_file() else start


def _label(config: AdaptConfig, start: str, clips: RecordedClips, out: Path, progress: Progress) -> None:
    root = out / "teacher"
    if (root / THRESHOLDS).is_file():
        return
    models = [load_model(start), *([load_model(config.teacher)] if config.teacher else [])]
    if models[-1].config.labels.names != clips.labels.names:
        wanted, got = (", ".join(names[:4]) for names in (clips.labels.names, models[-1].config.labels.names))
        raise WeightsError(f"the teacher {config.teacher} has other classes ({got}, …) than the weights ({wanted}, …)")
    teacher = Teacher([prepare(one, runtime_device(config)) for one in models], config.teacher_scales())
    with progress("labelling") as advance:
        advance.expect(len(clips))
        label_clips(root, teacher, config.keep, config.sure, advance)
    write_look(root, clips)


def _train(config: AdaptConfig, model: Model, start: str, clips: RecordedClips, out: Path, say: Callable[[str], None]) -> str:
    """The student's run; returns its weights."""
    folder = out / "training"
    if not (folder / RESUME).is_file():
        anew(folder)
    result = train(student_config(config, model.network, start, clips, folder))
    loss = f", loss {result.loss:.4f}" if math.isfinite(result.loss) else " before"  # nothing was left to train
    say(f"trained {result.steps} steps{loss}")
    return str(folder / LAST)


def _write_summary(config: AdaptConfig, weights: str, clips: RecordedClips, result: Adaptation) -> None:
    path = result.folder / "summary.json"
    content = {
        "adopted": result.adopted,
        "report": result.report.name,
        "conditions": [vars(condition) for condition in result.conditions],
        "before": asdict(result.before),
        "after": asdict(result.after),
        "weights": _identity(weights),
        "learned_from": {"frames": len(clips), "recordings": [Path(path).name for path in config.recordings]},
        "settings": {name: value for name, value in config.learned_from().items() if name != "recordings"},
    }
    with output_errors(path):
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _identity(weights: str) -> str:
    """What a file is by its content, and a model by its name."""
    return f"{Path(weights).name} {hash_file(Path(weights))}" if Path(weights).is_file() else weights


def _names(config: AdaptConfig) -> str:
    return ", ".join(Path(path).name for path in config.recordings)
