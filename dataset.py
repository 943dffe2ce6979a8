"""What a trained model is tested on, what it says of it, and how sure the figures are.

    trained = utils.load_trained("20261121-110128")
    data = test_data(trained, sampled_data_path, ucf_list_dir)      # the test list's videos
    probabilities = predict_videos(trained, data, options)          # (videos, C), windows averaged
    metrics = summarise(probabilities, data.labels, data.groups)    # top1, ci95, ...
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrcn.base import cli
from lrcn.base.cli import UserError
from lrcn.clips import splits
from lrcn.clips.manifest import read_sampled


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


def test_data(trained, sampled_data_path=None, ucf_list_dir=None, split=None):
    """The TestData of a run: the official test list, or the test part that the run drew itself.

    UserError: no such folders, no test video there, or one that the model was trained on.
    """
    saved, run = trained.settings, trained.folder
    folder = cli.folder("sampled_data_path", sampled_data_path or saved.get("sampled_data_path"),
                        "give the folder that preprocessing_data.py wrote")
    videos = read_sampled(folder, saved.get("group_pattern"), saved.get("groups"))
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


def load_samples(args, quiet=False):
    """([Sample] of train, val and, where no list says it, test; class names in label order)."""
    folder = cli.folder("sampled_data_path", args.sampled_data_path, "make it with preprocessing_data.py")
    videos = read_sampled(folder, args.group_pattern, args.groups)
    if args.ucf_list_dir and args.split != "random":
        lists = cli.folder("ucf_list_dir", args.ucf_list_dir, "give the folder of the split lists")
        listed, _ = splits.official_lists(lists, args.split)
        pool, sentence = splits.present(listed, videos, "training")
        if not quiet:
            cli.say(sentence)
        if not pool:
            raise UserError(f"--sampled_data_path {folder}: holds no video of the training list in "
                            f"--ucf_list_dir {lists}")
        order, test = splits.class_order(lists, listed), []
    else:
        order = splits.class_order(args.ucf_list_dir, videos)
        leaky = args.split == "random"
        if leaky:
            print("warning: --split random draws by video, not by group: near copies of the tested clips "
                  "are trained on, and the accuracy is inflated", file=sys.stderr)
        elif not (args.group_pattern or args.groups) and splits.look_alike([(v.cls, v.name) for v in videos]):
            print("warning: many videos share their name up to the last number; if such clips were cut from "
                  "one recording, say so with --group_pattern or --groups", file=sys.stderr)
        pool, test = splits.hold_out(videos, args.test_size, args.seed, by_video=leaky)
    names = {v.cls for v in pool}
    classes = [cls for cls in order if cls in names][:args.number_of_classes]
    pool = [v for v in pool if v.cls in set(classes)]
    train, val = splits.hold_out(pool, args.split_size, args.seed + 1, by_video=args.split == "random")
    if args.smaller_dataset:
        train, val = splits.smaller(train), splits.smaller(val)
    if not val:
        raise UserError("--split_size: no class has two groups, so that none can be held out for validation")
    return splits.make_samples({"train": train, "val": val, "test": test}, classes), classes
