"""A run: what is frozen stays, an interrupted run goes on exactly, two processes equal one, wrong input is refused clearly."""

from __future__ import annotations

import contextlib
import csv
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from lmanet_core.commands.main import main
from lmanet_core.errors import ConfigError, InputError, OutputError, WeightsError
from lmanet_core.experiments.sets import evaluation_config
from lmanet_core.geometry import Size
from lmanet_core.labels import CITYSCAPES, LabelSet
from lmanet_core.media.result_folder import MANIFEST
from lmanet_core.network import MemoryConfig, MemoryFrames
from lmanet_core.network.memory_read import MemoryModule
from lmanet_core.stream.motion import follow
from lmanet_core.stream.segmenter import VideoSegmenter
from lmanet_core.training.config import TrainConfig
from lmanet_core.weights.checkpoint import ModelConfig, build_network, load_model, save_model
from lmanet_core.weights.runtime import prepare

pytest.importorskip("lightning", reason="training needs lightning: pip install '.[train]'")

from lmanet_core.training import machine, run_files
from lmanet_core.training.build import class_weights, frozen_modules, make_network, make_sources
from lmanet_core.training.clip_loss import ClipLoss
from lmanet_core.training.optimizer import cosine_rate, make_optimizer
from lmanet_core.training.run import NonFiniteLossError, train
from lmanet_core.training.run_files import Progress, RunFiles

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    """Six stills of 64x32 with Cityscapes' classes, the labels visible in the image."""
    folder = tmp_path_factory.mktemp("stills")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    (folder / "labels.yaml").write_text(yaml.safe_dump({k: v for k, v in CITYSCAPES.to_dict().items() if k != "groups"}))
    for index in range(6):
        rng = np.random.default_rng(index)
        labels = rng.integers(0, 19, (4, 8), np.uint8).repeat(8, 0).repeat(8, 1)
        image = CITYSCAPES.colorize(labels).astype(int) + rng.integers(-10, 10, (32, 64, 3))
        cv2.imwrite(str(folder / f"images/{index}.png"), image.clip(0, 255).astype(np.uint8)[..., ::-1])
        cv2.imwrite(str(folder / f"labels/{index}.png"), labels)
    return folder


@pytest.fixture
def settings(stills, tmp_path, single_frame_weights):
    """Of a run of three steps an epoch: the memory on top of given weights, nothing left to chance but the data."""
    return TrainConfig(
        out=str(tmp_path / "run"),
        stage="memory",
        weights=str(single_frame_weights),
        data="stills",
        root=str(stills),
        val_root=str(stills),
        size="64x32",
        memory_frames=2,
        window=3,
        key_channels=4,
        fusion="residual",
        batch_size=2,
        epochs=2,
        workers=0,
        log_every=1,
        checkpoint_every=2,
        accelerator="cpu",
        progress=False,
    )


def tensors(path):
    return load_model(path).network.state_dict()


def changed(before, after, prefix):
    names = [name for name in after if name.startswith(prefix)]
    assert names
    return {name for name in names if not torch.equal(before[name], after[name])}


def losses(folder):
    with (Path(folder) / "log.csv").open(newline="") as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file) if row["loss"]}


def make_loss(config):
    source, _ = make_sources(config)
    network, _ = make_network(config, source.labels)
    return ClipLoss(network, frozen_modules(network, config), config, class_weights(config, source))


# ---- stages


def test_memory_stage_changes_the_memory_and_nothing_of_the_backbone(settings, single_frame_weights):
    before, after = tensors(single_frame_weights), tensors(train(settings).last)
    assert not changed(before, after, "backbone.")  # BatchNorm's running statistics included
    start, _ = make_network(settings, CITYSCAPES)
    assert len(changed(start.state_dict(), after, "memory.")) == len([name for name in after if name.startswith("memory.")])


def test_joint_stage_changes_memory_and_decoder_and_nothing_of_the_encoder(settings, single_frame_weights):
    before, after = tensors(single_frame_weights), tensors(train(replace(settings, stage="joint", epochs=1)).last)
    assert not changed(before, after, "backbone.encoder.")
    decoder = changed(before, after, "backbone.decoder.")
    assert "backbone.decoder.output_conv.weight" in decoder and any("running_mean" in name for name in decoder)


def test_backbone_stage_changes_everything_and_has_no_memory(settings, single_frame_weights):
    config = replace(settings, stage="backbone", epochs=1, learning_rate=1e-3)
    before, after = tensors(single_frame_weights), tensors(train(config).last)
    assert not any(name.startswith("memory.") for name in after)
    assert {"backbone.encoder.initial_block.conv.weight", "backbone.decoder.output_conv.bias"} <= changed(before, after, "")


def test_what_is_frozen_has_no_dropout_no_batch_statistics_and_no_gradient(settings):
    loss = make_loss(settings)
    loss.train()
    backbone = loss.network.backbone
    switched = [m for m in backbone.modules() if isinstance(m, (nn.Dropout2d, nn.BatchNorm2d))]
    assert len(switched) > 20 and not any(m.training for m in switched)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    clip = torch.randint(0, 256, (2, 3, 3, 32, 64), dtype=torch.uint8)
    first, again = (loss.predict({"clip": clip}, 2)[0] for _ in range(2))
    assert torch.equal(first, again)  # with dropout on, two passes would differ
    first.sum().backward()
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(parameter.grad is not None for parameter in loss.network.memory.fusion.parameters())


def test_joint_stage_has_only_the_encoder_in_eval_mode(settings):
    backbone = make_loss(replace(settings, stage="joint")).train().network.backbone
    assert not any(m.training for m in backbone.encoder.modules())
    assert all(m.training for m in backbone.decoder.modules())


def test_stage_all_changes_the_encoder_by_the_labelled_frame_alone(settings, single_frame_weights):
    before, after = tensors(single_frame_weights), tensors(train(replace(settings, stage="all", epochs=1)).last)
    encoder = changed(before, after, "backbone.encoder.")
    assert "backbone.encoder.initial_block.conv.weight" in encoder
    assert changed(before, after, "backbone.decoder.")

    loss = make_loss(replace(settings, stage="all")).train()
    past = torch.randint(0, 256, (1, 2, 3, 32, 64), dtype=torch.uint8)
    encoded = []
    real = loss.network.encode
    loss.network.encode = lambda pixels: encoded.append(real(pixels)) or encoded[-1]
    loss.predict({"clip": torch.cat((past, past[:, :1]), 1)}, 2)
    assert [(len(maps), maps.requires_grad) for maps in encoded] == [(2, False), (1, True)]


def test_training_with_residual_fusion_starts_from_the_single_frame_network(settings):
    network = make_loss(settings).network
    features = torch.randn(2, 128, 4, 8)
    with torch.no_grad():
        kept = network.remember(torch.randn(2, 128, 4, 8))
        read = network.memory.read(features, MemoryFrames(kept.key[:, None], kept.value[:, None]))
    assert torch.equal(read, features)  # what the decoder sees


def test_keys_can_start_as_principal_components(settings, video_weights):
    result = train(replace(settings, whiten_keys=True, learning_rate=1e-9, epochs=1))
    head = tensors(result.last)["memory.memory_head.key.weight"]
    assert head[:, :, 1, 1].abs().max() > 1e-2 and head[:, :, 0].abs().max() < 1e-6
    with pytest.raises(ConfigError, match="has keys that were trained"):
        train(replace(settings, weights=str(video_weights), memory_frames=None, window=None, key_channels=None, fusion=None,
                      whiten_keys=True, overwrite=True))  # fmt: skip
    with pytest.raises(ConfigError, match="whiten_keys needs keys"):
        replace(settings, stage="backbone", whiten_keys=True)


def test_keys_learn_at_a_rate_of_their_own(settings):
    keys = ("memory.memory_head.key", "memory.query_head.key")
    gated = replace(settings, fusion="gated", key_learning_rate=0.0, epochs=1)
    before = make_loss(gated).network.state_dict()
    still = tensors(train(gated).last)
    assert all(not changed(before, still, key) for key in keys) and changed(before, still, "memory.fusion")
    config = replace(settings, key_learning_rate=0.1)
    slow = make_loss(config).network
    rates = [(group["lr"], len(group["params"])) for group in make_optimizer(slow, config).param_groups]
    assert rates[1] == (pytest.approx(0.1 * rates[0][0]), 4)


def test_dropout_is_limited(settings):
    rates = {module.p for module in make_loss(replace(settings, dropout=0.1)).network.modules() if hasattr(module, "p")}
    assert rates == {0.0, 0.03, 0.1}
    with pytest.raises(ConfigError, match="dropout must be 0 or more and below 1, got 1"):
        replace(settings, dropout=1.0)


def test_a_clip_in_training_equals_the_network_on_that_clip(settings):
    config = replace(settings, fusion="gated")
    loss = make_loss(config).eval()
    clip = torch.randint(0, 256, (2, 3, 3, 32, 64), dtype=torch.uint8)
    with torch.no_grad():
        logits, before = loss.predict({"clip": clip}, 2, with_before=True)
        expected = loss.network(clip.float() / 255.0)
        torch.testing.assert_close(logits, expected[:, 2], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(before, expected[:, 1], atol=1e-4, rtol=1e-4)


def test_a_clip_in_training_follows_motion_as_a_stream_does(settings, textured_drive):
    loss = make_loss(replace(settings, motion_compensation=True, position_bias=20.0, key_channels=8)).eval()
    network = loss.network
    with torch.no_grad():
        torch.nn.init.normal_(network.memory.fusion.blend.bias)
        frames = np.stack(textured_drive[:4])
        clip = torch.from_numpy(frames).movedim(-1, 1)[None]
        before, last = (torch.from_numpy(one)[None] for one in follow(frames, Size(8, 16))[2:])
        assert (last[0, 0, 1] - torch.arange(16.0)).median() > 2.5
        batch = {"clip": clip, "positions": last, "positions_before": before}
        features = network.encode(clip[0].float() / 255.0)
        kept = network.remember(features)

        def decoded(now, past, positions):
            memory = MemoryFrames(*(maps[None, past] for maps in kept))
            return network.decode(features[now : now + 1], memory, positions=positions)

        expected, expected_before = decoded(3, slice(1, 3), last[:, 1:]), decoded(2, slice(1, 2), before[:, 1:])
        logits, logits_before = loss.predict(batch, 2, with_before=True)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits_before, expected_before, atol=1e-4, rtol=1e-4)
        assert (logits - loss.predict({"clip": clip}, 2)[0]).abs().max() > 1e-3


def test_weights_trained_to_compensate_motion_do_so(settings, monkeypatch):
    config = replace(settings, motion_compensation=True, position_bias=20.0, key_channels=8, consistency=0.5, epochs=1)
    followed, moved = set(), MemoryModule.compensate_motion

    def watched(module, memory, positions):
        followed.add((memory.keys.shape[1], None if positions is None else positions.shape[1]))
        return moved(module, memory, positions)

    monkeypatch.setattr(MemoryModule, "compensate_motion", watched)
    result = train(config)
    assert followed == {(2, 2), (1, 1)}  # training, its frame before, validation
    memory = load_model(result.last).config.memory
    assert memory.motion_compensation and memory.position_bias == 20.0
    more = train(replace(config, weights=str(result.last), motion_compensation=None, position_bias=10.0, overwrite=True))
    assert load_model(more.last).config.memory == replace(memory, position_bias=10.0)
    with pytest.raises(ConfigError, match="position_bias is 10 in these weights and cannot be 0"):
        train(replace(config, weights=str(more.last), motion_compensation=False, position_bias=0.0, overwrite=True))
    with pytest.raises(ConfigError, match="wanted position_bias above 0"):
        train(replace(settings, motion_compensation=True))


def test_cold_start_leaves_frames_out_in_the_asked_share_of_batches(settings):
    def drawn(**options):
        loss = make_loss(replace(settings, **options))
        return [loss.draw_memory_frames(2, batch) for batch in range(200)]

    assert set(drawn()) == {2}
    assert set(drawn(cold_start=1.0)) == {1}  # the memory stage needs something to learn from
    joint = drawn(stage="joint", cold_start=0.5)
    assert set(joint) == {0, 1, 2} and 70 < joint.count(2) < 130


# ---- interruption

_KILLED = """
import os, signal, sys
from lmanet_core.commands.main import main
from lmanet_core.training.run_files import Progress
count = Progress.count_batch
def count_then_die(self, loss):
    count(self, loss)
    if self.batches == 5:  # of 6 in an epoch, two steps after the resume file
        os.kill(os.getpid(), signal.SIGKILL)
Progress.count_batch = count_then_die
main(sys.argv[1:])
"""


def test_a_run_killed_in_mid_epoch_goes_on_with_the_same_losses_and_ends_with_the_same_weights(settings, tmp_path):
    config = replace(
        settings, stage="joint", fusion="gated", batch_size=1, epochs=2, checkpoint_every=3, cold_start=0.3, patience=0
    )
    whole = train(replace(config, out=str(tmp_path / "whole")))
    written = yaml.safe_dump({name: value for name, value in config.to_dict().items() if value is not None})
    (tmp_path / "run.yaml").write_text(written)
    command = [sys.executable, "-c", _KILLED, "train", "--config", str(tmp_path / "run.yaml")]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert max(losses(config.out)) == 4
    resumed = train(replace(config, resume=True))
    assert resumed.steps == whole.steps == 12
    assert losses(config.out) == losses(tmp_path / "whole")  # exactly, all twelve
    assert not changed(tensors(whole.last), tensors(resumed.last), "")


@pytest.mark.parametrize("precision", ["32", "16"])
def test_what_an_interrupted_epoch_has_gathered_is_that_of_the_whole_epoch(settings, tmp_path, monkeypatch, precision):
    """The mean loss, on which the schedule lives, and in 16 bits the scale of the loss."""
    config = replace(settings, batch_size=1, epochs=1, checkpoint_every=3, val_root=None, precision=precision)
    train(replace(config, out=str(tmp_path / "whole")))
    count = Progress.count_batch

    def count_or_fail(self, loss):
        count(self, loss)
        if self.batches == 5:
            raise RuntimeError("interrupted")

    monkeypatch.setattr(Progress, "count_batch", count_or_fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        train(config)
    monkeypatch.undo()
    train(replace(config, resume=True))
    paths = (tmp_path / "whole/resume.ckpt", Path(config.out) / "resume.ckpt")
    whole, resumed = (torch.load(path, weights_only=True) for path in paths)
    assert all(resumed[name] == whole[name] for name in ("plateau", "progress", "precision"))
    assert whole["plateau"]["best"] > 0 and (precision == "32" or whole["precision"]["scale"] > 0)


def test_a_finished_run_is_not_run_again(settings):
    first = train(settings)
    log = (Path(settings.out) / "log.csv").read_text()
    again = train(replace(settings, resume=True))
    assert again.steps == first.steps == 6 and again.val_miou == first.val_miou
    assert (Path(settings.out) / "log.csv").read_text() == log


def test_resuming_with_other_settings_is_refused_and_says_which(settings, tmp_path, stills):
    config = replace(settings, max_steps=1, val_root=None)
    train(config)
    with pytest.raises(ConfigError, match=r"learning_rate: was 0\.0002, now 0\.1; seed: was 0, now 3"):
        train(replace(config, resume=True, learning_rate=0.1, seed=3))
    with pytest.raises(ConfigError, match="clips of the data: was 6, now"):
        (stills / "images/extra.png").write_bytes((stills / "images/0.png").read_bytes())
        (stills / "labels/extra.png").write_bytes((stills / "labels/0.png").read_bytes())
        try:
            train(replace(config, resume=True))
        finally:
            (stills / "images/extra.png").unlink()
            (stills / "labels/extra.png").unlink()
    train(replace(config, resume=True, log_every=5))  # this may change


def test_a_run_is_neither_resumed_from_nothing_nor_replaced_unasked(settings):
    with pytest.raises(InputError, match="nothing to resume"):
        train(replace(settings, resume=True))
    config = replace(settings, max_steps=1, val_root=None)
    train(config)
    with pytest.raises(OutputError, match="already holds a run"):
        train(config)
    train(replace(config, overwrite=True))
    (Path(config.out) / "resume.ckpt").write_bytes(b"damaged")
    with pytest.raises(InputError, match="not a resume file"):
        train(replace(config, resume=True))


def test_a_resume_file_of_an_earlier_version_is_refused(settings):
    config = replace(settings, max_steps=1, val_root=None)
    train(config)
    torch.save({"lmanet": {}, "state_dict": {}}, Path(config.out) / "resume.ckpt")
    with pytest.raises(InputError, match=r"resume.ckpt is of an earlier version; start a new run, with weights: .*last"):
        train(replace(config, resume=True))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_whole_files_and_goes_on(settings, tmp_path, number, code):
    config = replace(settings, epochs=1000, devices=2)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({k: v for k, v in config.to_dict().items() if v is not None}))
    process = subprocess.Popen(
        [sys.executable, "-m", "lmanet_core.commands", "train", "--config", str(tmp_path / "run.yaml")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (Path(config.out) / "last.safetensors").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)  # to the first process alone: it must end the other one
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code and "Traceback" not in error
    assert not [left for left in Path(config.out).iterdir() if left.name.startswith(".") and left.name != MANIFEST]
    done = torch.load(Path(config.out) / "resume.ckpt", weights_only=True)["progress"]["batches"]
    assert done >= 2 and len(tensors(Path(config.out) / "last.safetensors")) > 0


def test_full_disk_leaves_the_old_files_as_they_were(settings, monkeypatch):
    config = replace(settings, max_steps=2, val_root=None)
    train(config)
    files = {path: path.read_bytes() for path in Path(config.out).iterdir() if path.suffix in (".ckpt", ".safetensors")}
    real = torch.save

    def save_into_full_disk(content, file):
        real(content, file)
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 (as PyTorch's writer does)

    monkeypatch.setattr(torch, "save", save_into_full_disk)
    with pytest.raises(OutputError, match=r"resume\.ckpt: cannot be written: no space is left"):
        RunFiles(config, {}, None, object()).save({}, None, Progress())
    assert {path: path.read_bytes() for path in files} == files
    assert not [left for left in Path(config.out).iterdir() if left.name.startswith(".") and left.name != MANIFEST]


def test_full_disk_under_the_log_of_tensorboard_is_said_in_a_sentence(settings, monkeypatch):
    def fill_up(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_files.SummaryWriter, "add_scalar", fill_up)
    with pytest.raises(OutputError, match="tensorboard: cannot be written: no space is left"):
        train(settings)
    assert max(losses(settings.out)) == 1  # the line was written before


def test_what_a_kill_left_at_the_end_of_the_log_is_taken_back(settings):
    config = replace(settings, epochs=2, max_steps=3, val_root=None)
    train(config)
    log = Path(config.out) / "log.csv"
    before = log.read_bytes()
    log.write_bytes(before + b"4,1,0.5,0.1,,1,1\r\n2,0")  # of a step that is lost, and what a kill left of another
    train(replace(config, resume=True))
    assert log.read_bytes() == before and before.count(b"\n") == 4


# ---- several processes


def test_two_processes_equal_one_with_the_same_global_batch(settings, tmp_path):
    """The decoder's BatchNorm is trained here too: its statistics span both processes."""
    config = replace(settings, stage="joint", shift=2, epochs=1, batch_size=2, class_weights="data", learning_rate=1e-3)
    one = train(config)
    both = replace(config, out=str(tmp_path / "both"), devices=2)
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({k: v for k, v in both.to_dict().items() if v is not None}))
    command = [sys.executable, "-m", "lmanet_core.commands", "train", "--config", str(tmp_path / "both.yaml")]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=180)
    assert done.returncode == 0, done.stderr.decode()
    first, second = losses(config.out), losses(both.out)
    assert list(first) == list(second) == [1, 2, 3]
    assert second == pytest.approx(first, rel=1e-4)  # float32 sums in another order
    mine, theirs = tensors(one.last), tensors(Path(both.out) / "last.safetensors")
    for name in mine:
        # Not the biases before a BatchNorm: their gradient is zero but for rounding, and Adam makes steps of 1e-3 of that.
        if name.endswith((".weight", "running_var")):
            assert (mine[name] - theirs[name]).abs().mean() < 1e-5, name


def test_accumulated_batches_equal_one_large_batch(settings, tmp_path):
    large = replace(settings, batch_size=2, epochs=1, shift=0)
    small = replace(large, out=str(tmp_path / "small"), batch_size=1, accumulate=2)
    assert train(large).steps == train(small).steps == 3
    assert losses(small.out) == pytest.approx(losses(large.out), rel=1e-3)


# ---- options


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16", "fusion": "gated", "ohem": 0.3},
        {"precision": "bf16", "stage": "joint"},
        {"consistency": 0.5, "max_stride": 3, "crop": "32x32", "scale_max": 1.5, "color": 0.2, "degrade_last": 1.0},
        {"schedule": "cosine", "warmup_steps": 2, "clip_gradient": 1.0, "stage": "joint", "cold_start": 1.0},
        {"window": "global", "class_weights": "data", "workers": 1, "val_is_video": True},
    ],
    ids=lambda options: ",".join(options),
)
def test_options_train(settings, options):
    result = train(replace(settings, epochs=1, **options))
    assert result.steps == 3 and np.isfinite(result.loss) and 0 <= result.val_miou <= 1 and 0 < result.network_share < 1
    assert not [name for name, tensor in tensors(result.last).items() if not torch.isfinite(tensor).all()]


@pytest.mark.parametrize(("present", "accelerator", "devices"), [(0, "gpu", 1), (1, "gpu", 2), (1, "auto", 2)])
def test_gpus_that_are_not_there_are_refused(settings, monkeypatch, present, accelerator, devices):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: present)
    wanted = rf"GPUs wanted on this machine: {devices}; .* sees {present}; lower devices, or set accelerator: cpu"
    with pytest.raises(ConfigError, match=wanted):
        train(replace(settings, accelerator=accelerator, devices=devices))


@pytest.mark.parametrize(("computes", "chosen"), [(True, "bf16"), (False, "32")])
def test_precision_auto_is_what_the_machine_computes_in_and_is_kept(settings, monkeypatch, computes, chosen):
    monkeypatch.setattr(machine, "cpu_computes_bfloat16", lambda: computes)
    config = replace(settings, precision="auto", epochs=1)
    train(config)
    assert yaml.safe_load((Path(config.out) / "config.yaml").read_text())["precision"] == chosen
    monkeypatch.setattr(machine, "cpu_computes_bfloat16", lambda: not computes)
    other = "32" if computes else "bf16"
    with pytest.raises(ConfigError, match=f"precision: was '{chosen}', now '{other}'"):
        train(replace(config, resume=True))
    assert train(replace(config, resume=True, precision=chosen)).steps == 3


@pytest.mark.parametrize(("computes", "chosen"), [(True, "bf16"), (False, "32")])
def test_precision_auto_on_a_gpu_is_what_the_gpu_computes_in(settings, monkeypatch, computes, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: computes)
    monkeypatch.setattr(machine, "cpu_computes_bfloat16", lambda: not computes)
    assert machine.chosen_precision(replace(settings, precision="auto"), on_gpu=True) == chosen
    assert machine.chosen_precision(replace(settings, precision="16"), on_gpu=True) == "16"


def test_the_street_trains_from_nothing_and_renders_before_it_starts(settings, tmp_path):
    street = {"data": "street", "root": None, "val_root": None, "seeds": 1, "val_seeds": 1, "clips": 4, "val_clips": 1}
    cache = tmp_path / "frames"
    result = train(
        replace(settings, stage="backbone", weights=None, epochs=1, cache=str(cache), degradations="none,fog", **street)
    )
    assert result.steps == 2 and result.val_miou >= 0
    assert len(list(cache.rglob("*.npy"))) == 5  # each clip's frame once, of training and validation
    rendered = {path.relative_to(cache) for path in cache.rglob("*.npy")}
    few = tmp_path / "few"
    short = {**street, "max_steps": 1, "out": str(tmp_path / "short")}
    train(replace(settings, stage="backbone", weights=None, epochs=1, cache=str(few), degradations="none,fog", **short))
    seen = {path.relative_to(few) for path in few.rglob("*.npy")}
    assert seen < rendered and len(seen) == 3  # no more than are seen: 2 of 4, and validation


def test_a_teacher_alone_teaches(settings, single_frame_weights, stills, tmp_path):
    void = tmp_path / "void"
    (void / "labels").mkdir(parents=True)
    (void / "images").symlink_to(stills / "images")
    for path in (stills / "labels").iterdir():
        cv2.imwrite(str(void / "labels" / path.name), np.full((32, 64), 255, np.uint8))
    unlabelled = replace(
        settings, root=str(void), labels=str(stills / "labels.yaml"), fusion="gated", learning_rate=3e-3, epochs=4
    )
    assert set(losses_of(unlabelled)) == {0.0}
    taught = losses_of(replace(unlabelled, teacher=str(single_frame_weights), overwrite=True))
    assert taught[-1] < 0.8 * taught[0]


def test_a_teacher_goes_where_the_network_goes_and_never_learns(settings):
    teacher = make_loss(settings).network
    loss = ClipLoss(make_loss(settings).network, [], settings, torch.ones(19), teacher).to("meta").train()
    assert all(tensor.is_meta for tensor in teacher.state_dict().values())
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters()) and loss.network.training


def losses_of(config):
    train(config)
    return list(losses(config.out).values())


def test_learning_falls_where_the_loss_does_not(settings):
    config = replace(settings, learning_rate=1e-7, epochs=4, patience=1, val_root=None, shift=0, flip=False)
    train(replace(config, degrade_past=0.0, motion=0.0))
    with (Path(config.out) / "log.csv").open(newline="") as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert rates[0] == 1e-7 and rates[-1] == pytest.approx(0.8e-7)


def test_cosine_rises_and_falls(settings):
    config = replace(settings, schedule="cosine", warmup_steps=2, learning_rate=1.0)
    rates = [cosine_rate(config, step, 10) for step in range(11)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[10] == pytest.approx(1e-8) and rates[6] == pytest.approx(0.5)


def test_training_learns_what_can_be_learned(settings):
    config = replace(settings, stage="backbone", weights=None, epochs=8, learning_rate=5e-3, batch_size=3, val_root=None)
    curve = losses_of(config)
    assert len(curve) == 16 and sum(curve[-4:]) < sum(curve[:4]) - 0.4


# ---- results


def test_results_say_where_they_come_from_and_segment_a_video(settings, make_scene):
    result = train(settings)
    model = load_model(result.best)
    provenance = model.config.provenance
    assert provenance["stage"] == "memory" and provenance["seed"] == "0" and provenance["steps"] in ("3", "6")
    assert "stills" in provenance["data"] and "torch" in provenance["versions"] and "lightning" in provenance["versions"]
    assert float(provenance["val_miou"].split()[0]) == pytest.approx(result.val_miou, abs=1e-4)
    assert "image.safetensors" in provenance["started_from"] and provenance["command"]
    assert model.config.memory == MemoryConfig(4, 0, "residual", 3, 2) and model.config.input_size == Size(32, 64)
    segmenter = VideoSegmenter.from_weights(result.best, device="cpu")
    steps = [segmenter.step(make_scene(), index * 10**8) for index in range(3)]
    assert [step.memory_frames for step in steps] == [0, 1, 2]
    assert list((Path(settings.out) / "tensorboard").glob("events*"))
    assert yaml.safe_load((Path(settings.out) / "config.yaml").read_text())["window"] == 3


def test_best_weights_are_those_of_the_best_validation(settings):
    result = train(replace(settings, epochs=3, learning_rate=0.05, fusion="gated"))
    with (Path(settings.out) / "log.csv").open(newline="") as file:
        scores = [(float(row["val_miou"]), row["step"]) for row in csv.DictReader(file) if row["val_miou"]]
    assert len(scores) == 3
    best = max(scores, key=lambda score: score[0])
    assert load_model(result.best).config.provenance["steps"] == best[1]
    assert result.val_miou == pytest.approx(best[0], rel=1e-5)


# ---- bad input


def test_a_loss_that_is_nan_stops_the_run_and_keeps_the_batch_and_the_checkpoint(settings, monkeypatch):
    config = replace(settings, epochs=2, checkpoint_every=1, val_root=None)
    real = ClipLoss.forward
    kept = {}

    def forward(self, batch, number):
        if number == 4:
            kept.update({path.name: path.read_bytes() for path in Path(config.out).iterdir() if path.is_file()})
            return real(self, batch, number) * float("nan")
        return real(self, batch, number)

    monkeypatch.setattr(ClipLoss, "forward", forward)
    with pytest.raises(NonFiniteLossError, match="the loss is nan in batch 4; the batch is in") as caught:
        train(config)
    assert caught.value.exit_code == 1
    batch = torch.load(Path(config.out) / "bad_batch.pt", weights_only=True)
    assert batch["batch"]["clip"].shape == (2, 3, 3, 32, 64) and batch["batches"] == 4
    for name in ("resume.ckpt", "last.safetensors"):
        assert (Path(config.out) / name).read_bytes() == kept[name]
    monkeypatch.undo()
    assert train(replace(config, resume=True)).steps == 6


def test_a_gradient_that_is_infinite_never_reaches_the_weights(settings, monkeypatch):
    real = ClipLoss.forward

    def forward(self, batch, number):
        value = real(self, batch, number)
        value.register_hook(lambda gradient: gradient * float("inf"))
        return value

    monkeypatch.setattr(ClipLoss, "forward", forward)
    with pytest.raises(NonFiniteLossError, match="gradient"):
        train(replace(settings, val_root=None))


def test_more_classes_in_the_weights_than_in_the_data_is_refused_unless_the_classifier_starts_anew(settings, stills, tmp_path):
    two = tmp_path / "labels.yaml"
    two.write_text(yaml.safe_dump({"names": ["a", "b"], "colors": [[0, 0, 0], [9, 9, 9]], "ignore": list(range(2, 19))}))
    config = replace(settings, stage="backbone", labels=str(two), epochs=1)
    with pytest.raises(WeightsError, match=r"19 classes \(road.*2 classes \(a.*reset_classifier"):
        train(config)
    result = train(replace(config, reset_classifier=True))
    model = load_model(result.last)
    assert model.config.labels.names == ("a", "b") and model.config.num_classes == 2
    start, _ = make_network(replace(config, reset_classifier=True), LabelSet(("a", "b"), ((0, 0, 0), (9, 9, 9))))
    given = tensors(settings.weights)
    differing = changed(given, {k: v for k, v in start.state_dict().items() if given[k].shape == v.shape}, "backbone.")
    assert not differing  # all but the classifier was taken


def test_classes_start_as_those_that_lead_to_them(settings, tmp_path):
    names = ("person", "ground", "unheard of")
    labels = LabelSet(names, ((0, 0, 0), (9, 9, 9), (5, 5, 5)))
    leading = dict.fromkeys(CITYSCAPES.names) | {"road": "ground", "sidewalk": "ground", "person": "person"}
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(yaml.safe_dump({"classes": list(names), "prediction": leading}))
    config = replace(settings, stage="backbone", class_mapping=str(mapping))
    given, (start, built) = tensors(settings.weights), make_network(config, labels)
    state = start.state_dict()
    for name in ("weight", "bias"):
        old, new = (t[f"backbone.decoder.output_conv.{name}"].movedim(-1 if name == "bias" else 1, 0) for t in (given, state))
        road, sidewalk, person = (old[CITYSCAPES.names.index(n)] for n in ("road", "sidewalk", "person"))
        torch.testing.assert_close(new[0], person)
        torch.testing.assert_close(new[1], (road + sidewalk) / 2)
    anew, _ = make_network(replace(config, class_mapping=None, reset_classifier=True), labels)
    key = "backbone.decoder.output_conv.weight"
    torch.testing.assert_close(state[key][:, 2], anew.state_dict()[key][:, 2])
    assert built.labels.names == names
    with pytest.raises(ConfigError, match="leave one of them out"):
        make_network(replace(config, reset_classifier=True), labels)
    with pytest.raises(ConfigError, match="must lead to the classes of the data"):
        make_network(config, LabelSet(("a", "b"), ((0, 0, 0), (9, 9, 9))))


def test_missing_labels_stop_a_run_before_it_starts(settings, stills):
    hidden = stills / "labels/5.hidden"
    (stills / "labels/5.png").rename(hidden)
    try:
        with pytest.raises(InputError, match=r"not complete: missing: .*5\.png"):
            train(settings)
    finally:
        hidden.rename(stills / "labels/5.png")
    assert not Path(settings.out).exists()


def test_a_run_tells_at_its_start_what_its_label_maps_hold(settings, stills, tmp_path, capsys, caplog):
    own = tmp_path / "masks"
    shutil.copytree(stills, own)
    for file in (own / "labels").glob("*.png"):
        cv2.imwrite(str(file), np.where(cv2.imread(str(file), cv2.IMREAD_UNCHANGED) < 9, 0, 255).astype(np.uint8))
    train(replace(settings, root=str(own), val_root=None, epochs=1, progress=True))
    said = capsys.readouterr().err
    assert re.search(r"6 label maps: road \d+ %, void \d+ %", said) and "3/3" in said
    warned = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("never seen: sidewalk, building") for line in warned)
    assert any("ids: {0: road, 255: sidewalk}" in line for line in warned)


def test_memory_options_that_the_weights_do_not_have_are_refused(settings, video_weights):
    with pytest.raises(ConfigError, match="fusion is gated in these weights and cannot be residual"):
        train(replace(settings, weights=str(video_weights), key_channels=None))
    with pytest.raises(ConfigError, match=r"sides of size must be 8·n for this backbone, got 60x32; nearest is 64x32"):
        train(replace(settings, size="60x32"))


def test_towns_to_validate_on_can_be_chosen(settings):
    street = replace(settings, data="street", seeds=3, val_first_seed=3, val_seeds=2, val_clips=4, clips=6)
    training, validation = make_sources(street)
    towns = [{source.name(index).split()[1] for index in range(len(source))} for source in (training, validation)]
    assert towns == [{"0", "1", "2"}, {"3", "4"}]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 3, "devices": 2}, "multiple of 2 devices"),
        ({"stage": "joint", "weights": None}, "starts from trained weights"),
        ({"root": None}, "needs root"),
        ({"epochs": 0}, "epochs must be 1 or more"),
        ({"ohem": 0.0}, "ohem"),
        ({"cold_start": 2.0}, "cold_start must be 0 to 1"),
        ({"stride": 3, "max_stride": 2}, "max_stride"),
        ({"data": "street", "seeds": 5, "val_first_seed": 4}, r"val_first_seed must be at least seeds \(5\), got 4"),
        ({"size": "big"}, "WIDTHxHEIGHT"),
        ({"unlabelled": 0.5}, "teacher"),
        ({"consistency": 1.0, "stage": "backbone"}, "consistency needs clips"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_wrong_settings_are_refused(settings, wrong, message):
    with pytest.raises(ConfigError, match=message):
        replace(settings, **wrong)


def test_a_teacher_of_other_classes_is_refused(settings, tmp_path):
    path = tmp_path / "teacher.safetensors"
    config = ModelConfig("erfnet", 2, LabelSet(("a", "b"), ((0, 0, 0), (1, 1, 1))))
    save_model(path, build_network(config), config)
    with pytest.raises(WeightsError, match="other classes"):
        train(replace(settings, teacher=str(path)))


# ---- command line


def test_unknown_key_in_a_config_names_file_key_and_the_nearest(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("lerning_rate: 1\n")
    assert main(["train", "--config", str(tmp_path / "mine.yaml")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "mine.yaml" in message and "'lerning_rate'" in message and "learning_rate?" in message


def test_the_command_trains_with_overrides(settings, tmp_path, capsys):
    known = {name: value for name, value in settings.to_dict().items() if value is not None}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(known))
    assert main(["train", "--config", str(tmp_path / "mine.yaml"), "--epochs", "1", "--val-root", "null"]) == 0
    assert "3 steps" in capsys.readouterr().out


def test_check_lists_what_is_wrong_with_the_data(settings, stills, capsys):
    arguments = ["train", "--root", str(stills), "--weights", settings.weights, "--check"]
    assert main(arguments) == 0
    label = stills / "labels/2.png"
    content = label.read_bytes()
    cv2.imwrite(str(label), np.full((32, 64), 77, np.uint8))
    try:
        assert main(arguments) == 1
    finally:
        label.write_bytes(content)
    assert "label values 77" in capsys.readouterr().out


def test_without_lightning_the_command_says_what_to_install(settings, stills, monkeypatch, capsys):
    with contextlib.suppress(KeyError):
        monkeypatch.delitem(sys.modules, "lmanet_core.training.run")
    monkeypatch.setitem(sys.modules, "lightning.fabric", None)
    monkeypatch.delitem(sys.modules, "lmanet_core.training.machine", raising=False)
    arguments = ["train", "--root", str(stills), "--weights", settings.weights, "--out", settings.out]
    assert main(arguments) == 2
    assert "pip install '.[train]'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("path", sorted((ROOT / "config/train").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_that_we_ship_is_taken(path, tmp_path):
    content = yaml.safe_load(path.read_text())
    if "names" in content:  # labels of a data set
        LabelSet.from_dict(content)
        return
    TrainConfig(**content)
    assert evaluation_config(str(path)).stage == "backbone"  # whose set to evaluate on, whatever it is that it trains


# ---- models of other people

OWN = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.ones(1))
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 5, 4, 2), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout2d(0.5))
        self.head = nn.Conv2d(12, 19, 1)

    def forward(self, image):
        return self.head(self.stem(image) * self.scale)

def make():
    return Own(), NAMES
"""


@pytest.fixture
def own_model(tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace("NAMES", repr(CITYSCAPES.names)))
    return f"python:{tmp_path / 'own.py'}:make"


@pytest.mark.parametrize(
    ("stage", "trained"),
    [
        ("memory", set()),
        ("joint", {"head.weight", "head.bias"}),
        ("all", {"head.weight", "head.bias", "scale", "stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"}),
    ],
)
def test_memory_of_a_python_model_is_trained_and_its_frozen_part_stays(stage, trained, settings, own_model):
    settings = replace(settings, weights=own_model, stage=stage, whiten_keys=True)
    result = train(settings)
    before, after = tensors(own_model), tensors(result.last)
    moved = {name.removeprefix("backbone.module.") for name in changed({**after, **before}, after, "backbone.")}
    statistics = {"stem.1.running_mean", "stem.1.running_var", "stem.1.num_batches_tracked"} if stage == "all" else set()
    assert moved == trained | statistics
    fresh = make_network(settings, CITYSCAPES)[0].state_dict()
    assert any(name.startswith("memory.") and not torch.equal(fresh[name], after[name]) for name in after)
    model = load_model(result.last)
    assert (model.config.memory.fusion, model.config.memory.value_channels, model.config.memory.pool) == ("residual", 0, 4)
    assert VideoSegmenter(prepare(model, "cpu")).memory_capacity == 2
    assert train(replace(settings, resume=True)).steps == result.steps


def test_python_model_keeps_its_classes(settings, own_model):
    for change in ({"reset_classifier": True}, {"class_mapping": "cityscapes"}):
        with pytest.raises(ConfigError, match="keeps its own 19 classes"):
            make_network(replace(settings, weights=own_model, **change), CITYSCAPES)
