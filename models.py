"""Encoder, read-outs and the LRCN that they make up (Donahue et al. 2015, arXiv:1411.4389).

    frames    uint8 (B, T, 3, H, W), RGB; (B, T, M, 3, H, W) with M > 1 modalities; (B, T, 2L, H, W), L fields
              of optical flow
    encoder   each frame -> features (B, T, D)
    head      projection (B, T, latent_dim) -> LSTM (B, T, width) -> read-out (B, width) -> logits (B, C)

Logits leave the network, never probabilities: cross-entropy takes the softmax itself.
"""
import contextlib
import math
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import rnn

from lrcn.base import UserError, cli
from lrcn.checkpoints import HEAD, check_spec
from lrcn.data.chunks import chunk_of
from lrcn.data.frames import Transform
from lrcn.features import backbones, surgery
from lrcn.video.flow import ZERO

# The choices of a Head and their defaults
CHOICES = dict(latent_dim=512, hidden_size=256, lstm_layers=2, bidirectional=True, readout="final",
               dropout=0.5, per_step=False, projection="norm", classifier_hidden=None, rnn="lstm",
               classifier_activation="relu", classifier_dropout=None)
# Of a Head that no validation has calibrated
UNCALIBRATED = dict(temperature=1.0, min_probability=None)


def within(lengths, steps):
    """bool (B, T), on the device of steps (B, T, ...): which of them lie within clips of these lengths."""
    return (torch.arange(steps.shape[1]) < lengths[:, None]).to(steps.device)


def each(network, steps, lengths=None):
    """(B, T, ...) -> (B, T, ...) by a network for single steps. Padding is not read, and gives zeros."""
    if lengths is None:
        return network(steps.flatten(0, 1)).unflatten(0, steps.shape[:2])
    read = within(lengths, steps)
    values = network(steps[read])
    out = values.new_zeros(*read.shape, *values.shape[1:])
    out[read] = values
    return out


class Encoder(nn.Module):
    """An image network without its classifier: uint8 (N, 3, H, W), RGB -> float (N, feature_dim); or a video
    network, of chunks of K frames: uint8 (N, K, 3, H, W).

    With M > 1 modalities uint8 (N, M, 3, H, W) -> the features of each, side by side. With stacks of flow
    uint8 (N, 2L, H, W), for which its first convolution is widened.
    It stays in eval mode, so that training moves no batch-norm statistic, but for those of the modules that
    `moving_statistics` names. up_to: the block before which it ends, to give activations (surgery.cut).
    feature_dim: given where the backbone holds weights alone (surgery.weights_alone), which is enough where
    all features are in the store; `whole` has the network too.
    """

    def __init__(self, name, backbone, transform, feature_dim=None):
        super().__init__()
        self.name, self.backbone, self.transform = name, backbone, transform
        self.moving_statistics, self.feature_dim, self.notes, self.up_to = (), feature_dim, [], None
        mean, std = transform.mean, transform.std
        if transform.channels != 3 and not feature_dim:
            surgery.widen(backbone, transform.channels, name)
            mean, std = ([x] * transform.channels for x in (ZERO / 255, sum(std) / 3))
        mean, std = (torch.tensor(x).view(1, -1, 1, 1) for x in (mean, std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)
        self.eval()
        self.weights_alone = bool(feature_dim)
        if not feature_dim:
            where = "meta" if transform.chunk else self.scale.device    # a chunk takes long: shapes only
            tensors = {k: v.to(where) for k, v in (*self.named_parameters(), *self.named_buffers())}
            with torch.inference_mode():
                blank = torch.zeros(1, *transform.shape, dtype=torch.uint8, device=where).movedim(-1, -3)
                self.feature_dim = torch.func.functional_call(self, tensors, blank).shape[1]

    @property
    def whole(self):
        """The encoder with its network. UserError: it cannot be built, or the weights do not fit."""
        if not self.weights_alone:
            return self
        encoder = encoder_from_spec(self.spec())
        backbones.check_fit(encoder, self.state_dict(), "--model_dir: its encoder")
        encoder.load_state_dict(self.state_dict())
        return encoder

    def forward(self, frames):
        def one(frames):
            x = torch.addcmul(self.shift, frames.float(), self.scale)   # mean 0 and deviation 1
            return self.backbone(x.transpose(1, 2) if self.transform.chunk else x)
        values = surgery.per_modality(one, frames, self.transform.modalities)
        return values if self.up_to else values.flatten(1)

    def train(self, mode=True):
        super().train(False)
        for name in self.moving_statistics if mode else ():
            surgery.move_statistics(self.backbone.get_submodule(name))
        return self

    def digest(self):
        """A fingerprint of the weights and statistics, 16 hex digits."""
        return surgery.weights_digest(self.backbone)

    def spec(self):
        """What `encoder_from_spec` needs to build it again, in plain containers."""
        return {"name": self.name, **self.transform.spec(), **({"up_to": self.up_to} if self.up_to else {})}


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over all but the last dimension, (B, D) or (B, T, D). A single row has no spread: it is
    normalised by the running statistics, in training too."""

    def __init__(self, features):
        super().__init__(features, momentum=0.01)

    def forward(self, x):
        rows = x.flatten(0, -2)
        if self.training and len(rows) == 1:
            return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias,
                                eps=self.eps).view_as(x)
        return super().forward(rows).view_as(x)


class Head(nn.Module):
    """All that follows the encoder: features (B, T, feature_dim) -> logits (B, classes).

    lengths, int64 (B,) on the CPU: of clips of several lengths, padded at their end with anything.

    readout: how the LSTM's outputs over time become one vector:
      last       the outputs at the last step (its backward half has seen one frame only)
      final      the forward half at the last step and the backward half at the first
      mean, sum, max   over time
      attention  a learned softmax over time weighs the steps
      none       no LSTM: the mean of the frame features, the baseline that an LSTM must beat
    per_step: every time step makes a prediction, and their probabilities are averaged (section 4 of the
    paper); of the read-out only counts whether it is none.
    rnn: lstm or gru; either is the module `lstm`, as checkpoints call it.
    projection: norm (layer norm, linear layer, ReLU), linear (the layer only), batchnorm (the layer and a
    batch norm), or none; then dropout.
    classifier_hidden: units of a layer before the last one, with batch norm and ReLU, or by
    classifier_activation with SELU only (Klambauer et al. 2017). classifier_dropout: where it is not dropout.
    temperature: divides the logits, except in training, so that confidence is accuracy (Guo et al. 2017).
    min_probability: the confidence from which on nine of ten answers are right, or None. A validation sets
    both, in `spec`.
    """

    def __init__(self, feature_dim, classes, **choices):
        """choices: what differs from CHOICES and UNCALIBRATED. UserError: an unknown name, a wrong value."""
        super().__init__()
        self.spec = {"feature_dim": feature_dim, "classes": classes, **CHOICES, **UNCALIBRATED, **choices}
        check_spec(self.spec, HEAD, "head")
        one = SimpleNamespace(**self.spec)
        self.readout, self.hidden_size, self.per_step = one.readout, one.hidden_size, one.per_step
        linear = nn.Linear(feature_dim, one.latent_dim) if one.projection != "none" else None
        before = {"norm": lambda: (nn.LayerNorm(feature_dim), linear, nn.ReLU()), "linear": lambda: (linear,),
                  "batchnorm": lambda: (linear, BatchNorm(one.latent_dim)), "none": tuple}[one.projection]()
        self.projection = nn.Sequential(*before, nn.Dropout(one.dropout))
        self.lstm, width = None, feature_dim if linear is None else one.latent_dim
        if one.readout != "none":
            network = {"lstm": nn.LSTM, "gru": nn.GRU}[one.rnn]
            self.lstm = network(width, one.hidden_size, one.lstm_layers, batch_first=True,
                                dropout=one.dropout if one.lstm_layers > 1 else 0,
                                bidirectional=one.bidirectional)
            width = one.hidden_size * (2 if one.bidirectional else 1)
        if one.readout == "attention":
            self.score = nn.Linear(width, 1)
        dropped, hidden = one.classifier_dropout, ()
        if one.classifier_hidden:
            hidden = (nn.Linear(width, one.classifier_hidden),
                      *((nn.SELU(),) if one.classifier_activation == "selu" else
                        (BatchNorm(one.classifier_hidden), nn.ReLU())))
        self.classifier = nn.Sequential(nn.Dropout(one.dropout if dropped is None else dropped), *hidden,
                                        nn.Linear(one.classifier_hidden or width, classes))

    @classmethod
    def of(cls, recipe, feature_dim, classes):
        """The head of a training.recipe.Recipe."""
        choices = {name: getattr(recipe, name) for name in CHOICES if name != "per_step"}
        return cls(feature_dim, classes, per_step=recipe.loss_per_step, **choices)

    def steps(self, features, lengths=None):
        """The LSTM's outputs over time, (B, T, width), zeros in the padding; for `none` the projected mean,
        (B, 1, latent_dim)."""
        if self.lstm is None:
            return self.projection(_mean(features, lengths)[:, None])
        if lengths is None:
            return self.lstm(self.projection(features))[0]
        packed = rnn.pack_padded_sequence(features, lengths, batch_first=True, enforce_sorted=False)
        packed = packed._replace(data=self.projection(packed.data))
        return rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True,
                                       total_length=features.shape[1])[0]

    def attention(self, steps, lengths=None):
        """Weights over time, (B, T), that sum to one; of the read-out attention."""
        return _fill(self.score(steps), lengths).squeeze(-1).softmax(1)

    def read(self, steps, lengths=None):
        """(B, T, width) -> (B, width)."""
        if self.readout in ("last", "final"):
            last = steps[:, -1] if lengths is None else steps[torch.arange(len(steps)), lengths - 1]
            if self.readout == "last":
                return last
            return torch.cat([last[:, :self.hidden_size], steps[:, 0, self.hidden_size:]], 1)
        if self.readout == "attention":
            return (self.attention(steps, lengths).unsqueeze(-1) * steps).sum(1)
        if self.readout == "max":
            return _fill(steps, lengths).amax(1)
        return steps.sum(1) if self.readout == "sum" else _mean(steps, lengths)

    def classify(self, steps, lengths=None):
        """The LSTM's outputs (B, T, width) -> logits (B, classes); per step, of the mean probabilities."""
        if self.lstm is None:
            lengths = None      # the mean, one step
        if not self.per_step:
            logits = self.classifier(self.read(steps, lengths))
        else:       # their number as a tensor: an exported network takes clips of any length
            number = torch.ones_like(steps[0, :, 0]).sum() if lengths is None else lengths.to(steps)[:, None]
            logits = _fill(self.classifier(steps).log_softmax(2), lengths).logsumexp(1) - number.log()
        temperature = self.spec["temperature"]
        return logits if self.training or temperature == 1 else logits / temperature

    def forward(self, features, lengths=None):
        """Logits (B, classes); while a per-step head trains, those of every step, (B, T, classes)."""
        steps = self.steps(features, lengths)
        if self.per_step and self.training:
            return self.classifier(steps) if lengths is None or self.lstm is None else \
                each(self.classifier, steps, lengths)
        return self.classify(steps, lengths)


def _mean(steps, lengths):
    """(B, T, D) -> (B, D) over the clips' lengths."""
    if lengths is None:
        return steps.mean(1)
    return torch.where(within(lengths, steps)[..., None], steps, 0).sum(1) / lengths.to(steps)[:, None]


def _fill(steps, lengths):
    """(B, T, D), minus infinity in the padding."""
    return steps if lengths is None else steps.masked_fill(~within(lengths, steps)[..., None], -math.inf)


class Streams(nn.Module):
    """Several encoders on the same moments, frozen, each with the head that it was trained with.

    frames: a list with the input of each encoder for N moments -> float (N, feature_dim), side by side. The
    heads give the answers of each stream alone.
    """

    def __init__(self, encoders, heads):
        super().__init__()
        self.streams, self.heads = nn.ModuleList(encoders), nn.ModuleList(heads)
        self.feature_dims = [encoder.feature_dim for encoder in encoders]
        self.feature_dim = sum(self.feature_dims)
        self.eval()

    @property
    def name(self):
        return " + ".join(encoder.name for encoder in self.streams)

    @property
    def names(self):
        """A short name for every stream: its modality, numbered where two have the same."""
        words = [encoder.transform.modality for encoder in self.streams]
        return [f"{word} {i + 1}" if words.count(word) > 1 else word for i, word in enumerate(words)]

    def forward(self, frames):
        return torch.cat([encoder(part) for encoder, part in zip(self.streams, frames, strict=True)], 1)

    def answers(self, features):
        """Logits (B, classes) of each stream's own head, from features (B, T, feature_dim)."""
        parts = features.split(self.feature_dims, -1)
        return [head(part.contiguous()) for head, part in zip(self.heads, parts, strict=True)]

    def train(self, mode=True):
        return super().train(False)

    digest = surgery.weights_digest     # of all weights and statistics

    def spec(self):
        """What `encoder_from_spec` needs to build it again, in plain containers."""
        return {"streams": [encoder.spec() for encoder in self.streams],
                "heads": [head.spec for head in self.heads]}


class LRCN(nn.Module):
    """frames uint8 (B, T, 3, H, W), of Streams a list of such -> logits (B, classes)."""

    def __init__(self, encoder, head):
        super().__init__()
        self.encoder, self.head = encoder, head

    def features(self, frames, lengths=None):
        """(B, T, 3, H, W) -> (B, T, feature_dim); ValueError for frames that the encoder does not take."""
        if isinstance(self.encoder, Streams):
            return torch.cat([LRCN(encoder, None).features(part, lengths) for encoder, part in
                              zip(self.encoder.streams, frames, strict=True)], 2)
        transform, tensor = self.encoder.transform, isinstance(frames, torch.Tensor)
        inner = (*transform.shape[:-3], transform.channels)
        if not tensor or frames.dtype != torch.uint8 or frames.shape[2:-2] != inner:
            given = f"{frames.dtype} {tuple(frames.shape)}" if tensor else type(frames)
            what = "RGB" if transform.channels == 3 else "planes of optical flow"
            raise ValueError(f"expected frames uint8 (B, T, {', '.join(map(str, inner))}, H, W), {what} from "
                             f"0 to 255 and not normalised, not {given}; encoder.backbone takes normalised "
                             f"floats")
        return each(self.encoder, frames, lengths)

    def forward(self, frames, lengths=None):
        return self.head(self.features(frames, lengths), lengths)


class Tail(nn.Module):
    """The trained blocks of an encoder and the head: activations (B, T, ...) of surgery.cut's frozen part for
    every frame -> logits."""

    def __init__(self, encoder, blocks, head):
        super().__init__()
        self.blocks, self.head, self.moving_statistics = blocks, head, bool(encoder.moving_statistics)
        self.modalities = encoder.transform.modalities

    def train(self, mode=True):
        super().train(mode)
        self.blocks.eval()
        if mode and self.moving_statistics:
            surgery.move_statistics(self.blocks)
        return self

    def features(self, activations, lengths=None):
        """(B, T, ...) -> (B, T, feature_dim)."""
        def one(some):
            return surgery.per_modality(lambda x: self.blocks(x).flatten(1), some, self.modalities).flatten(1)
        return each(one, activations, lengths)

    def forward(self, activations, lengths=None):
        return self.head(self.features(activations, lengths), lengths)


# ---------------------------------------------------------------- by name

def build_encoder(name, weights="DEFAULT", img_dim=None, modality="rgb", flow_length=1, chunk_frames=None,
                  chunk_stride=None, **more):
    """The encoder `name`: a torchvision classification model, `timm/NAME`, or `video/NAME`, torchvision's of
    videos.

    weights: "DEFAULT" (the library's best ImageNet weights, downloaded once), None, or a state dict.
    img_dim: side of the crop in pixels (default: that of the weights).
    modality, flow_length, and more (fit, augment): see Transform. chunk_frames, chunk_stride: see chunk_of.
    UserError: no such model, or its weights are not available or do not fit.
    """
    chunk = chunk_of(name, chunk_frames, chunk_stride, modality)
    try:
        backbone, transform = backbones.build(name, weights == "DEFAULT", img_dim, chunk)
    except OSError as error:  # urllib and the hubs raise its children
        raise UserError(f"--encoder_weights DEFAULT: the weights of {name} could not be downloaded "
                        f"({str(error).splitlines()[0]:.120}); give a file with --encoder_weights PATH, or "
                        f"none") from None
    notes = []
    if isinstance(weights, dict):
        if backbones.convolutions_alone(name, backbone, weights):
            name += backbones.CONVOLUTIONS
            backbone, _ = backbones.build(name, False, img_dim)
            notes.append(f"--encoder_weights: only convolutions in this file; the encoder is {name}, their "
                         "mean over the picture")
        left = backbones.load_backbone(backbone, weights)
        if left:
            notes.append(f"--encoder_weights: left out of the file: {', '.join(left)}")
    try:
        transform = replace(transform, modality=modality, flow_length=flow_length, **more)
        encoder = Encoder(name, backbone, transform)
    except (RuntimeError, AssertionError, ValueError) as error:
        chunk = f" --chunk_frames {transform.chunk}" if transform.chunk else ""
        raise UserError(f"--img_dim {transform.crop}{chunk}: {name} cannot take this size ({error})"
                        ) from None
    encoder.notes = notes
    for line in notes:
        cli.say(line)
    return encoder


def encoder_from_spec(spec, weights=None, feature_dim=None):
    """The encoder, without weights, of an `Encoder.spec()` or `Streams.spec()`.

    weights, feature_dim: a state dict with its parameters as such, for an encoder of weights alone.
    """
    if "streams" in spec:
        with torch.device("meta"):  # no memory before networks.build has checked their sizes
            heads = [Head(**one) for one in spec["heads"]]
        return Streams([encoder_from_spec(one) for one in spec["streams"]], heads)
    transform = Transform(**{k: tuple(v) if isinstance(v, (list, tuple)) else v
                             for k, v in spec.items() if k != "name"})
    chunk = chunk_of(spec["name"], transform.chunk or None, transform.chunk_stride or None,
                     transform.modality)
    if bool(transform.chunk) != bool(chunk[0]):
        raise UserError(f"--model_dir: its encoder {spec['name']} reads chunks, of how many frames is not "
                        f"said; take another checkpoint")
    if weights and any(isinstance(value, nn.Parameter) for value in weights.values()):
        with contextlib.suppress(KeyError, AttributeError):     # names that no module can have
            return Encoder(spec["name"], surgery.weights_alone(weights, "backbone."), transform, feature_dim)
    backbone, usual = backbones.build(spec["name"], False, None, chunk)
    if usual.crop != transform.crop:
        backbone, _ = backbones.build(spec["name"], False, transform.crop, chunk)
    return Encoder(spec["name"], backbone, transform)
