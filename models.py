"""Encoder, read-outs and the LRCN that they make up (Donahue et al. 2015, arXiv:1411.4389).

    frames    uint8 (B, T, 3, H, W), RGB; (B, T, M, 3, H, W) with M > 1 modalities
    encoder   each frame -> features (B, T, D)
    head      projection (B, T, latent_dim) -> LSTM (B, T, width) -> read-out (B, width) -> logits (B, C)

Logits leave the network, never probabilities: cross-entropy takes the softmax itself.
"""
import math

import torch
from torch import nn

import encoders

READOUTS = ("last", "final", "mean", "sum", "max", "attention", "none")


class Head(nn.Module):
    """All that follows the encoder: features (B, T, feature_dim) -> logits (B, classes).

    readout says how the LSTM's outputs over time become one vector:
      last       the outputs at the last step (its backward half has seen one frame only)
      final      the forward half at the last step and the backward half at the first
      mean, sum, max   over time
      attention  a learned softmax over time weighs the steps
      none       no LSTM: the mean of the frame features, the baseline that an LSTM must beat
    per_step: every time step makes a prediction of its own, and their probabilities are averaged
    (section 4 of the paper); the read-out then only says whether there is an LSTM.
    """

    def __init__(self, feature_dim, classes, latent_dim=512, hidden_size=256, lstm_layers=2,
                 bidirectional=True, readout="final", dropout=0.5,
                 per_step=False):
        super().__init__()
        if readout not in READOUTS:
            raise ValueError(f"readout {readout!r} is none of {', '.join(READOUTS)}")
        self.spec = dict(feature_dim=feature_dim, classes=classes, latent_dim=latent_dim,
                         hidden_size=hidden_size, lstm_layers=lstm_layers, bidirectional=bidirectional,
                         readout=readout, dropout=dropout, per_step=per_step)
        self.readout, self.hidden_size, self.per_step = readout, hidden_size, per_step
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

    def forward(self, features):
        """Logits (B, classes); while a per-step head trains, those of every step, (B, T, classes)."""
        steps = self.steps(features)
        if not self.per_step:
            return self.classifier(self.read(steps))
        logits = self.classifier(steps)
        return logits if self.training else logits.log_softmax(2).logsumexp(1) - math.log(logits.shape[1])


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


class Tail(nn.Module):
    """The trained blocks of an encoder and the head: activations (B, T, ...) -> logits.

    The activations are those that encoders.cut's frozen part gives for every frame.
    """

    def __init__(self, encoder, blocks, head):
        super().__init__()
        self.blocks, self.head, self.moving_statistics = blocks, head, encoder.moving_statistics
        self.modalities = encoder.transform.modalities

    def train(self, mode=True):
        super().train(mode)
        self.blocks.eval()
        if mode and self.moving_statistics:
            encoders.move_statistics(self.blocks)
        return self

    def features(self, activations):
        """(B, T, ...) -> (B, T, feature_dim)."""
        found = encoders.per_modality(self._features, activations.flatten(0, 1), self.modalities)
        return found.flatten(1).unflatten(0, activations.shape[:2])

    def _features(self, activations):
        return self.blocks(activations).flatten(1)

    def forward(self, activations):
        return self.head(self.features(activations))
