"""Clips of a whole video, of several lengths in a batch, and classes of very different sizes."""
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import call
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import flags, last_line, load, refused, table, train
from sklearn import metrics
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F
from videos import write_video

import export
import models
import utils
from lrcn.checkpoints import PROJECTIONS, READOUTS
from lrcn.data.frames import ClipSampler
from lrcn.data.manifest import SampledVideo
from lrcn.evaluation import scores
from lrcn.training.feeds import class_weights, epoch_steps
from lrcn.training.loop import Learner
from lrcn.training.recipe import Recipe
from lrcn.watching import exported


def video(frames):
    return SampledVideo("v", "A", "g", frames)


@given(frames=st.integers(1, 90), length=st.integers(1, 20), view=st.integers(0, 3),
       number=st.sampled_from([1, 2, 5, "all"]))
def test_spread_frames_lie_one_in_each_of_equal_parts(frames, length, view, number):
    sampler = ClipSampler(length, spread=True, repeat=False)
    sets = sampler.windows(video(frames), number)
    clips = sets + sampler.training(video(frames), view, 0, 1 if number == "all" else number)
    for clip in clips:
        count = min(length, frames)
        assert len(clip.frames) == count == sampler.count(video(frames))
        assert [i * count // frames for i in clip.frames] == [*range(count)] or frames % count
        parts = [range(k * frames // count, (k + 1) * frames // count) for k in range(count)]
        assert all(i in part for i, part in zip(clip.frames, parts, strict=True))
    if number == "all" and frames % min(length, frames) == 0:   # every frame once
        assert sorted(i for clip in sets for i in clip.frames) == [*range(frames)]
    if number == 1 and frames == 9 * length:
        assert sets[0].frames == tuple(range(4, frames, 9))     # the middles


@given(frames=st.integers(1, 400), most=st.integers(1, 300), view=st.integers(0, 3))
def test_all_frames_of_a_video_are_read_once_and_at_most_so_many(frames, most, view):
    [clip] = ClipSampler(None, repeat=False, max_frames=most).training(video(frames), view, 0)
    assert len(clip.frames) == min(frames, most) == len(set(clip.frames))
    assert frames > most or clip.frames == tuple(range(frames))


@given(frames=st.integers(1, 90), length=st.integers(1, 12), view=st.integers(0, 5),
       stride=st.sampled_from([1, 2, 7, "random"]), repeat=st.booleans())
def test_a_stride_is_one_for_the_clip_and_fits_its_video(frames, length, view, stride, repeat):
    sampler = ClipSampler(length, stride=stride, repeat=repeat)
    [clip] = sampler.training(video(frames), view, 3)
    largest = max(1, (frames - 1) // max(1, length - 1))
    real = clip.frames[:min(length, frames)]
    steps = set(np.diff(real).tolist())
    assert len(steps) <= 1 and all(1 <= s <= largest and (stride == "random" or s <= stride) for s in steps)
    assert clip.frames[-1] < frames and len(clip.frames) == (length if repeat else min(length, frames))
    if stride == "random" and length > 1:
        test = sampler.windows(video(frames))[0].frames
        assert frames < length or test[1] - test[0] == largest


@pytest.mark.parametrize("readout, projection", [*itertools.product(READOUTS, PROJECTIONS)])
def test_a_padded_batch_is_each_clip_by_itself(readout, projection):
    """Logits and gradients, whatever the padding holds, in any order of the batch. Four of 16 heads a case,
    such that every read-out and every projection is seen in all of them."""
    random, first = torch.Generator().manual_seed(0), READOUTS.index(readout) + PROJECTIONS.index(projection)
    heads = [*itertools.product(("lstm", "gru"), (True, False), (True, False), (None, 3))]
    for rnn, both, per_step, hidden in heads[first % 4::4]:
        head = models.Head(6, 3, latent_dim=5, hidden_size=4, lstm_layers=1, readout=readout, rnn=rnn,
                           projection=projection, bidirectional=both, per_step=per_step,
                           classifier_hidden=hidden).double().eval()
        lengths = torch.randint(1, 41, (6,), generator=random)
        x = torch.randn(6, int(lengths.max()), 6, dtype=torch.double, generator=random)
        for i, length in enumerate(lengths):
            x[i, length:] = torch.nan
        order = torch.randperm(6, generator=random)
        logits, expected = head(x, lengths), torch.cat([head(x[i:i + 1, :n]) for i, n in enumerate(lengths)])
        torch.testing.assert_close(logits, expected, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(head(x[order], lengths[order]), expected[order], atol=1e-9, rtol=1e-9)
        for one, other in zip(*(torch.autograd.grad(out.square().sum(), head.parameters(), allow_unused=True)
                                for out in (logits, expected)), strict=True):
            if other is not None:
                torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("smoothing, weights", [(0, None), (0.1, [0.5, 1.5, 1.0])])
def test_a_loss_per_step_is_each_clips_mean_over_its_own_steps(smoothing, weights):
    torch.manual_seed(0)
    head = models.Head(6, 3, latent_dim=5, hidden_size=4, per_step=True, dropout=0).train()
    weights = weights and torch.tensor(weights)
    learner = Learner(head, [{"params": list(head.parameters()), "lr": 1.0}],
                      Recipe(label_smoothing=smoothing), SimpleNamespace(labels=torch.zeros(4), lengths=None),
                      torch.device("cpu"), weights=weights)
    lengths, labels, x = torch.tensor([3, 1, 5]), torch.tensor([0, 2, 1]), torch.randn(3, 5, 6)
    loss, _ = learner.loss(x, labels, lengths)
    alone = [F.cross_entropy(head(x[i:i + 1, :n])[0], labels[i].expand(n), weights, reduction="none",
                             label_smoothing=smoothing).mean() for i, n in enumerate(lengths)]
    torch.testing.assert_close(loss, torch.stack(alone).mean())


def feed_of(labels, lengths=None):
    return SimpleNamespace(labels=torch.tensor(labels), lengths=lengths and torch.tensor(lengths))


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=2, max_size=150), size=st.integers(1, 16))
def test_batches_of_like_lengths_hold_every_clip_once(lengths, size):
    steps = epoch_steps(feed_of([0] * len(lengths), lengths), Recipe(batch_size=size), 1)
    assert sorted(torch.cat([clips for clips, _ in steps]).tolist()) == [*range(len(lengths))]
    if size == 16 and len(lengths) == 128:      # one chunk: sorted
        assert sum(max(lengths[i] for i in clips) * len(clips) for clips, _ in steps) <= sum(
            sorted(lengths)[k // 16 * 16 + 15] for k in range(128))


@given(st.lists(st.integers(0, 3), min_size=8, max_size=60))
def test_balanced_weights_are_scikit_learns(labels):
    labels += [0, 1, 2, 3]
    got = class_weights(Recipe(class_weights="balanced"), torch.tensor(labels), "abcd")
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    assert np.allclose(got.numpy(), expected, rtol=1e-5)


def test_weights_of_a_file_count_one_in_the_mean(tmp_path):
    table = tmp_path / "weights.csv"
    table.write_text("class,weight\nb,3\na,1\n")
    got = class_weights(Recipe(class_weights=str(table)), torch.tensor([0, 0, 1]), ["a", "b"])
    assert got.tolist() == pytest.approx([3 / 5, 9 / 5])


def test_a_balanced_sampler_shows_every_class_equally_often():
    labels, recipe = [0] * 90 + [1] * 10, Recipe(sampler="balanced")
    shown = torch.cat([clips for epoch in range(40) for clips, _ in
                       epoch_steps(feed_of(labels), recipe, epoch)])
    assert len(shown) == 4000 and 0.45 < float((shown >= 90).float().mean()) < 0.55


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 2**31))
def test_precision_recall_f1_and_average_precision_are_scikit_learns(videos, classes, seed):
    rng = np.random.default_rng(seed)
    p, labels = rng.dirichlet(np.ones(classes), videos).round(1), rng.integers(0, classes, videos)
    got, there = scores.by_class(p, labels), np.bincount(labels, minlength=classes) > 0
    expected = metrics.precision_recall_fscore_support(labels, p.argmax(1), labels=range(classes),
                                                       zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        assert np.allclose(got[name][there], values[there]) and np.isnan(got[name][~there]).all()
    for c in np.flatnonzero(there):
        oracle = metrics.average_precision_score(labels == c, p[:, c])
        assert got["average_precision"][c] == pytest.approx(oracle)
    oracle = metrics.f1_score(labels, p.argmax(1), average="macro", labels=np.flatnonzero(there),
                              zero_division=0)
    assert scores.summarise(p, labels, labels)["macro_f1"] == pytest.approx(oracle)


PLAIN = ("--encoder_backend", "torch", "--encoder_precision", "float32")
WHOLE = {"all": ("--num_frames_video", "all", "--views", 2),
         "spread": ("--num_frames_video", 6, "--spread", "--views", 2, "--augment", "none"),
         "random": ("--num_frames_video", 3, "--stride", "random", "--views", 2, "--augment", "none")}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_run_on_whole_videos_goes_through_the_scripts(demo, long, tmp_path, kind):
    folder = train(demo, long, tmp_path, "--epochs", 1, *WHOLE[kind])
    tested = call("test.py", folder, "--num_videos", 0, "--test_windows", 2).out
    assert "macro F1" in tested and ("one window a video" in tested) == (kind == "all")
    film = next((demo / "UCF-101").glob("*/*.avi"))
    watched = call("test_on_video.py", folder, "--video_path", film, "--no-video").out
    assert ("reads whole videos" in watched) == (kind == "all")
    assert ("spread over their videos" in watched) == (kind == "spread")
    refused("test_continues_movie.py", folder, says="neighbouring frames")
    if kind == "all":       # a file of export.py takes clips of any length
        pytest.importorskip("onnxscript")
        trained, file = utils.load_trained(folder), tmp_path / "model.onnx"
        about = exported.describe(trained, "model")
        export.write_onnx(file, *export.parts(trained)["model"], about)
        assert "(B, T, 3, 32, 32)" in about["input"]
        film = write_video(tmp_path / "short.avi", 40)      # of fewer frames than the median
        rows = [table(last_line(call("test_on_video.py", "--video_path", film, "--no-video", "--output_dir",
                                     tmp_path / words[0], *words, *PLAIN)) / "predictions.csv")
                for words in (("--model_dir", folder), ("--model", file))]
        assert rows[0] == rows[1]
    if kind == "spread":    # each frame was encoded once, and no view of another crop was
        again = call("train.py", *flags(demo, long, tmp_path, "--epochs", 1, *WHOLE["spread"])).out
        assert "train and val: all" in again and "view 1 of train: all" in again and "encoding" not in again


def test_a_training_that_gets_no_better_ends_early_and_stays_so(demo, sampled, tmp_path):
    folder = train(demo, sampled, tmp_path, "--epochs", 30, "--lr", 1e-9, "--patience", 3)
    rows = table(folder / "metrics.csv")
    assert len(rows) < 30 and load(folder)["epoch"] == len(rows)
    assert len(rows) - load(folder, "best")["epoch"] == 3
    assert "--patience 3" in call("train.py", "--resume", folder).out
    assert len(table(folder / "metrics.csv")) == len(rows)
    refused("train.py", *flags(demo, sampled, tmp_path, "--patience", 3, "--split_size", 0),
            says="--patience 3")
