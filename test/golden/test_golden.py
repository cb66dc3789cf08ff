"""Our numbers against those of the published model: operator, fusions, loss, IoU, streams and training gradients.

The cases here are some of the golden vectors of the project (`index.json`: configuration and tolerances; `*.pt`: tensors). They
are compared through `test/golden_adapter.py`, in float32 and float64. Where the whole collection lies beside the checkout, its
own checker runs all of it as well.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lmanet_core.network import ERFNet, PSPNet101
from lmanet_core.ops import available_implementations, local_attention

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHECKER = ROOT.parent / "shared" / "golden" / "check_example.py"

CASES = json.loads((HERE / "index.json").read_text())["cases"]
#: What one tensor's relative error may be in float64: the inputs and most expected numbers are stored as float32 (6e-8).
FLOAT64_TOLERANCE = 1e-6

both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def cases(kind):
    chosen = [case for case in CASES if case["kind"] == kind]
    assert chosen
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case["name"])


def load(case):
    return torch.load(HERE / case["file"], weights_only=True)


def tolerance(case, name, dtype):
    return case["tol"][name] if dtype == torch.float32 else min(case["tol"][name], FLOAT64_TOLERANCE)


def assert_near(got, expected, tolerance, *, at_least=0.0, name="result"):
    """Errors are relative to the largest expected number, or to `at_least` where that (nearly) vanishes."""
    scale = max(expected.abs().max().item(), at_least)
    error = (got.detach().double() - expected.double()).abs().max().item() / scale
    assert error <= tolerance, f"{name}: {error:.2e} > {tolerance:.1e}"


@pytest.fixture(scope="module")
def adapter():
    spec = importlib.util.spec_from_file_location("golden_adapter", ROOT / "test" / "golden_adapter.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- weights: not stored, but made by a rule


def value_range(key, shape, backbone):
    """Lowest and highest value of a tensor, by what it is."""
    kind = key.rsplit(".", 1)[-1]
    if kind == "running_var":
        return 0.5, 1.5
    if kind == "running_mean":
        return -0.2, 0.2
    if kind == "bias":
        return -0.1, 0.1
    if len(shape) == 1:  # scale of a BatchNorm; small where a residual branch ends, so that deep networks stay in range
        gain = 1.0
        if key.endswith(".bn3.weight"):
            gain = 0.15
        elif re.search(r"layers\.\d+\.bn2\.weight$", key):
            gain = 0.4
        return 0.5 * gain, 1.5 * gain
    fan_in = math.prod(shape[1:])
    bound = math.sqrt(6.0 / fan_in)
    if re.fullmatch(r"kv_[MQ]_r4\.Key\.weight", key):  # so that the logits of the memory read are neither flat nor spikes
        bound *= {"erf": 0.4, "psp101": 0.12}[backbone]
    return -bound, bound


def ruled_tensor(key, shape, seed, backbone):
    """One stream of MT19937 per key, seeded with the CRC-32 of "seed:key"; float64 uniforms rounded once, to float32."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    stream = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode()))  # the generator that the rule names
    uniform = stream.random_sample(math.prod(shape))
    low, high = value_range(key, shape, backbone)
    return torch.from_numpy((low + (high - low) * uniform).astype(np.float32)).reshape(shape)


@pytest.fixture
def weights(published_shapes):
    """State dict of a case in the published naming; the checksum proves rule and naming."""

    def make(case, prefix=""):
        config = case["config"]
        shapes, _ = published_shapes(f"{config['backbone']} {config['fusion']}")
        state = {
            key: ruled_tensor(key, shape, config["seed"], config["backbone"])
            for key, shape in shapes.items()
            if key.startswith(prefix)
        }
        for key, value in config.get("override", {}).items():
            state[key].fill_(value)
        digest = hashlib.sha256()
        for key in sorted(state):
            digest.update(key.encode())
            digest.update(state[key].numpy().tobytes())
        assert digest.hexdigest() == case["weights_sha256"]
        return state

    return make


def network_input(frames, case, dtype):
    """(T, B, 3, H, W) uint8 → what the backbone wants."""
    backbone = {"erf": ERFNet, "psp101": PSPNet101}[case["config"]["backbone"]]
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (backbone.mean, backbone.std))
    return ((frames.float() / 255 - mean) / std).to(dtype)


# ---- the operator


def window(case):
    side = case["config"]["R"]
    return None if side == "global" else side


@both_precisions
@cases("attention")
@pytest.mark.parametrize("impl", available_implementations("cpu"))
def test_attention_and_its_gradients(impl, case, dtype):
    golden = load(case)
    query, keys, values = (golden[name].to(dtype).requires_grad_() for name in ("q", "K", "V"))
    out = local_attention(query, keys, values, window(case), impl=impl)
    out.backward(golden["grad_out"].to(dtype))
    largest_value, largest_grad = golden["V"].abs().max().item(), golden["grad_out"].abs().max().item()
    assert_near(out, golden["out"], tolerance(case, "out", dtype), at_least=0.05 * largest_value)
    for name, leaf in (("dq", query), ("dK", keys), ("dV", values)):
        assert_near(leaf.grad, golden[name], tolerance(case, "grad", dtype), at_least=0.01 * largest_grad, name=name)


@both_precisions
@cases("attention")
def test_attention_weights(case, dtype, adapter):
    golden = load(case)
    _, weights = adapter.local_attention(*(golden[name].to(dtype) for name in ("q", "K", "V")), case["config"]["R"])
    if "p" in golden:
        expected = golden["p"]
        assert weights.shape == expected.shape
    else:
        weights, expected = weights.flatten(-2)[..., golden["p_pos"]], golden["p_at"]
    assert_near(weights, expected, tolerance(case, "p_abs", dtype), at_least=1.0)


# ---- the parts of the network


@both_precisions
@cases("fusion")
def test_fusion(case, dtype, adapter, weights):
    golden = load(case)
    with torch.no_grad():
        out = adapter.fusion(case["config"], weights(case, "memory_fusion."), golden["mem"].to(dtype), golden["vQ"].to(dtype))
    assert_near(out, golden["out"], tolerance(case, "out", dtype))


@cases("loss")
def test_loss_and_its_gradient(case, adapter):
    golden = load(case)
    logits = golden["logits"][:, 0].double().requires_grad_()
    loss = adapter.loss(logits, golden["labels"].long(), case["class_weights"], case["ignore_index"])
    loss.backward()
    assert_near(loss, golden["loss"], case["tol"]["loss"])
    assert_near(logits.grad, golden["grad"][:, 0], case["tol"]["grad"])


@cases("iou")
def test_iou(case, adapter):
    golden = load(case)
    iou = adapter.iou(golden["preds"].long(), golden["labels"].long())
    assert iou == pytest.approx(golden["iou"].tolist(), abs=case["tol"]["miou"])
    assert all(iou[absent] == 1.0 for absent in case["absent_classes"])


# ---- the whole network


@both_precisions
@cases("model")
@torch.no_grad()
def test_stream(case, dtype, adapter, weights):
    golden = load(case)
    model = adapter.make_model(case["config"], weights(case))
    frames = network_input(golden["frames_u8"], case, dtype)
    (top, left), stride, largest = case["sample"]["offset"], case["sample"]["stride"], case["logits_absmax"]
    allowed = tolerance(case, "logits", dtype)
    for t, frame in enumerate(frames):
        if t in case["config"].get("reset_before", []):
            model.reset()
        logits = model.step(frame)
        for name, got in (
            ("logits_s5", logits[..., top::stride, left::stride]),
            ("logits_rowmean", logits.mean(-1)),
            ("logits_colmean", logits.mean(-2)),
        ):
            assert_near(got / largest, golden[name][t] / largest, allowed, at_least=1.0, name=f"{name} of frame {t}")
        labels = golden["argmax_u8"][t]
        decided = labels != 255
        assert torch.equal(logits.argmax(1)[decided], labels[decided].long()), f"labels of frame {t}"


@both_precisions
@cases("grad")
def test_training_gradients(case, dtype, adapter, weights):
    golden = load(case)
    frames = network_input(golden["frames_u8"], case, dtype)
    labels = golden["labels_u8"].long()[None]
    loss, gradients = adapter.train_grads(case["config"], weights(case), frames, labels, case["class_weights"])
    assert_near(loss, golden["loss"], tolerance(case, "loss", dtype))
    sampled = [name.removeprefix("grad_sample/") for name in golden if name.startswith("grad_sample/")]
    assert len(sampled) > 20
    for key in sampled:
        gradient = gradients[key].flatten()
        assert_near(
            gradient[:: max(1, gradient.numel() // 512)],
            golden[f"grad_sample/{key}"],
            tolerance(case, "grad", dtype),
            at_least=0.01 * golden[f"grad_norm/{key}"].item(),
            name=key,
        )


# ---- all public cases


@pytest.mark.parametrize("options", [(), ("--float64",)], ids=["float32", "float64"])
def test_the_collections_own_checker_accepts_all_25_public_cases(options):
    if not CHECKER.is_file():
        pytest.skip("no ../shared/golden with the whole collection beside this checkout")
    done = subprocess.run(
        [sys.executable, CHECKER, "--dir", "public", "--adapter", "golden_adapter", *options],
        cwd=ROOT / "test",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    verdicts = [line.split()[0] for line in done.stdout.splitlines() if re.match(r"\w+ +\w+_", line)]
    assert verdicts == ["ok"] * 25, done.stdout + done.stderr
    assert done.returncode == 0
