"""Checkpoints of two other programs, by the names that they published, become run folders: the networks are
built here by hand."""
import pytest
import torch
from commands import call
from runs import data_flags, last_line, read_json, refused, report_of
from torch import nn
from torchvision.models import resnet18

import convert
import networks
import utils
from lrcn.data.frames import Transform
from lrcn.training.recipe import parse
from lrcn.watching.recogniser import Recogniser

LATENT, HIDDEN, CLASSES = 12, 8, 6
MEAN, STD = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
named = nn.ModuleDict


def lrcn():
    """(a network with the names of ConvLstm, its logits of normalised frames (B, T, 3, H, W))."""
    image, lstm = resnet18(), nn.LSTM(LATENT, HIDDEN, 2, batch_first=True, bidirectional=True)
    image.fc = nn.Linear(512, LATENT)
    out = nn.Sequential(nn.Linear(2 * HIDDEN, CLASSES), nn.Softmax(-1))

    def logits(x):
        return out[0](lstm(image(x.flatten(0, 1)).unflatten(0, x.shape[:2]))[0][:, -1])
    return named({"conv_model": named({"conv_model": image}), "Lstm": named({"Lstm": lstm}),
                  "output_layer": out}), logits


def conv_lstm(version):
    """The same of ConvLSTM: the last step (1), every step (2) or attention (3)."""
    both = version > 1
    features = nn.Sequential(*list(resnet18().children())[:-1])
    final = nn.Sequential(nn.Linear(512, LATENT), nn.BatchNorm1d(LATENT, momentum=0.01))
    lstm = nn.LSTM(LATENT, HIDDEN, 1, batch_first=True, bidirectional=both)
    width = HIDDEN * (1 + both)
    attention = nn.Linear(width, 1)
    out = nn.Sequential(nn.Linear(width, HIDDEN), nn.BatchNorm1d(HIDDEN, momentum=0.01), nn.ReLU(),
                        nn.Linear(HIDDEN, CLASSES), nn.Softmax(-1))

    def logits(x):
        steps = lstm(final(features(x.flatten(0, 1)).flatten(1)).unflatten(0, x.shape[:2]))[0]
        if version == 2:    # a committee of the steps
            return out(steps.flatten(0, 1)).unflatten(0, steps.shape[:2]).mean(1).log()
        weights = attention(steps).softmax(1)
        return out[:-1](steps[:, -1] if version == 1 else (weights * steps).sum(1))
    inside = {"lstm": lstm, **({} if version == 3 else {("final", "output_layers")[version - 1]: out})}
    outside = {"output_layers": out, "attention_layer": attention} if version == 3 else {}
    return named({"encoder": named({"feature_extractor": features, "final": final}), "lstm": named(inside),
                  **outside}), logits


NETWORKS = {"lrcn": lrcn, **{f"conv_lstm {v}": lambda v=v: conv_lstm(v) for v in (1, 2, 3)}}


def command(demo, folder, state):
    torch.save(state, folder / "theirs.pth")
    return ("convert.py", folder / "theirs.pth", "--local_dir", folder, "--classes",
            demo / "ucfTrainTestlist" / "classInd.txt")


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_a_network_that_was_moved_over_gives_its_own_logits(name, demo, sampled, tmp_path, capsys):
    torch.manual_seed(0)
    network, logits = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    network.eval()
    state = network.state_dict()
    theirs = {"model_state_dict": state} if name == "lrcn" else {f"module.{k}": v for k, v in state.items()}
    folder = last_line(call(*command(demo, tmp_path, theirs), "--img_dim", 48))
    trained = utils.load_trained(folder)
    frames = torch.randint(0, 256, (3, 5, 3, 48, 48), dtype=torch.uint8)
    expected = logits((frames / 255 - MEAN) / STD)
    assert expected.std(0).min() > 1e-4
    torch.testing.assert_close(trained.model(frames), expected, rtol=0, atol=1e-6)
    assert trained.model.encoder.transform == Transform(
        48, 48, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear" if name == "lrcn" else "bicubic",
        fit="squeeze")
    if name == "lrcn":
        film = next((demo / "UCF-101").rglob("*.avi"))
        recogniser = Recogniser.of_run(trained, torch.device("cpu"), "torch", "float32")
        assert recogniser.predict(film).probabilities.shape[1] == CLASSES
        report = report_of(folder, *data_flags(demo, sampled), "--encoder_backend", "torch")
        assert read_json(report / "metrics.json")["videos"] == 42
        recipe, _ = parse("", ["--init_from", str(folder)])
        networks.network_to_train(recipe, trained.classes, torch.device("cpu"))
        assert "--encoder resnet18 --img_dim 48 --resize squeeze" in capsys.readouterr().out


def test_what_is_not_their_network_is_refused_and_says_what_to_do(demo, tmp_path):
    network = lrcn()[0]
    state = network.state_dict()
    for theirs, says in (
            (network, "refused unread; if you trust it, save its weights alone: torch.save("),
            (resnet18().state_dict(), "conv1.weight is a weight of neither"),
            ({**state, "output_layer.0.bias": torch.zeros(7)}, "names 6 classes, and the network has 7"),
            ({k: v for k, v in state.items() if "fc" not in k}, "not the whole network"),
            ({k: v for k, v in state.items() if not k.endswith("bias_hh_l1")}, "missing lstm.bias_hh_l1")):
        refused(*command(demo, tmp_path, theirs), says=says)
    refused("test.py", tmp_path / "theirs.pth", says="convert.py takes over")


def test_every_resnet_is_told_by_the_count_of_its_weights():
    import torchvision.models as zoo
    with torch.device("meta"):
        for count, depth in convert.RESNETS.items():
            names = getattr(zoo, f"resnet{depth}")().state_dict()
            assert count == sum(n.endswith(("weight", "bias")) for n in names if not n.startswith("fc."))
