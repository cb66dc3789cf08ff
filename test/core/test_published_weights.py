"""Weight files that others published: every key is mapped, dropped for a reason, or named in the error."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lmanet_core.errors import WeightsError
from lmanet_core.geometry import Size
from lmanet_core.labels import CAMVID11, CITYSCAPES
from lmanet_core.network import MemoryConfig
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.published import import_published

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"

CITYSCAPES_S = 1 / 17
REDUCED = MemoryConfig(128, 0, "reduced-gated", 21, 3, frame_interval_s=CITYSCAPES_S)
GATED = MemoryConfig(16, 64, "gated", window=21, memory_frames=4, frame_interval_s=CITYSCAPES_S)
#: kind of the fixture `published_shapes`: (list of its keys, architecture, classes, memory, what the importer calls it)
KINDS = {
    "erf sigmoid-do1": ("keys_lmanet_erf_sigmoid-do1.txt", "erfnet", 20, GATED, "LMANet on ERFNet"),
    "erf concat": ("keys_lmanet_erf_concat.txt", "erfnet", 20, replace(GATED, fusion="concat"), "LMANet on ERFNet"),
    "psp101 sigmoid-down1": (
        "keys_lmanet_psp101_sigmoid-down1.txt", "pspnet101", 19, REDUCED,
        "LMANet on PSPNet-101",
    ),
    "erfnet": ("keys_erfnet_original.txt", "erfnet", 20, None, "single-frame ERFNet"),
    "semseg": ("keys_semseg_pspnet101.txt", "pspnet101", 19, None, "single-frame PSPNet-101"),
}  # fmt: skip
DROPPED = {
    "erf sigmoid-do1": {},
    "erf concat": {},
    "psp101 sigmoid-down1": dict.fromkeys(
        ("memory_fusion.conv_layer_2.weight", "memory_fusion.conv_layer_2.bias"), "never used"
    ),
    "erfnet": dict.fromkeys(("encoder.output_conv.weight", "encoder.output_conv.bias"), "encoder's own pretraining"),
    "semseg": dict.fromkeys(
        (
            "aux.0.weight", "aux.1.weight", "aux.1.bias", "aux.1.running_mean", "aux.1.running_var",
            "aux.1.num_batches_tracked", "aux.4.weight", "aux.4.bias",
        ),
        "auxiliary training loss",
    ),
}  # fmt: skip


def numbered(shapes):
    """A state dict whose tensors hold their own number: small on disk, and no two alike."""
    return {key: torch.tensor(float(number)).expand(shape) for number, (key, shape) in enumerate(shapes.items())}


@pytest.fixture
def erfnet(published_shapes):
    """A file of the kind that most tests need, without the prefix."""
    return numbered(published_shapes("erf sigmoid-do1")[0])


def saved(content, path):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_mapped_to_its_own_tensor_or_dropped_for_a_reason(kind, published_shapes):
    shapes, ours = published_shapes(kind)
    content = numbered(shapes)
    imported = import_published(content)
    assert imported.state_dict.keys() == set(ours.values())
    for theirs, key in ours.items():
        assert imported.state_dict[key] is content[theirs], f"{theirs} → {key}"
    assert imported.dropped.keys() == DROPPED[kind].keys()
    for key, reason in DROPPED[kind].items():
        assert reason in imported.dropped[key]


@pytest.mark.parametrize(("kind", "expected"), KINDS.items(), ids=KINDS)
def test_published_file_loads_and_says_what_it_is(kind, expected, published_shapes, tmp_path):
    _, architecture, num_classes, memory, name = expected
    shapes, ours = published_shapes(kind)
    content = numbered(shapes)
    model = load_model(saved({f"module.{key}": tensor for key, tensor in content.items()}, tmp_path / "weights.pth"))
    assert model.source == name
    assert model.config.architecture == architecture
    assert model.config.num_classes == num_classes
    assert model.config.memory == memory
    assert model.config.labels == CITYSCAPES
    assert model.config.input_size == {"erfnet": Size(512, 1024), "pspnet101": Size(1025, 2049)}[architecture]
    assert not model.network.training
    state = model.network.state_dict()
    for theirs, key in ours.items():
        assert torch.equal(state[key].float(), content[theirs]), f"{theirs} → {key}"


@pytest.mark.parametrize(("kind", "expected"), KINDS.items(), ids=KINDS)
def test_outline_in_these_tests_is_that_of_the_published_file(kind, expected, published_shapes):
    path = GOLDEN / expected[0]
    if not path.is_file():
        pytest.skip("no ../shared/golden with key lists beside this checkout")
    lines = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    published = {
        key.removeprefix("module."): () if shape == "scalar" else tuple(int(side) for side in shape.split("x"))
        for key, shape, *_ in lines
    }
    assert published_shapes(kind)[0] == published


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="flat"),
        pytest.param(lambda state: {f"module.{key}": tensor for key, tensor in state.items()}, id="with prefix"),
        pytest.param(lambda state: {"state_dict": state}, id="wrapped"),
        pytest.param(
            lambda state: {
                "epoch": 17, "arch": "lmanet", "best_acc": 0.73, "optimizer": {"state": {}, "param_groups": [{"lr": 2e-4}]},
                "state_dict": {f"module.{key}": tensor for key, tensor in state.items()},
            },
            id="training checkpoint",
        ),
        pytest.param(
            lambda state: {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")},
            id="without counters, as old PyTorch wrote",
        ),
        pytest.param(lambda state: {f"_orig_mod.{key}": tensor for key, tensor in state.items()}, id="compiled"),
        pytest.param(lambda state: {f"module._orig_mod.{key}": one for key, one in state.items()}, id="compiled, parallel"),
        pytest.param(lambda state: {key.replace(".", "._orig_mod.", 1): one for key, one in state.items()}, id="in parts"),
        pytest.param(lambda state: {f"model.{key}": tensor for key, tensor in state.items()}, id="a module's own model"),
        pytest.param(lambda state: {f"net.{key}": tensor for key, tensor in state.items()}, id="a module's own net"),
        pytest.param(lambda state: {"model": state, "epoch": 3}, id="under model"),
        pytest.param(lambda state: {"checkpoint": {"net": state}, "epoch": 3}, id="two wrappings, one of an unknown name"),
        pytest.param(
            lambda state: {"n_averaged": torch.tensor(5), **{f"module.{key}": tensor for key, tensor in state.items()}},
            id="averaged",
        ),
        pytest.param(lambda state: {"state_dict": state, "ema_state_dict": state}, id="beside its average"),
        pytest.param(
            lambda state: {
                "epoch": 3, "global_step": 10, "pytorch-lightning_version": "2.6.0", "hyper_parameters": {"lr": 1.0},
                "state_dict": {"criterion.weight": torch.ones(20), **{f"model.{key}": one for key, one in state.items()}},
            },
            id="Lightning",
        ),
    ],
)  # fmt: skip
def test_wrapping_and_prefix_do_not_matter(wrap, erfnet, tmp_path):
    model = load_model(saved(wrap(erfnet), tmp_path / "weights.pth"))
    assert model.config.memory == GATED
    assert (model.network.memory.query_head.key.bias == erfnet["kv_Q_r4.Key.bias"]).all()


@pytest.mark.parametrize("name", ["weights.pth.tar", "weights.safetensors", "weights.txt", "weights"])
def test_published_file_is_recognised_under_any_name(name, erfnet, tmp_path):
    assert load_model(saved(erfnet, tmp_path / name)).source == "LMANet on ERFNet"


def test_old_file_format_of_pytorch_is_read(erfnet, tmp_path):
    torch.save(erfnet, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert load_model(tmp_path / "old.pth").source == "LMANet on ERFNet"


def test_other_number_of_classes_gets_nameless_classes(published_shapes, tmp_path):
    shapes, _ = published_shapes("erfnet")
    shapes = {**shapes, "decoder.output_conv.weight": (16, 12, 2, 2), "decoder.output_conv.bias": (12,)}
    config = load_model(saved(numbered(shapes), tmp_path / "weights.pth")).config
    assert config.num_classes == 12
    assert config.labels.names == tuple(f"class {index}" for index in range(12))


def test_widths_of_the_memory_come_from_the_tensors(published_shapes, tmp_path):
    shapes, _ = published_shapes("erf sigmoid-do1")
    narrow = {"kv_M_r4.Key.weight": (8, 128, 3, 3), "kv_M_r4.Key.bias": (8,)}
    shapes = {**shapes, **narrow, **{key.replace("M", "Q", 1): shape for key, shape in narrow.items()}}
    assert load_model(saved(numbered(shapes), tmp_path / "weights.pth")).config.memory.key_channels == 8


def changed(state, **tensors):
    """With other tensors; `__` stands for a dot, None deletes."""
    merged = {**state, **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}
    return {key: tensor for key, tensor in merged.items() if tensor is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"memory_fusion__conv_layer_5__weight": torch.zeros(1)}, r"1 keys not understood as erfnet \(memory_fusion\.conv"),
        ({f"head__{i}": torch.zeros(1) for i in range(7)}, r"7 keys not understood as erfnet \(head\.0, .*head\.4, …\)"),
        ({"encoder__more": torch.zeros(1)}, r"1 keys not understood \(backbone\.encoder\.more\)"),
        ({"kv_Q_r4__Key__bias": None}, r"1 keys missing \(memory\.query_head\.key\.bias\)"),
        ({"kv_Q_r4__Key__bias": torch.zeros(15)}, r"memory\.query_head\.key\.bias wanted \(16,\) got \(15,\)"),
        ({"decoder__output_conv__weight": None}, r"looks like erfnet but has no decoder\.output_conv\.weight"),
        ({"decoder__output_conv__weight": torch.zeros(20)}, r"decoder\.output_conv\.weight wanted the 4 .*got \(20,\)"),
        ({"kv_M_r4__Key__weight": torch.tensor(1.0)}, r"kv_M_r4\.Key\.weight wanted the 4 dimensions .*got \(\)"),
        ({"kv_M_r4__Key__weight": torch.zeros(0, 128, 3, 3)}, r"kv_M_r4\.Key\.weight wanted .*got \(0, 128, 3, 3\)"),
        ({"kv_M_r4__Value__weight": torch.zeros(64)}, r"kv_M_r4\.Value\.weight wanted the 4 dimensions .*got \(64,\)"),
        ({"encoder__more": 3}, r"entries that are not tensors \(encoder\.more\)"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_are_named(tensors, message, erfnet, tmp_path):
    with pytest.raises(WeightsError, match=rf"weights\.pth: .*{message}"):
        load_model(saved(changed(erfnet, **tensors), tmp_path / "weights.pth"))


def test_width_that_no_concat_fusion_takes_is_refused(published_shapes, tmp_path):
    shapes, _ = published_shapes("erf concat")
    shapes = {**shapes, "kv_M_r4.Value.weight": (32, 128, 3, 3)}
    with pytest.raises(WeightsError, match="concat fusion wants 64 value channels, got 32"):
        load_model(saved(numbered(shapes), tmp_path / "weights.pth"))


def test_what_is_left_out_of_a_checkpoint_is_named(erfnet, tmp_path):
    content = {"state_dict": {**erfnet, "criterion.weight": torch.ones(20)}, "ema_state_dict": erfnet}
    dropped = load_model(saved(content, tmp_path / "weights.pth")).dropped
    assert set(dropped) == {"criterion.weight", "ema_state_dict"} and "save it alone" in dropped["ema_state_dict"]


def test_plain_safetensors_of_a_published_network_are_read(erfnet, tmp_path):
    save_file({key: tensor.contiguous() for key, tensor in erfnet.items()}, tmp_path / "weights.safetensors")
    assert load_model(tmp_path / "weights.safetensors").config.memory == GATED


def test_file_to_resume_training_from_names_the_weights_beside_it(erfnet, tmp_path):
    with pytest.raises(WeightsError, match=r"give best\.safetensors or last\.safetensors beside it"):
        load_model(saved({"network": erfnet, "progress": {"batches": 3}}, tmp_path / "resume.ckpt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, r"neither ERFNet nor PSPNet-101 \(first keys: conv1"),
        ({}, "wanted a dict of tensors, .*got nothing"),
        ({"state_dict": {}}, "wanted a dict of tensors, .*got nothing"),
        ({"epoch": 3}, r"wanted a dict of tensors, .*entries that are not tensors \(epoch\)"),
        ({"state_dict": [torch.zeros(1)]}, "wanted a dict of tensors under 'state_dict', got list"),
        ([torch.zeros(1)], "wanted a dict of tensors, got list"),
        (torch.zeros(3), "wanted a dict of tensors, got Tensor"),
    ],
)  # fmt: skip
def test_file_of_something_else_is_refused(content, message, tmp_path):
    with pytest.raises(WeightsError, match=rf"weights\.pth: {message}"):
        load_model(saved(content, tmp_path / "weights.pth"))


def test_truncated_published_file_is_called_damaged(erfnet, tmp_path):
    path = saved(erfnet, tmp_path / "weights.pth")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"weights\.pth: not a weights file, or damaged .*; copy or download it again"):
        load_model(path)


def test_real_erfnet_weights_load_and_see_the_road(shared_data):
    path = shared_data / "weights" / "erfnet_cityscapes.pth"
    picture = shared_data / "camvid" / "val" / "images" / "0016E5_07959.jpg"  # 480×360, sides divisible by 8
    if not (path.is_file() and picture.is_file()):
        pytest.skip("no ERFNet weights or CamVid pictures in ../shared/data")
    model = load_model(path)
    assert model.source == "single-frame ERFNet"
    assert model.config.memory is None and model.config.num_classes == 20
    image = torch.from_numpy(cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB))
    truth = cv2.imread(str(picture.parents[1] / "labels" / "0016E5_07959.png"), cv2.IMREAD_UNCHANGED)
    with torch.no_grad():
        seen = model.network.backbone(image.permute(2, 0, 1)[None].float() / 255).argmax(1)[0].numpy()
    road, true_road = seen == CITYSCAPES.names.index("road"), truth == CAMVID11.names.index("road")
    assert (road & true_road).sum() / (road | true_road).sum() > 0.8


@pytest.mark.parametrize("best", [np.float64(0.72), np.float32(0.72), 0.72])
def test_training_checkpoint_may_hold_its_best_accuracy_as_a_numpy_number(erfnet, tmp_path, best):
    checkpoint = {"epoch": 3, "arch": "lmanet", "state_dict": erfnet, "best_acc": best, "optimizer": {}}
    assert load_model(saved(checkpoint, tmp_path / "model_best.pth.tar")).source == "LMANet on ERFNet"


def test_numpy_1_names_of_numbers_are_known(erfnet, tmp_path):
    path = saved({"state_dict": erfnet, "best_acc": np.float64(0.72)}, tmp_path / "checkpoint.pth.tar")
    archive = dict(_members(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        for info, content in archive.items():
            out.writestr(info, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert load_model(path).source == "LMANet on ERFNet"


def _members(path):
    with zipfile.ZipFile(path) as file:
        return [(info.filename, file.read(info)) for info in file.infolist()]
