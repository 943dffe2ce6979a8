"""The network: read-outs by independent computation, a head beside its description in torch, encoders of
every family, weights that move or stay. The heads of two more systems: scripts/test_convert.py."""
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
from lrcn.base.cli import UserError
from lrcn.checkpoints import READOUTS
from lrcn.data.frames import Transform
from lrcn.features import backbones, surgery
from lrcn.training.recipe import Recipe

DIM, CLASSES, FRAMES = 24, 5, 4


def head(readout="final", **options):
    torch.manual_seed(0)
    spec = dict(latent_dim=16, hidden_size=8, lstm_layers=2, dropout=0.5) | options
    return models.Head(DIM, CLASSES, readout=readout, **spec).eval()


@pytest.fixture
def features():
    return torch.randn(3, FRAMES, DIM, generator=torch.Generator().manual_seed(1))


def tiny_encoder(name="resnet18", img_dim=32):
    torch.manual_seed(0)
    return models.build_encoder(name, None, img_dim)


def frames_for(encoder, number=2, seed=0):
    side = encoder.transform.crop
    return torch.randint(0, 256, (number, 3, side, side), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_every_read_out_is_what_it_says(features):
    changed = torch.cat([features[:, :-1], -features[:, -1:]], 1)
    for readout in READOUTS[:-1]:
        net = head(readout, lstm_layers=1)
        norm, linear = net.projection[:2]
        latent = F.relu(linear(F.layer_norm(features, (DIM,), norm.weight, norm.bias)))
        steps = net.lstm(latent)[0]
        moved = (net.steps(changed)[:, 0] != steps[:, 0]).any(0)   # of the last frame: backward
        assert torch.equal(net.steps(features), steps) and moved.tolist() == [False] * 8 + [True] * 8
        expected = {"last": steps[:, -1], "final": torch.cat([steps[:, -1, :8], steps[:, 0, 8:]], 1),
                    "mean": steps.mean(1), "sum": steps.sum(1), "max": steps.max(1).values}
        if readout == "attention":
            weights = (steps @ net.score.weight[0] + net.score.bias).exp()[..., None]
            expected["attention"] = (weights * steps).sum(1) / weights.sum(1)
        torch.testing.assert_close(net.read(steps), expected[readout])
        alone = head(readout, bidirectional=False)
        if readout in ("final", "last"):
            assert torch.equal(alone.read(alone.steps(features)), alone.steps(features)[:, -1])
        assert alone(features).shape == (3, CLASSES)


def test_a_step_by_step_head_gives_each_steps_logits_in_training_and_mean_probabilities_in_test(features):
    net = head("final", per_step=True, dropout=0)
    assert net.train()(features).shape == (3, FRAMES, CLASSES)
    with torch.inference_mode():
        expected = net.classifier(net.steps(features)).softmax(2).mean(1)
        torch.testing.assert_close(net.eval()(features).softmax(1), expected)


class Fifth(nn.Module):
    """Dropout on the features, a GRU, attention over time, 64 SELU, a linear layer (Keras' words: GRU(128,
    dropout=0.5, return_sequences), Dense(1), softmax over time, Dense(64, selu), Dense(classes))."""

    def __init__(self, hidden=128):
        super().__init__()
        self.gru, self.score = nn.GRU(DIM, hidden, batch_first=True), nn.Linear(hidden, 1)
        self.between, self.out = nn.Linear(hidden, 64), nn.Linear(64, CLASSES)

    def forward(self, x):
        steps = self.gru(F.dropout(x, 0.5, self.training))[0]
        read = (self.score(steps).softmax(1) * steps).sum(1)
        return self.out(F.selu(self.between(read)))


def test_a_head_is_the_described_one_in_training_and_in_test(features):
    torch.manual_seed(0)
    described, head = Fifth(), models.Head(
        DIM, CLASSES, rnn="gru", projection="none", hidden_size=128, lstm_layers=1, bidirectional=False,
        readout="attention", dropout=0.5, classifier_hidden=64, classifier_dropout=0,
        classifier_activation="selu")
    names = {"gru": "lstm", "score": "score", "between": "classifier.1", "out": "classifier.3"}
    head.load_state_dict({f"{names[layer]}.{rest}": value for key, value in described.state_dict().items()
                          for layer, _, rest in [key.partition(".")]})      # neither has a layer more
    for mode in (True, False):
        answers = []
        for network in (head, described):
            torch.manual_seed(2)    # of the dropout
            answers.append(network.train(mode)(features))
        torch.testing.assert_close(*answers)


def test_a_batch_norm_counts_every_step_and_trains_on_a_single_clip(features):
    norm, plain = models.BatchNorm(DIM), nn.BatchNorm1d(DIM, momentum=0.01)
    torch.testing.assert_close(norm(features).flatten(0, 1), plain(features.flatten(0, 1)))
    for moved, expected in zip(norm.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(moved, expected)
    head = models.Head(DIM, CLASSES, projection="batchnorm", classifier_hidden=8)
    head.train()(features[:1]).sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("choices", [{}, {"per_step": True}, {"readout": "none"}])
def test_a_temperature_divides_the_logits_but_in_training(features, choices):
    torch.manual_seed(0)
    plain = models.Head(DIM, CLASSES, **choices).eval()
    head = models.Head(DIM, CLASSES, temperature=2.5, **choices).eval()
    head.load_state_dict(plain.state_dict())
    assert torch.equal(head(features), plain(features) / 2.5)
    logits = []
    for one in (head, plain):
        torch.manual_seed(1)
        logits.append(one.train()(features))
    assert torch.equal(*logits)


def test_a_recipes_head_is_the_default_one_and_an_unknown_choice_is_refused():
    head = models.Head(DIM, CLASSES)
    assert models.Head.of(Recipe(), DIM, CLASSES).spec == head.spec == models.Head(**head.spec).spec
    assert models.Head.of(Recipe(loss_per_step=True), DIM, CLASSES).spec["per_step"]
    for wrong, says in (({"projection": "layers"}, "projection: expected one of norm"),
                        ({"readout": "middle"}, "readout: expected"), ({"layers": 2}, "'layers'")):
        with pytest.raises(UserError, match=says):
            models.Head(DIM, CLASSES, **wrong)


FAMILIES = [("alexnet", 64), ("convnext_tiny", 32), ("densenet121", 32), ("efficientnet_b0", 32),
            ("googlenet", 32), ("inception_v3", 75), ("maxvit_t", 224),
            ("mnasnet0_5", 32), ("mobilenet_v2", 32), ("mobilenet_v3_small", 32), ("regnet_y_400mf", 32),
            ("resnet18", 32), ("shufflenet_v2_x0_5", 32), ("squeezenet1_1", 32), ("swin_t", 32),
            ("vgg11", 32), ("vit_b_32", 32),
            ("timm/mobilenetv3_small_050", 32), ("timm/efficientnet_lite0", 32)]


def disturb_statistics(module):
    """Batch norms as after real training, statistics and scales not 0 and 1; returns how many there are."""
    generator = torch.Generator().manual_seed(3)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(0, 0.3, generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.3, generator=generator)
    return len(norms)


@pytest.mark.parametrize("name, img_dim", FAMILIES)
def test_an_encoder_of_every_family_is_built_again_cut_into_blocks_and_folded(name, img_dim):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    large = name in ("alexnet", "maxvit_t", "swin_t", "vgg11", "vit_b_32")
    with torch.device("meta" if large else "cpu"):
        encoder, frames = tiny_encoder(name, img_dim), torch.zeros(2, 3, img_dim, img_dim, dtype=torch.uint8)
        assert encoder(frames).shape == (2, encoder.feature_dim)
    with torch.device("cpu" if name.startswith("regnet") else "meta"):      # which computes with its widths
        again = models.encoder_from_spec(encoder.spec())
    assert again.transform == encoder.transform and again.feature_dim == encoder.feature_dim
    blocks = surgery.units(encoder.backbone)
    assert len(blocks) >= 5 and sorted(sum(blocks, [])) == sorted(set(sum(blocks, [])))
    if not large:
        norms, frames = disturb_statistics(encoder), frames_for(encoder)
        before = copy.deepcopy(encoder.state_dict())
        fast = surgery.for_inference(encoder)
        with torch.inference_mode():
            features = encoder(frames)
            assert features.isfinite().all()
            assert (fast(frames) - features).abs().max() <= 1e-4 * features.abs().max()
        left = sum(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
        assert (0 < left < norms) if name == "densenet121" else left == 0
        assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


@pytest.mark.parametrize("name, last", [("squeezenet1_1", "classifier.1"),
                                        ("mobilenet_v3_small", "classifier.3")])
def test_frames_are_normalised_and_the_feature_is_what_the_whole_models_last_layer_reads(name, last):
    import torchvision.models as zoo
    torch.manual_seed(0)
    whole = zoo.get_model(name).eval()
    encoder = models.build_encoder(name, whole.state_dict(), 64)
    whole.set_submodule(last, nn.Identity())
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    frames = frames_for(encoder)
    with torch.inference_mode():
        expected = whole((frames / 255 - mean) / std)
        assert expected.std() > 0
        torch.testing.assert_close(encoder(frames), expected, rtol=1e-4, atol=1e-4)


def test_the_families_are_all_that_torchvision_has():
    import torchvision.models as zoo
    tested = {zoo.get_model_builder(name).__module__ for name, _ in FAMILIES if "/" not in name}
    assert {zoo.get_model_builder(name).__module__ for name in zoo.list_models(module=zoo)} == tested


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_model_with_second_classifiers_is_built_the_same_with_and_without_weights(name):
    with torch.device("meta"):
        spec = tiny_encoder(name, 75).spec()
    encoder = models.encoder_from_spec(spec)
    assert encoder.backbone.transform_input
    assert not any(key.split(".")[0] in backbones.AUXILIARY for key in encoder.backbone.state_dict())
    with_them = {**encoder.backbone.state_dict(), "aux1.fc1.weight": torch.zeros(1),
                 "AuxLogits.conv0.conv.weight": torch.zeros(1), "aux2.fc1.bias": torch.zeros(1)}
    backbones.load_backbone(encoder.backbone, with_them)


def test_the_transform_is_that_of_the_weights_unless_img_dim_says_otherwise():
    assert models.build_encoder("resnet18", None).transform == Transform(
        256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")
    small = tiny_encoder(img_dim=112).transform
    assert (small.resize, small.crop) == (128, 112)


@pytest.mark.parametrize("name, img_dim, says", [
    ("resnet153", None, "--encoder resnet153: .*try resnet152"),
    ("timm/no_such_model", None, "--encoder timm/no_such_model.*no model of this name"),
    ("timm/xception", None, "today; take --encoder timm/legacy_xception"),
    ("resnet18.features", None, "VGG and AlexNet"), ("vgg11" + 2000 * ".features", None, "VGG and AlexNet"),
    ("fasterrcnn_resnet50_fpn", None, "no classification model"),
    ("maxvit_t", 40, "--img_dim 40"),
])
def test_an_encoder_that_is_none_or_a_size_it_cannot_take_is_refused(name, img_dim, says):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(UserError, match=says):
        models.build_encoder(name, None, img_dim)


def test_a_classifier_in_a_weights_file_is_left_out_and_said_and_wrappers_are_opened(capsys):
    state = tiny_encoder().backbone.state_dict()
    wrapped = {"state_dict": {f"module.{k}": v for k, v in state.items()}
               | {"module.fc.weight": torch.zeros(1000, 512), "module.fc.bias": torch.zeros(1000)}}
    encoder = models.build_encoder("resnet18", wrapped, 32)
    assert capsys.readouterr().out == "--encoder_weights: left out of the file: fc.weight, fc.bias\n"
    assert all(torch.equal(v, state[k]) for k, v in encoder.backbone.state_dict().items())


@pytest.fixture
def quick_weights(monkeypatch):
    """VGG's linear layers, which nothing here reads, hold no numbers: to draw 100 million takes seconds."""
    def unless_large(real):
        return lambda tensor, *args, **options: (
            real(tensor, *args, **options) if tensor.numel() < 2**22 else tensor)
    for name in ("normal_", "kaiming_uniform_"):
        monkeypatch.setattr(nn.init, name, unless_large(getattr(nn.init, name)))


def test_the_convolutions_of_vgg_alone_make_an_encoder_of_them_in_any_spelling(quick_weights, capsys):
    whole = tiny_encoder("vgg11").backbone
    state = whole.features.state_dict()
    for spelled in ("features.{}", "{}", "module.{}", "module.features.{}"):
        given = {spelled.format(k): v for k, v in state.items()}
        assert backbones.convolutions_alone("vgg11", whole, given), spelled
    encoder = models.build_encoder("vgg11", given, 32)
    assert "only convolutions in this file; the encoder is vgg11.features" in capsys.readouterr().out
    frames = frames_for(encoder)
    with torch.inference_mode():
        x = torch.addcmul(encoder.shift, frames.float(), encoder.scale)
        torch.testing.assert_close(encoder(frames), whole.features(x).mean((2, 3)))
        again = models.encoder_from_spec(encoder.spec())
        again.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(again(frames), encoder(frames))


def test_the_children_of_a_network_in_a_plain_sequential_find_their_names():
    whole = tiny_encoder().backbone
    numbered = nn.Sequential(*list(whole.children())[:-1])
    for prefix in ("", "module."):
        given = {prefix + k: v for k, v in numbered.state_dict().items()}
        assert models.build_encoder("resnet18", given, 32).digest() == surgery.weights_digest(whole)


def test_training_mode_never_reaches_a_frozen_encoder():
    encoder = tiny_encoder("mobilenet_v3_small")
    network = models.LRCN(encoder, models.Head(encoder.feature_dim, CLASSES)).train()
    assert network.head.training and not any(m.training for m in encoder.modules())
    before = copy.deepcopy(dict(encoder.named_buffers()))
    frames = frames_for(encoder, 4).unflatten(0, (2, 2))
    nn.CrossEntropyLoss()(network(frames), torch.tensor([0, 1])).backward()
    assert all(torch.equal(v, before[k]) for k, v in encoder.named_buffers())
    model, clip = network.eval(), torch.addcmul(encoder.shift, frames.float(), encoder.scale)
    own = model.head(model.encoder.backbone(clip.flatten(0, 1)).flatten(1).unflatten(0, clip.shape[:2]))
    torch.testing.assert_close(own, model(frames))      # floats that are normalised already


@pytest.mark.parametrize("name, last", [("resnet18", 3), ("vit_b_32", 1), ("googlenet", 2),
                                        ("timm/efficientnet_lite0", 2)])
def test_the_frozen_part_and_the_tail_make_the_whole(name, last):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    encoder = tiny_encoder(name)
    disturb_statistics(encoder)
    trained = surgery.unfreeze(encoder, last)
    parts = surgery.cut(encoder, last)
    assert parts is not None
    frozen, tail = parts
    frames = frames_for(encoder, 3)
    with torch.no_grad():
        torch.testing.assert_close(tail(frozen(frames)).flatten(1), encoder(frames))
    assert {id(p) for p in tail.parameters()} == {id(p) for p in trained}
    assert not any(p.requires_grad for p in frozen.parameters())
    assert frozen.digest() != encoder.digest() and frozen.spec()["up_to"]
    tail(frozen(frames)).sum().backward()
    assert all(p.grad is not None for p in trained)


def test_more_blocks_than_there_are_cannot_be_trained():
    encoder = tiny_encoder()
    everything = surgery.unfreeze(encoder, None)
    assert len(everything) == len(list(encoder.parameters()))
    assert len(surgery.unfreeze(encoder, 9)) == len(everything)
    with pytest.raises(UserError, match="--train_encoder last:10: resnet18 has 9 blocks"):
        surgery.unfreeze(encoder, 10)


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        encoder = tiny_encoder()
        if recompute:
            surgery.recompute_activations(encoder)
        encoder(frames_for(encoder)).square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    assert len(gradients[0]) > 50
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
