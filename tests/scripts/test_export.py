"""export.py: a run as files that say the same as PyTorch, and test_on_video.py on such a file."""
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import ROOT, call
from runs import last_line, refused, table
from videos import write_video

import export
import models
import networks
from lrcn.base.cli import UserError
from lrcn.features import onnx
from lrcn.runs import ExportFolder
from lrcn.training.recipe import Recipe
from lrcn.watching import exported
from lrcn.watching.recogniser import Recogniser

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def files(two_runs, once):
    def make(folder):
        run = shutil.copytree(two_runs / "rgb", folder / "run")
        call("export.py", run)
        return run
    return once("exported", make)


@pytest.fixture
def model(files, tmp_path):
    return shutil.copy(files / "export" / "model.onnx", tmp_path / "model.onnx")


def label(source, out, *words):
    return call("test_on_video.py", "--video_path", source, "--output_dir", out, "--no-video", *words)


def test_a_transformer_of_two_modalities_with_attention_says_the_same_as_onnx(tmp_path):
    torch.manual_seed(0)
    encoder = models.build_encoder("timm/test_vit", None, 32, "rgb+rgbdiff")
    head = models.Head(encoder.feature_dim, 3, latent_dim=16, hidden_size=8, readout="attention",
                       bidirectional=False)
    network = models.LRCN(encoder, head).eval()
    trained = networks.Trained(network, list("abc"), {}, Recipe(num_frames_video=4), None, tmp_path, 0)
    *_, shape = exported.layout_of(trained, "model")[0]
    clips = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    run = export.write_onnx(tmp_path / "model.onnx", *export.parts(trained)["model"],
                            exported.describe(trained, "model"))
    with torch.inference_mode():
        wanted, features = network(clips).softmax(-1).numpy(), encoder(clips[:, 0]).numpy()
    np.testing.assert_allclose(run(clips.numpy()), wanted, rtol=0, atol=1e-4)
    assert np.ptp(features, 0).max() > 0.01 * abs(features).max()


def about(path):
    return json.loads(onnx.runner(str(path), 1).session.get_modelmeta().custom_metadata_map["lrcn"])


def test_a_run_becomes_three_files_that_say_what_they_are(files):
    folder = files / "export"
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.onnx", "head.onnx", "model.onnx"]
    for part in exported.PARTS:
        path = ExportFolder(folder).part(part, "onnx")
        said = about(path)
        assert said["part"] == part and len(said["classes"]) == 6 and said["num_frames_video"] == 5
        assert (said["FPS"], said["sampling_rate"]) == (25, 10) and said["transform"]["modality"] == "rgb"
        raw = path.read_bytes()
        assert str(ROOT).encode() not in raw, "the file tells where its maker's code lies"
        assert raw == onnx.sealed(raw[:-76]) and not onnx.broken(raw[:-76]), "files of before have no digest"


def test_what_it_prints(files, tmp_path):
    result = call("export.py", files, "--format", "torch", "--output_dir", tmp_path / "out", "--clips", 3)
    assert last_line(result) == tmp_path / "out"
    errors = [float(x) for x in re.findall(r"to PyTorch (\S+), 3 clips of ", result.out)]
    assert len(errors) == 2 and max(errors) < 1e-5
    program = torch.export.load(tmp_path / "out" / "model.pt2", extra_files=(kept := {"lrcn.json": ""}))
    frames = torch.randint(0, 256, (7, 5, 3, 32, 32), dtype=torch.uint8)
    assert program.module()(frames).shape == (7, 6) and json.loads(kept["lrcn.json"])["part"] == "model"


def test_a_file_that_says_something_else_is_refused(files, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(torch.export, "export", lambda module, *_, **__: made.append(module))
    monkeypatch.setattr(torch.export, "save", lambda _, path, **__: path.touch())
    monkeypatch.setattr(torch.export, "load", lambda _: SimpleNamespace(
        module=lambda right=made[-1]: lambda x: right(x) + 0.002))
    refused("export.py", files, "--format", "torch", "--output_dir", tmp_path / "out",
            says=("--format torch: model differs from PyTorch", "nothing was written"))
    assert not (tmp_path / "out").exists()


def test_without_the_packages_it_says_which(files, monkeypatch):
    monkeypatch.setattr(onnx, "lacking", lambda *names: names[1:])
    refused("export.py", files, says=("onnxscript and onnxruntime", "pip install onnxscript onnxruntime"))


@pytest.fixture(scope="module")
def film(demo, tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("film") / "film.avi", 150)


def test_the_whole_network_its_halves_the_run_and_the_documents_program_say_the_same_of_a_film(
        model, files, film, tmp_path):
    result = label(film, tmp_path / "alone", "--model", model)
    assert "every window is computed whole" in result.out
    result = label(film, tmp_path / "three", "--model", files / "export" / "model.onnx")
    assert last_line(result) == tmp_path / "three" / "film" and "15 frames encoded, 11 windows" in result.out
    label(film, tmp_path / "run", "--model_dir", files)
    alone, three, own = (table(tmp_path / name / "film" / "segments.csv")
                         for name in ("alone", "three", "run"))
    assert [(row["label"], row["start"]) for row in alone] == [(row["label"], row["start"]) for row in three]
    assert three == own

    [program] = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    for said, here in (("model.onnx", model), ("holiday.mp4", film)):
        program = program.replace(f'"{said}"', repr(str(here)))
    (tmp_path / "program.py").write_text(program)
    name, probability = call(tmp_path / "program.py").out.split()
    first = table(tmp_path / "three" / "film" / "predictions.csv")[0]
    assert name == first["label_1"]
    assert float(probability) == pytest.approx(float(first["probability_1"]), abs=0.01)


def rewritten(path, change):
    import onnx as library
    graph = library.load(path)
    del graph.metadata_props[1:]    # the digest
    change(graph)
    Path(path).write_bytes(onnx.sealed(graph.SerializeToString()))


def say(path, **values):
    def change(graph):
        said = json.loads(graph.metadata_props[0].value)
        graph.metadata_props[0].value = json.dumps({**said, **values})
    rewritten(path, change)


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


def branch(graph):
    graph.graph.node.add(op_type="If").attribute.add(name="then_branch").g.name = "never"


def unsure(graph):
    [last] = [node for node in graph.graph.node if graph.graph.output[0].name in node.output]
    assert last.op_type == "Softmax"
    last.op_type = "Exp"
    last.ClearField("attribute")


def greedy(graph):
    from onnx import helper
    [last] = [node for node in graph.graph.node if graph.graph.output[0].name in node.output]
    name, last.output[0] = last.output[0], "greedy_shares"
    graph.graph.initializer.append(helper.make_tensor("greedy_size", 7, [2], [10**5, 10**6]))
    graph.graph.node.extend([helper.make_node("ReduceMean", ["greedy_shares"], ["greedy_one"], keepdims=0),
                             helper.make_node("Expand", ["greedy_one", "greedy_size"], ["greedy_ones"]),
                             helper.make_node("ReduceMean", ["greedy_ones"], ["greedy_mean"], keepdims=0),
                             helper.make_node("Mul", ["greedy_shares", "greedy_mean"], [name])])


@pytest.mark.parametrize("change, words", [
    (lambda path: path.write_bytes(path.read_bytes()[:5000]), "cut off, damaged"),
    (flip, "its check sum does not match"),
    (lambda path: say(path, transform=about(path)["transform"] | {"resize": 100_000}), "resize: expected"),
    (lambda path: say(path, num_frames_video=100_000_000), "num_frames_video: expected"),
    (lambda path: rewritten(path, branch), "loops or branches"),
    (lambda path: rewritten(path, unsure), "not probabilities (such as"),
    (lambda path: rewritten(path, greedy), "of memory"),
    (lambda path: path.write_text("words"), "not an ONNX file"),
    (lambda path: rewritten(path, lambda graph: graph.ClearField("metadata_props")), "not hold its classes"),
    (lambda path: say(path, classes=["a", "a"]), "classes: expected a list"),
    (lambda path: say(path, classes=["a"]), "has other inputs or outputs"),
    (lambda path: say(path, sampling_rate=float("nan")), "sampling_rate: expected"),
    (lambda path: say(path, part="head"), "has other inputs or outputs"),
    (lambda path: path.unlink(), "this file does not exist")])
def test_a_file_that_is_none_is_refused_in_words(model, film, change, words):
    change(Path(model))
    with pytest.raises(UserError, match="--model ") as error:
        Recogniser.of_file(model).look_through(film)
    assert words in str(error.value)


def test_a_half_is_not_the_whole_and_one_model_is_enough(files, film):
    head = files / "export" / "head.onnx"
    for words, says in ((("--model", head), "only the head; give the model.onnx beside"),
                        (("--model", head, "--model_dir", files), ("--model_dir", "or else --model")),
                        ((), ("--model_dir", "or else --model"))):
        refused("test_on_video.py", "--video_path", film, *words, says=says)
