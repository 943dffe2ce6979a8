"""What runs the encoder: the fastest that is there, agrees with PyTorch, and is said."""
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

import models
from lrcn.base.cli import UserError
from lrcn.data.frames import ClipSampler, Transform
from lrcn.data.manifest import read_sampled
from lrcn.features import engines
from lrcn.features.engines import Engine, FrameEncoder, attempt, candidates, fastest
from lrcn.features.features import Options, encode_clips

CPU = torch.device("cpu")
OTHERS = [Engine("openvino"), Engine("openvino", "bfloat16"), Engine("onnxruntime"),
          Engine("torch", "bfloat16")]


def small(modality="rgb", chunk=0):
    """An encoder of two blocks, for frames or chunks, which every engine takes in within a moment."""
    torch.manual_seed(0)
    conv, norm, pool = (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d) if chunk else \
        (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d)
    layers = [conv(3, 16, 3, 2, 1), norm(16), nn.ReLU(), conv(16, 64, 3, 2, 1), norm(64), nn.ReLU(), pool(1)]
    return models.Encoder("small", nn.Sequential(*layers), Transform(
        36, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), modality=modality, chunk=chunk))


@pytest.fixture(scope="module")
def encoder():
    return small()


@pytest.fixture(scope="module")
def pictures(encoder):
    return engines.clouds(encoder.transform, 8)


@pytest.fixture
def machine(monkeypatch):
    """machine(installed, bfloat16): what candidates() finds."""
    def pretend(installed, bfloat16):
        monkeypatch.setattr(engines, "installed", lambda name: name in ("torch", *installed))
        monkeypatch.setattr(engines, "cpu_has_bfloat16", lambda: bfloat16)
    return pretend


def test_auto_takes_what_the_machine_has(machine):
    machine(["openvino", "onnxruntime"], True)
    fast = Engine("openvino", "bfloat16")
    assert candidates("auto", "auto", CPU) == [fast, Engine("torch", "bfloat16"), Engine()]
    assert candidates("auto", "float32", CPU) == [Engine("onnxruntime"), Engine("openvino"), Engine()]
    assert candidates("openvino", "auto", CPU) == [fast, Engine("openvino")]
    machine([], True)
    assert candidates("auto", "auto", CPU) == [Engine("torch", "bfloat16"), Engine()]
    machine(["openvino"], False)
    assert candidates("auto", "auto", CPU) == [Engine("openvino"), Engine()]
    machine([], False)
    assert candidates("auto", "auto", CPU) == candidates("torch", "auto", CPU) == [Engine()]


@pytest.mark.parametrize("backend, precision, device, words", [
    ("openvino", "auto", "cuda", "--encoder_backend openvino: it runs on the CPU"),
    ("openvino", "auto", "cpu", "pip install openvino"),
    ("onnxruntime", "bfloat16", "cpu", "--encoder_precision bfloat16")])
def test_what_cannot_be_is_refused_in_one_line(machine, backend, precision, device, words):
    machine(["onnxruntime"], True)
    with pytest.raises(UserError, match=words):
        candidates(backend, precision, torch.device(device))


@pytest.mark.parametrize("engine", OTHERS, ids=str)
def test_every_engine_agrees_with_pytorch_and_looks_at_no_neighbour(encoder, pictures, engine):
    for name in ("onnxruntime", "onnx") if engine.backend == "onnxruntime" else (engine.backend,):
        pytest.importorskip(name)
    ready, fault = attempt(encoder, CPU, engine, pictures)
    values = ready(pictures)
    assert fault is None and values.shape == (8, 64)
    plain = FrameEncoder(encoder, CPU)(pictures)
    error = (values.float() - plain).abs().max() / plain.abs().max()
    assert error < (1e-5 if engine.precision == "float32" else 0.05)
    assert torch.equal(ready(pictures.roll(3, 0)), values.roll(3, 0)), "a feature depends on its place"
    other = pictures.clone()
    other[1:] = 255 - other[1:]
    assert torch.equal(ready(other)[0], values[0]), "a feature depends on its neighbours"
    begun = list(ready.each([pictures, other] * 3))     # several of them at once
    assert [torch.equal(a, b) for a, b in zip(begun, [values, ready(other)] * 3, strict=True)] == [True] * 6
    for few in (pictures[:3], pictures.repeat(2, 1, 1, 1)[:11]):
        error = ready(few).float() - FrameEncoder(encoder, CPU)(few)
        assert len(error) == len(few) and error.abs().max() / plain.abs().max() < 0.05


@pytest.mark.parametrize("engine", [OTHERS[0], OTHERS[2]], ids=str)
def test_engines_agree_with_pytorch_on_chunks_one_by_one_and_together(engine):
    pytest.importorskip(engine.backend)
    encoder = small(chunk=4)
    chunks = engines.clouds(encoder.transform, 3)
    ready, fault = attempt(encoder, CPU, engine, chunks)
    expected = FrameEncoder(encoder, CPU)(chunks)
    assert fault is None and (ready(chunks) - expected).abs().max() <= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("share, serves", [(0.2, True), (0.35, False)])
def test_an_engine_is_judged_by_each_modality_in_parts_of_its_deviation(encoder, pictures, share, serves):
    both = small("rgb+flow")
    frames = torch.stack([pictures, 128 + (pictures // 64)], 1)     # the flow is nearly alike everywhere
    ready = FrameEncoder(both, CPU, engine=Engine("torch", "bfloat16"))
    plain = ready._torch(frames, "float32").unflatten(1, (2, -1))
    deviation = (plain[:, 1] - plain[:, 1].mean(0)).norm(dim=1).square().mean().sqrt()
    deviation = max(deviation, plain[:, 1].norm(dim=1).mean() * engines.LEAST)
    error = torch.nn.functional.normalize(torch.randn(8, 64), dim=1) * share * deviation
    cosine = torch.nn.functional.cosine_similarity(
        plain.flatten(1), torch.cat([plain[:, 0], plain[:, 1] + error], 1)).mean()
    assert cosine > 0.99        # a mean cosine says nothing of it
    ready.runner = engines.at_once(lambda x: torch.cat([plain[:, 0], plain[:, 1] + error], 1))
    fault = ready.fault(frames)
    assert fault is None if serves else "on flow" in fault and "0.35" in fault


def test_a_run_keeps_its_engine_and_another_machine_says_so(machine, capsys):
    def first(backend):
        return engines.choose(own, backend, "auto", CPU, lambda engine: (None, None))[0]

    machine(["openvino", "onnxruntime"], True)
    own = small()
    engines.keep(own, [["onnxruntime", "float32", "cpu"]], "a file")
    assert engines.kept(own) == [["onnxruntime", "float32", "cpu"]]
    assert first("auto") == Engine("onnxruntime") and first("openvino") == Engine("openvino", "bfloat16")
    assert not capsys.readouterr().out
    machine([], False)
    assert first("auto") == first("auto") == Engine()
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1 and "trained with onnxruntime in float32 on cpu, which is not" in out
    for said in ("auto", [["torch"]], [["torch", "auto", "cpu"]], [None, None]):
        with pytest.raises(UserError, match="a file: settings: engines"):
            engines.keep(own, said, "a file")


@pytest.mark.parametrize("runner, words", [
    (lambda *_: engines.at_once(lambda frames: torch.randn(len(frames), 64)), "the limit is"),
    (mock.Mock(side_effect=RuntimeError("no such operator:\nFancy")), "no such operator: Fancy")])
def test_auto_falls_back_to_pytorch_and_says_why(folder, encoder, machine, monkeypatch, capsys, runner,
                                                 words):
    machine(["openvino"], False)
    monkeypatch.setitem(engines.RUNNERS, "openvino", runner)
    monkeypatch.setattr(Engine, "version", "1.0")
    clips = [ClipSampler(5).windows(video)[0] for video in read_sampled(folder)[:2]]
    plain = encode_clips(encoder, clips, folder, Options(CPU, 0, cache=False))
    capsys.readouterr()
    auto = Options(CPU, 0, backend="auto")
    assert np.allclose(encode_clips(encoder, clips, folder, auto), plain, rtol=1e-3)
    out = capsys.readouterr().out
    assert "OpenVINO 1.0 in float32 is not used: " in out and words in out and "PyTorch 1.0 in float32" in out
    assert fastest(encoder, CPU).engine == Engine()
    with pytest.raises(UserError, match="--encoder_backend openvino: it cannot run this encoder"):
        encode_clips(encoder, clips, folder, Options(CPU, 0, backend="openvino", cache=False))
