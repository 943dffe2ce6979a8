"""What a trained model is tested on, what it says of it, and how sure the figures are.

    trained = utils.load_trained("20261121-110128")
    data = test_data(trained, sampled_data_path, ucf_list_dir)      # the test list's videos
    probabilities = predict_videos(trained, data, options)          # (videos, C), windows averaged
    metrics = summarise(probabilities, data.labels, data.groups)    # top1, ci95, ...
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import cli
import dataset
import features
import splits
from cli import UserError


@dataclass
class TestData:
    """Test videos in list order, with what is known of them."""
    folder: Path
    videos: list            # dataset.SampledVideo
    labels: np.ndarray      # int64 (N,)
    split: str              # 1, 2, 3, random or drawn
    note: str               # what was left out
    train_counts: np.ndarray    # int64 (C,), training videos of each class

    @property
    def groups(self):
        return [v.group for v in self.videos]


def add_model_flags(parser, several=False):
    """The flags that every script with a trained model shares."""
    parser.add_argument("--model_dir", required=True, metavar="RUN", nargs="+" if several else None,
                        help="run folder of train.py, or its Saved_model_checkpoint")
    parser.add_argument("--model_name", default=None, metavar="FILE",
                        help="checkpoint in it (default: best.pth.tar)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--num_workers", type=cli.count, default=4, help="processes that decode frames")
    parser.add_argument("--batch_size", type=cli.positive_int, default=32,
                        help="accepted for old command lines; the result and the speed do not depend on it")


def add_data_flags(parser):
    parser.add_argument("--sampled_data_path", "--sampled_data_dir", dest="sampled_data_path", metavar="DIR",
                        help="folder that preprocessing_data.py wrote (default: that of the training)")
    parser.add_argument("--ucf_list_dir", metavar="DIR",
                        help="folder of the split lists (default: that of the training)")
    parser.add_argument("--split", choices=["1", "2", "3"], default=None,
                        help="official split (default: that of the training)")
    parser.add_boolean("--feature_cache", default=True,
                       help="keep the features on disk, shared by all scripts")


def test_data(trained, sampled_data_path=None, ucf_list_dir=None, split=None):
    """The TestData of a run: the official test list, or the test part that the run drew itself.

    UserError: no such folders, no test video there, or one that the model was trained on.
    """
    saved, run = trained.settings, trained.folder
    folder = cli.folder("sampled_data_path", sampled_data_path or saved.get("sampled_data_path"),
                        "give the folder that preprocessing_data.py wrote")
    videos = dataset.read_sampled(folder, saved.get("group_pattern"), saved.get("groups"))
    if not (run / "splits.csv").is_file():
        raise UserError(f"--model_dir {run}: its splits.csv is missing; without it nobody can tell which "
                        f"videos it was trained on")
    drawn = splits.read_splits(run / "splits.csv")
    split = split or saved.get("test_split", "drawn")
    if split in ("1", "2", "3"):
        lists = cli.folder("ucf_list_dir", ucf_list_dir or saved.get("ucf_list_dir"),
                           "give the folder of the split lists")
        _, listed = splits.official_lists(lists, split)
        found, note = splits.present(listed, videos, "test")
    else:
        listed = [splits.Listed(r["class"], r["video"], None, "") for r in drawn if r["part"] == "test"]
        found, note = splits.present(listed, videos, "test")
    known = [v for v in found if v.cls in set(trained.classes)]
    if len(known) < len(found):
        note += f", {len(found) - len(known)} of them of classes that the model does not know"
    if not known:
        raise UserError(f"--sampled_data_path {folder}: holds no test video of split {split} in the model's "
                        f"classes")
    trained_on = {(r["class"], r["video"]) for r in drawn if r["part"] in ("train", "val")}
    leaked = [v.path for v in known if (v.cls, v.name) in trained_on]
    if leaked:
        raise UserError(f"--split {split}: {len(leaked)} of its test videos, such as {leaked[0]}, were in "
                        f"the training of {run}; test it on the split that it was trained for")
    samples = splits.make_samples({"test": known}, trained.classes)
    counts = np.bincount([r["label"] for r in drawn if r["part"] == "train"], minlength=len(trained.classes))
    return TestData(folder, known, np.array([s.label for s in samples]), str(split), note, counts)


def clip_features(trained, data, options, number=1, flip=False):
    """(features float16 (clips, T, D), the clips' videos int (clips,)) of all test windows."""
    clips, owner = [], []
    for i, video in enumerate(data.videos):
        mine = dataset.windows(video, trained.settings["num_frames_video"], number)
        mine += [dataset.mirrored(clip) for clip in mine] if flip else []
        clips += mine
        owner += [i] * len(mine)
    values = features.encode_clips(trained.model.encoder, clips, data.folder, options, "test")
    return values, np.array(owner)


@torch.inference_mode()
def head_logits(head, values, device="cpu", chunk=256):
    """Logits float32 (clips, C) of features (clips, T, D), in chunks of one size."""
    head = head.to(device).eval()
    return torch.cat([head(torch.from_numpy(np.ascontiguousarray(part)).to(device).float()).float().cpu()
                      for part in np.array_split(values, range(chunk, len(values), chunk))])


def predict_videos(trained, data, options, number=1, flip=False):
    """Probabilities float64 (videos, C): the softmax, averaged over a video's windows."""
    values, owner = clip_features(trained, data, options, number, flip)
    shares = head_logits(trained.model.head, values, options.device).double().softmax(1).numpy()
    total = np.zeros((len(data.videos), shares.shape[1]))
    np.add.at(total, owner, shares)
    return total / np.bincount(owner)[:, None]


# ---------------------------------------------------------------- figures

def bootstrap_interval(right, groups, seed=0, replicates=10_000):
    """95% interval of the mean of `right` (N,), whole groups drawn with replacement; [low, high].

    Percentile bootstrap over clusters (Davison and Hinkley 1997, section 3.8): clips of one
    recording succeed or fail together, so that clips are no independent draws.
    """
    _, index = np.unique(groups, return_inverse=True)
    hits, sizes = np.bincount(index, right), np.bincount(index)
    random = np.random.default_rng(seed)
    means = []
    for _ in range(0, replicates, 1000):  # in parts: 101 classes of 25 groups make large tables
        times = random.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=1000)
        means.append(times @ hits / (times @ sizes))
    return [float(x) for x in np.percentile(np.concatenate(means), [2.5, 97.5])]


def summarise(probabilities, labels, groups):
    """{top1, top3, top5, mean_class_accuracy, loss, ci95, videos, groups, classes} of (N, C)."""
    ranked = np.argsort(-probabilities, 1, kind="stable")[:, :5] == labels[:, None]
    right = ranked[:, 0]
    accuracy = per_class(right, labels, probabilities.shape[1])[0]
    chosen = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)
    return {"top1": float(right.mean()), "top3": float(ranked[:, :3].any(1).mean()),
            "top5": float(ranked.any(1).mean()), "mean_class_accuracy": float(np.nanmean(accuracy)),
            "loss": float(-np.log(chosen).mean()), "ci95": bootstrap_interval(right, groups),
            "videos": len(labels), "groups": len(set(groups)), "classes": int(len(set(labels.tolist())))}


def per_class(right, labels, classes):
    """(accuracy (C,), NaN where there is no video; videos (C,))."""
    n = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, right, minlength=classes)
    return np.divide(hits, n, out=np.full(classes, np.nan), where=n > 0), n


def under_represented(train_counts):
    """bool (C,): classes with less than half of the median class's training videos."""
    return train_counts < 0.5 * np.median(train_counts)
