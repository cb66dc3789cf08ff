"""Our weight files: what comes back, what survives a failed write, and what is refused in which words."""

from __future__ import annotations

import errno
import io
import json
import pickle
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lmanet_core.errors import ConfigError, OutputError, WeightsError
from lmanet_core.geometry import Size
from lmanet_core.labels import CAMVID11, CITYSCAPES, LabelSet, distinct_colors
from lmanet_core.network import MemoryConfig
from lmanet_core.settings import RENAMED
from lmanet_core.training.config import TrainConfig
from lmanet_core.weights.checkpoint import ModelConfig, build_network, load_model, save_model
from lmanet_core.weights.shipped import default_weights

CONFIG = ModelConfig(
    architecture="erfnet",
    num_classes=11,
    labels=CAMVID11,
    memory=MemoryConfig(8, 16, "gated", window=5, memory_frames=3, softmax="per_frame", border="masked"),
    input_size=Size(320, 416),
    provenance={"data": "CamVid, 367 stills", "mIoU": "78.4"},
)


@pytest.fixture
def network(randomize_batch_norms):
    torch.manual_seed(0)
    return randomize_batch_norms(build_network(CONFIG))


@pytest.fixture
def saved(network, tmp_path):
    """A file of ours, alone in its folder."""
    folder = tmp_path / "weights"
    folder.mkdir()
    save_model(folder / "model.safetensors", network, CONFIG)
    return folder / "model.safetensors"


def rewrite(path, *, metadata=None, **tensors):
    """Change the metadata (a function of the JSON text) and tensors (None deletes; `__` stands for a dot)."""
    with safe_open(path, framework="pt") as file:
        text = file.metadata()["lmanet"]
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    for name, tensor in tensors.items():
        key = name.replace("__", ".")
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    save_file(state, path, metadata={"lmanet": metadata(text) if metadata else text})
    return path


def change(**entries):
    """Metadata with other entries; None deletes."""

    def apply(text):
        data = {**json.loads(text), **entries}
        return json.dumps({key: value for key, value in data.items() if value is not None})

    return apply


# ---- round trip


def test_everything_comes_back(network, saved):
    model = load_model(saved)
    assert model.config == CONFIG
    assert model.dropped == {}
    assert not model.network.training
    state = model.network.state_dict()
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())
    assert model.parameters == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("memory", [None, MemoryConfig(window=None)], ids=["no memory", "global attention"])
def test_absent_memory_and_absent_window_come_back(memory, tmp_path):
    config = ModelConfig("erfnet", 20, CITYSCAPES, memory)
    save_model(tmp_path / "model", build_network(config), config)
    loaded = load_model(tmp_path / "model")
    assert loaded.config == config
    assert (loaded.network.memory is None) == (memory is None)


def test_half_precision_and_channels_last_come_back_as_float32(network, tmp_path):
    expected = network.state_dict()["backbone.decoder.output_conv.weight"].clone().bfloat16().float()
    save_model(tmp_path / "model", network.bfloat16().to(memory_format=torch.channels_last), CONFIG)
    loaded = load_model(tmp_path / "model").network
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.backbone.decoder.output_conv.weight, expected)


def test_the_interval_between_trained_frames_comes_back_and_weights_of_before_do_not_know_it():
    told = replace(CONFIG, memory=replace(CONFIG.memory, frame_interval_s=0.1))
    assert ModelConfig.from_json(told.to_json()).memory.frame_interval_s == 0.1
    old = json.loads(told.to_json())
    del old["memory"]["frame_interval_s"]
    assert ModelConfig.from_json(json.dumps(old)).memory.frame_interval_s is None


def test_the_shipped_weights_have_no_name_of_the_release_before():
    with safe_open(default_weights(), "pt") as file:
        assert not set(RENAMED) & set(json.loads(file.metadata()["lmanet"])["memory"])


def test_the_shipped_weights_know_the_interval_they_were_trained_with():
    assert load_model(default_weights()).config.memory.frame_interval_s == 0.1


@pytest.mark.parametrize(
    ("settings", "interval_s"),
    [({"data": "street"}, 0.1), ({"data": "street", "stride": 2, "max_stride": 3}, 0.3), ({"data": "stills"}, None)],
)
def test_a_training_run_tells_the_most_time_between_its_frames(settings, interval_s):
    memory = TrainConfig(root="somewhere", weights="backbone.safetensors", **settings).memory(None, "erfnet")
    assert memory.frame_interval_s == (None if interval_s is None else pytest.approx(interval_s))


@pytest.mark.parametrize("interval_s", [0.0, -0.1, float("inf"), float("nan")])
def test_an_interval_that_is_none_is_refused(interval_s):
    with pytest.raises(ConfigError, match="frame_interval_s must be above 0 s"):
        MemoryConfig(frame_interval_s=interval_s)


def test_metadata_is_readable_json(saved):
    with safe_open(saved, framework="pt") as file:
        data = json.loads(file.metadata()["lmanet"])
    assert data["format"] == 1
    assert data["labels"]["groups"]["vehicle"] == ["car"]
    assert data["input_size"] == [320, 416]
    assert data["memory"]["window"] == 5


@pytest.mark.parametrize("name", ["model.pth", "model.txt", "model"])
def test_our_format_is_recognised_under_any_name(saved, name):
    assert load_model(saved.rename(saved.parent / name)).config == CONFIG


def test_saving_replaces_an_older_file_and_leaves_nothing_else(network, saved):
    with torch.no_grad():
        network.backbone.decoder.output_conv.bias.fill_(7.0)
    save_model(saved, network, CONFIG)
    assert (load_model(saved).network.backbone.decoder.output_conv.bias == 7.0).all()
    assert list(saved.parent.iterdir()) == [saved]


def test_saving_does_not_change_the_network(network, tmp_path):
    network.train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    save_model(tmp_path / "model", network, CONFIG)
    assert network.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


# ---- failing to write


def full_disk(path, _):
    path.touch()
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_leaves_the_old_file_and_no_other(network, saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OutputError, match=r"model\.safetensors: cannot be written: no space is left for it"):
        save_model(saved, network, CONFIG)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_interruption_leaves_the_old_file_and_no_other(network, saved, monkeypatch):
    def interrupted(path, _):
        path.touch()
        raise KeyboardInterrupt

    before = saved.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(saved, network, CONFIG)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("place", ["file/model.safetensors", "missing/model.safetensors", "folder"])
def test_place_that_cannot_be_written_is_an_output_error(place, network, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=f"{place}: cannot be written"):
        save_model(tmp_path / place, network, CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert list((tmp_path / "folder").iterdir()) == []


# ---- files that cannot be loaded


def test_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"absent\.pth: no such file"):
        load_model(tmp_path / "absent.pth")


def test_folder_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="a folder"):
        load_model(tmp_path)


def test_file_that_may_not_be_read_is_refused(saved, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)  # root may read everything, so the mode bits would not do
    with pytest.raises(WeightsError, match=r"model\.safetensors: Permission denied"):
        load_model(saved)


def test_name_too_long_for_a_file_is_refused():
    with pytest.raises(WeightsError, match="File name too long"):
        load_model("x" * 5000)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"weights", id="text"),
        pytest.param(b"<!DOCTYPE html><html>404</html>", id="web page"),
        pytest.param(random.Random(0).randbytes(4096), id="random bytes"),
        pytest.param(b"PK\x03\x04" + random.Random(1).randbytes(4096), id="no zip after all"),
    ],
)
def test_files_that_hold_no_weights_are_refused_as_such(content, tmp_path):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"broken\.pth: not a weights file, or damaged \(.+\); copy or download it again"):
        load_model(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"a pointer of Git LFS, git lfs pull"),
    ],
)
def test_what_is_there_in_place_of_weights_is_named(content, reason, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"w\.safetensors: not a weights file, or damaged \({reason}"):
        load_model(path)


def test_web_page_is_not_taken_for_malicious_nor_loading_it_unsafely_proposed(tmp_path):
    path = tmp_path / "broken.pth"
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(WeightsError) as caught:
        load_model(path)
    assert "refused" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_damage_anywhere_is_a_weights_error(zipped, tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3), "b": {"c": 1}}, buffer, _use_new_zipfile_serialization=zipped)
    content, rng, path = buffer.getvalue(), random.Random(0), tmp_path / "broken.pth"
    damaged = [content[:length] for length in range(0, len(content), 7)]
    for _ in range(300):
        flipped = bytearray(content)
        flipped[rng.randrange(len(flipped))] = rng.randrange(256)
        damaged.append(bytes(flipped))
    damaged += [rng.randbytes(rng.choice((1, 9, 30))) for _ in range(300)]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(WeightsError):  # also undamaged it holds no network of ours
            load_model(path)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.999])
def test_truncated_file_is_called_damaged(share, saved):
    content = saved.read_bytes()
    saved.write_bytes(content[: max(10, int(share * len(content)))])
    with pytest.raises(WeightsError, match=r"model\.safetensors: damaged safetensors file .*; copy or download it again"):
        load_model(saved)


def test_foreign_safetensors_are_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match=r"foreign\.safetensors: neither ERFNet .*give python:FILE\.py:function"):
        load_model(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (lambda _: "{not json", "metadata is not that of an LMANet network"),
        (lambda _: "[1, 2]", "metadata is not that of an LMANet network"),
        (lambda _: "null", "metadata is not that of an LMANet network"),
        (change(format=2), "format 2 of the metadata is not 1; update"),
        (change(architecture=None), "metadata is not that .*'architecture'"),
        (change(labels={"names": ["road"]}), "a label set has 'names', 'colors'"),
        (change(labels={"names": ["road", "road"], "colors": [[0, 0, 0]] * 2}), "class names must differ, got road"),
        (change(memory={"windows": 3}), "metadata is not that .*windows"),
        (change(memory={"window": 4}), "window must be odd and positive, .*got 4"),
        (change(input_size=[1]), "metadata is not that of an LMANet network"),
        (change(num_classes="many"), "metadata is not that .*many"),
        (change(num_classes=-1), "no erfnet can be built for it"),
        (change(memory={"key_channels": 1.5}), "no erfnet can be built for it"),
        (change(memory={"fusion": "concat", "value_channels": 9}), "concat fusion wants 64 value channels, got 9"),
        (change(architecture="unet"), "architecture 'unet' is not one of erfnet, pspnet101"),
    ],
)
def test_metadata_that_describes_no_network_is_refused(metadata, message, saved):
    with pytest.raises(WeightsError, match=message):
        load_model(rewrite(saved, metadata=metadata))


BIAS = "backbone__decoder__output_conv__bias"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({BIAS: None}, r"1 keys missing \(backbone\.decoder\.output_conv\.bias\)"),
        ({"aux__weight": torch.zeros(1)}, r"1 keys not understood \(aux\.weight\)"),
        (
            {BIAS: torch.zeros(12)},
            r"1 keys of another shape \(backbone\.decoder\.output_conv\.bias wanted \(11,\) got \(12,\)\)",
        ),
        (
            {f"extra__{i}": torch.zeros(1) for i in range(6)},
            r"6 keys not understood \(extra\.0, extra\.1, extra\.2, extra\.3, …\)",
        ),
        ({BIAS: None, "aux__weight": torch.zeros(1)}, r"1 keys missing \(.*\); 1 keys not understood \(aux"),
    ],
)
def test_keys_that_do_not_fit_are_named(tensors, message, saved):
    with pytest.raises(WeightsError, match=rf"model\.safetensors: does not fit erfnet: {message}"):
        load_model(rewrite(saved, **tensors))


def test_only_counters_of_batch_norm_may_be_missing(saved):
    counter = "backbone__encoder__initial_block__bn__num_batches_tracked"
    load_model(rewrite(saved, **{counter: None}))
    with pytest.raises(WeightsError, match="running_mean"):
        load_model(rewrite(saved, **{counter.replace("num_batches_tracked", "running_mean"): None}))


# ---- files that would run code


class Payload:
    """Creates a file when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda payload: payload, lambda payload: {"state_dict": {"a": torch.zeros(1)}, "x": payload}])
def test_file_that_would_run_code_is_refused_and_does_not(wrap, zipped, tmp_path):
    path, created = tmp_path / "malicious.pth", tmp_path / "created"
    torch.save(wrap(Payload(created)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"malicious\.pth: refused, for loading it would run code named in the file \(\S+\)"):
        load_model(path)
    assert not created.exists()
    torch.load(path, weights_only=False)
    assert created.exists()  # it would have


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_plain_pickle_is_refused_and_does_not_run(tmp_path):
    path, created = tmp_path / "malicious.pth", tmp_path / "created"
    path.write_bytes(pickle.dumps({"weight": Payload(created)}))
    with pytest.raises(WeightsError):
        load_model(path)
    assert not created.exists()
    pickle.loads(path.read_bytes())
    assert created.exists()  # it would have


# ---- configuration


def test_unknown_architecture_is_refused():
    with pytest.raises(WeightsError, match="architecture 'unet' is not one of erfnet, pspnet101"):
        build_network(ModelConfig("unet", 2, LabelSet(("a", "b"), ((0, 0, 0), (1, 1, 1)))))


def test_configuration_survives_json():
    assert ModelConfig.from_json(CONFIG.to_json()) == CONFIG


def test_metadata_with_the_names_of_the_release_before_means_the_same():
    memory = MemoryConfig(8, 16, window=5, position_bias=20.0, motion_compensation=True)
    config = replace(CONFIG, memory=memory)
    old = config.to_json().replace('"position_bias"', '"nearness"').replace('"motion_compensation"', '"follow_motion"')
    assert "position_bias" not in old and ModelConfig.from_json(old) == config


def test_json_of_something_else_is_refused():
    with pytest.raises(ConfigError, match="not that of an LMANet network"):
        ModelConfig.from_json('{"format": 1}')


def test_colours_for_nameless_classes_differ():
    colors = distinct_colors(40)
    assert len(set(colors)) == 40
    assert all(0 <= channel <= 255 for color in colors for channel in color)
