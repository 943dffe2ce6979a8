"""Encoder, read-outs and the LRCN that they make up (Donahue et al. 2015, arXiv:1411.4389).

    frames    uint8 (B, T, 3, H, W), RGB
    encoder   each frame -> features (B, T, D)
    head      projection (B, T, latent_dim) -> LSTM (B, T, width) -> read-out (B, width) -> logits (B, C)

Logits leave the network, never probabilities: cross-entropy takes the softmax itself.
"""
import copy
import hashlib
import math
from dataclasses import asdict, dataclass

import torch
from torch import nn

from cli import UserError

READOUTS = ("last", "final", "mean", "sum", "max", "attention", "none")


# ---------------------------------------------------------------- encoder

@dataclass(frozen=True)
class Transform:
    """How a frame becomes the encoder's input: short side to `resize`, then a centre crop, in pixels."""
    resize: int
    crop: int
    mean: tuple
    std: tuple
    interpolation: str = "bilinear"


class Encoder(nn.Module):
    """An image network without its classifier: uint8 (N, 3, H, W), RGB -> float (N, feature_dim).

    It stays in eval mode for good, so that no step of training moves a batch-norm statistic;
    `moving_statistics` lifts that for the batch norms alone.
    """

    def __init__(self, name, backbone, transform):
        super().__init__()
        self.name, self.backbone, self.transform = name, backbone, transform
        self.moving_statistics = False
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (transform.mean, transform.std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)
        self.eval()
        with torch.inference_mode():
            blank = torch.zeros(1, 3, transform.crop, transform.crop, dtype=torch.uint8)
            self.feature_dim = self(blank).shape[1]

    def normalise(self, frames):
        """uint8 -> float, mean 0 and deviation 1 by the statistics of the encoder's training set."""
        return torch.addcmul(self.shift, frames.to(self.scale.dtype), self.scale)

    def forward(self, frames):
        return self.backbone(self.normalise(frames)).flatten(1)

    def train(self, mode=True):
        super().train(False)
        if mode and self.moving_statistics:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train()
        return self

    def digest(self):
        """A fingerprint of the weights and statistics, 16 hex digits."""
        digest = hashlib.sha256()
        for key, tensor in sorted(self.backbone.state_dict().items()):
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def spec(self):
        """What `encoder_from_spec` needs to build it again, in plain containers."""
        return {"name": self.name, **asdict(self.transform)}


def build_encoder(name, weights="DEFAULT", img_dim=None):
    """The encoder `name`: a torchvision classification model, or `timm/NAME`.

    weights: "DEFAULT" (the library's best ImageNet weights, downloaded once), None, or a state dict.
    img_dim: side of the crop in pixels, instead of the one that the weights came with.
    UserError: no such model, weights that cannot be had or do not fit.
    """
    try:
        backbone, transform = _backbone(name, weights == "DEFAULT", img_dim)
    except OSError as error:  # urllib and the hubs raise its children
        raise UserError(f"--encoder_weights DEFAULT: the weights of {name} could not be downloaded "
                        f"({error}); give a file with --encoder_weights PATH, or none") from None
    if isinstance(weights, dict):
        load_backbone(backbone, weights)
    try:
        return Encoder(name, backbone, transform)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"--img_dim {transform.crop}: {name} cannot take this size ({error})") from None


def _backbone(name, download, img_dim):
    """(image network without its classifier, its Transform)."""
    if name.startswith("timm/"):
        return _timm_model(name.removeprefix("timm/"), download, img_dim)
    return _torchvision_model(name, download, img_dim)


def _torchvision_model(name, download, img_dim):
    import torchvision.models as zoo
    if name not in zoo.list_models(module=zoo):
        raise UserError(f"--encoder {name}: torchvision has no classification model of this name; "
                        f"try resnet152, or timm/{name}")
    best = zoo.get_model_weights(name).DEFAULT
    options = {"image_size": img_dim} if img_dim and name.startswith("vit_") and not download else {}
    if name in ("googlenet", "inception_v3") and not download:
        options["init_weights"] = True  # the default, said aloud to spare the user its warning
    model = zoo.get_model(name, weights=best if download else None, **options)
    without_classifier(model, len(best.meta["categories"]))
    preset = best.transforms()
    crop = img_dim or preset.crop_size[0]
    resize = round(crop * preset.resize_size[0] / preset.crop_size[0])
    return model, Transform(resize, crop, tuple(preset.mean), tuple(preset.std), preset.interpolation.value)


def _timm_model(name, download, img_dim):
    try:
        import timm
    except ImportError:
        raise UserError(f"--encoder timm/{name}: timm is not installed; pip install timm") from None
    if name not in timm.list_models() and name.split(".")[0] not in timm.list_models():
        raise UserError(f"--encoder timm/{name}: timm has no model of this name")
    try:
        model = timm.create_model(name, pretrained=download, num_classes=0,
                                  **({"img_size": img_dim} if img_dim else {}))
    except TypeError:  # a convolutional network takes any size and knows no such option
        model = timm.create_model(name, pretrained=download, num_classes=0)
    config = timm.data.resolve_data_config({}, model=model)
    crop = img_dim or config["input_size"][-1]
    return model, Transform(math.floor(crop / config["crop_pct"]), crop, tuple(config["mean"]),
                            tuple(config["std"]), config["interpolation"])


def without_classifier(model, outputs):
    """Put an identity in the place of the last layer with `outputs` outputs: what it read comes out.

    True of linear classifiers and of the 1x1 convolution of SqueezeNet alike.
    """
    name = [name for name, module in model.named_modules()
            if getattr(module, "out_features", getattr(module, "out_channels", None)) == outputs][-1]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())


def load_backbone(backbone, state):
    """Take a file's state dict into the backbone; the classifier's entries in it are left out."""
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), dict):
            state = state[key]
    state = {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    own = backbone.state_dict()
    extra = [k for k in state if k not in own]
    # What a classifier leaves behind is one weight and one bias; anything more is another network.
    load_state(backbone, {k: v for k, v in state.items() if k in own or len(extra) > 2},
               "the file of --encoder_weights")


def load_state(module, state, source):
    """load_state_dict, strict, with an error that names the keys and shapes that do not fit."""
    own = module.state_dict()
    faults = [f"{label} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
              for label, keys in (
                  ("missing", [k for k in own if k not in state]),
                  ("not of this network", [k for k in state if k not in own]),
                  ("of another shape", [k for k in own if k in state and own[k].shape != state[k].shape]))
              if keys]
    if faults:
        raise UserError(f"{source} does not fit the network: {'; '.join(faults)}")
    module.load_state_dict(state)


def encoder_from_spec(spec):
    """The encoder, without weights, that `Encoder.spec()` described."""
    transform = Transform(**{k: tuple(v) if isinstance(v, (list, tuple)) else v
                             for k, v in spec.items() if k != "name"})
    backbone, usual = _backbone(spec["name"], False, None)
    if usual.crop != transform.crop:
        backbone, _ = _backbone(spec["name"], False, transform.crop)
    return Encoder(spec["name"], backbone, transform)


# ---------------------------------------------------------------- faster encoding

def for_inference(encoder):
    """A copy of a frozen encoder made for speed: batch norm folded into the convolutions, channels last.

    Same features up to rounding. Only convolutions whose output goes to one batch norm are
    folded; the copy is compared with the original on a random batch and given up if it differs.
    """
    fast = copy.deepcopy(encoder).requires_grad_(False)
    probe = torch.randint(0, 256, (2, 3, encoder.transform.crop, encoder.transform.crop), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0)).to(encoder.scale.device)
    with torch.inference_mode():
        expected = fast(probe)
    for conv, name in _conv_norm_pairs(fast, probe):
        _fold(fast.backbone, conv, name)
    with torch.inference_mode():
        error = (fast(probe) - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    if not error < 1e-3:
        fast = copy.deepcopy(encoder).requires_grad_(False)
    return fast.to(memory_format=torch.channels_last)


def _conv_norm_pairs(encoder, probe):
    """[(convolution, name of the batch norm that reads its output)], seen in one forward pass."""
    names = {module: name for name, module in encoder.backbone.named_modules()}
    producer, pairs, hooks = {}, [], []

    def after_conv(conv, inputs, output):
        producer[id(output)] = (conv, output)  # the output is kept alive, or its id might come back

    def before_norm(norm, inputs):
        conv, _ = producer.get(id(inputs[0]), (None, None))
        if conv is not None:
            pairs.append((conv, names[norm]))

    for module in names:
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    with torch.inference_mode():
        encoder(probe[:1])
    for hook in hooks:
        hook.remove()
    return pairs


def _fold(backbone, conv, name):
    norm = backbone.get_submodule(name)
    weight, bias = nn.utils.fuse_conv_bn_weights(conv.weight, conv.bias, norm.running_mean, norm.running_var,
                                                 norm.eps, norm.weight, norm.bias)
    conv.weight, conv.bias = weight, bias
    # timm's batch norms carry their activation with them
    rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, nn.Sequential(*rest) if rest else nn.Identity())


# ---------------------------------------------------------------- head

class Head(nn.Module):
    """All that follows the encoder: features (B, T, feature_dim) -> logits (B, classes).

    readout says how the LSTM's outputs over time become one vector:
      last       the outputs at the last step (its backward half has seen one frame only)
      final      the forward half at the last step and the backward half at the first
      mean, sum, max   over time
      attention  a learned softmax over time weighs the steps
      none       no LSTM: the mean of the frame features, the baseline that an LSTM must beat
    """

    def __init__(self, feature_dim, classes, latent_dim=512, hidden_size=256, lstm_layers=2,
                 bidirectional=True, readout="final", dropout=0.5):
        super().__init__()
        if readout not in READOUTS:
            raise ValueError(f"readout {readout!r} is none of {', '.join(READOUTS)}")
        self.spec = dict(feature_dim=feature_dim, classes=classes, latent_dim=latent_dim,
                         hidden_size=hidden_size, lstm_layers=lstm_layers, bidirectional=bidirectional,
                         readout=readout, dropout=dropout)
        self.readout, self.hidden_size = readout, hidden_size
        self.projection = nn.Sequential(nn.LayerNorm(feature_dim), nn.Linear(feature_dim, latent_dim),
                                        nn.ReLU(), nn.Dropout(dropout))
        self.lstm, width = None, latent_dim
        if readout != "none":
            self.lstm = nn.LSTM(latent_dim, hidden_size, lstm_layers, batch_first=True,
                                dropout=dropout if lstm_layers > 1 else 0, bidirectional=bidirectional)
            width = hidden_size * (2 if bidirectional else 1)
        if readout == "attention":
            self.score = nn.Linear(width, 1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))

    def steps(self, features):
        """The LSTM's outputs over time, (B, T, width); for `none` the projected mean, (B, 1, latent_dim)."""
        if self.lstm is None:
            return self.projection(features.mean(1, keepdim=True))
        return self.lstm(self.projection(features))[0]

    def attention(self, steps):
        """Weights over time, (B, T), that sum to one; ValueError for another read-out."""
        if self.readout != "attention":
            raise ValueError(f"the read-out {self.readout} has no attention weights")
        return self.score(steps).squeeze(-1).softmax(1)

    def read(self, steps):
        """(B, T, width) -> (B, width)."""
        if self.readout == "last":
            return steps[:, -1]
        if self.readout == "final":
            forward, backward = steps[..., :self.hidden_size], steps[..., self.hidden_size:]
            return torch.cat([forward[:, -1], backward[:, 0]], 1)  # backward is empty with one direction
        if self.readout == "attention":
            return (self.attention(steps).unsqueeze(-1) * steps).sum(1)
        if self.readout == "max":
            return steps.amax(1)
        return steps.sum(1) if self.readout == "sum" else steps.mean(1)

    def step_logits(self, features):
        """Logits at every time step, (B, T, classes): LRCN as in its paper (section 4)."""
        return self.classifier(self.steps(features))

    def forward(self, features):
        return self.classifier(self.read(self.steps(features)))


class LRCN(nn.Module):
    """frames uint8 (B, T, 3, H, W) -> logits (B, classes)."""

    def __init__(self, encoder, head):
        super().__init__()
        self.encoder, self.head = encoder, head

    def features(self, frames):
        """(B, T, 3, H, W) -> (B, T, feature_dim)."""
        return self.encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def forward(self, frames):
        return self.head(self.features(frames))
