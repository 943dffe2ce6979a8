"""Which videos count: split lists and sampled clips -> the samples of a training, or of a test.

    samples, classes = training_samples(recipe)             # [Sample] of train, val and, if drawn, test
    samples, classes = training_samples(recipe, run)        # of a resumed run: the parts of its splits.csv
    data = test_data(trained, sampled_data_path, lists)     # the test list's videos, or the drawn part's

Whatever is left out is counted, and said.
"""
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.clips import fields, splits
from lrcn.clips.manifest import SampledVideo, read_sampled
from lrcn.runs import RunFolder


def silent(*_):
    """In the place of cli.say, for all ranks but the first."""


def _sampled(folder, settings):
    """(Path, [SampledVideo]) of --sampled_data_path, with the groups that the flags name."""
    folder = cli.folder("sampled_data_path", folder, "give the folder that preprocessing_data.py wrote")
    return folder, read_sampled(folder, settings.get("group_pattern"), settings.get("groups"))


# ---------------------------------------------------------------- training

def sampled_videos(recipe):
    """[SampledVideo] of all that there is."""
    return _sampled(recipe.sampled_data_path, recipe.as_settings())[1]


def training_samples(recipe, run=None, say=cli.say):
    """([Sample] of train, val and, where no list says it, test; class names in label order).

    run: the RunFolder of a resumed run, whose splits.csv decides.
    """
    _, videos = _sampled(recipe.sampled_data_path, recipe.as_settings())
    leaky, listed = recipe.split == "random", recipe.ucf_list_dir and recipe.split != "random"
    parted = not listed and not leaky and any(v.part for v in videos)
    pool, test, order = (_listed if listed else _parted if parted else _drawn)(recipe, videos, say)
    alike = None if leaky or recipe.group_pattern or recipe.groups else \
        splits.look_alike([(v.cls, v.name) for v in [*pool, *test]])
    if alike:
        cli.say(f"warning: {alike}", file=sys.stderr)
    short = sum(v.frames < recipe.num_frames_video for v in pool)
    if short:
        say(f"--num_frames_video {recipe.num_frames_video}: {short} of {len(pool)} sampled videos have fewer "
            f"frames, and repeat their last one; preprocess with --num_frames_to_extract "
            f"{recipe.num_frames_video} or more")
    if run is not None and run.splits.is_file():
        return _as_written(run.splits, f"--resume {run}", videos, [*pool, *test], say)
    if recipe.parts:
        table = cli.file("parts", recipe.parts, "give a run's splits.csv")
        return _as_written(table, f"--parts {table}", videos, [*pool, *test], say)
    classes = _classes(recipe, pool, order)
    pool = [v for v in pool if v.cls in set(classes)]
    train, val = pool, []
    if parted and recipe.split_size:
        train, val = ([v for v in pool if v.part == part] for part in ("train", "val"))
    if not val and recipe.split_size:
        train, val = splits.hold_out(train, recipe.split_size, recipe.seed + 1, by_video=leaky)
    if recipe.smaller_dataset:
        train, val = splits.smaller(train), splits.smaller(val)
    if not val and recipe.split_size:
        raise UserError("--split_size: no class has two groups, so that none can be held out for validation; "
                        "0 trains on all, without a validation")
    if not val and recipe.scheduler == "plateau":
        raise UserError("--scheduler plateau: it follows the validation loss; give a --split_size above 0")
    return splits.make_samples({"train": train, "val": val, "test": test}, classes), classes


def training_pool(recipe, say=cli.say):
    """([SampledVideo], class names in label order): all that a run of this recipe may learn from.

    For choices between recipes: neither the test list nor a test video is looked at.
    """
    _, videos = _sampled(recipe.sampled_data_path, recipe.as_settings())
    if recipe.ucf_list_dir:
        pool, _, order = _listed(recipe, videos, say, splits.training_list)
    else:
        pool, _, order = (_parted if any(v.part for v in videos) else _drawn)(recipe, videos, say)
    classes = _classes(recipe, pool, order)
    pool = [v for v in pool if v.cls in set(classes)]
    return splits.smaller(pool) if recipe.smaller_dataset else pool, classes


def _listed(recipe, videos, say, read=lambda lists, split: splits.official_lists(lists, split)[0]):
    """(training videos, [], class order) of an official split."""
    lists = cli.folder("ucf_list_dir", recipe.ucf_list_dir, "give the folder of the split lists")
    listed = read(lists, recipe.split)
    pool, sentence = splits.present(listed, videos, "training")
    say(sentence)
    if not pool:
        raise UserError(f"--sampled_data_path {recipe.sampled_data_path}: holds no video of the training "
                        f"list in --ucf_list_dir {lists}")
    return pool, [], splits.class_order(lists, listed)


def _parted(recipe, videos, say):
    """(videos of train/ and val/, of test/, class order) where the sources lie in such folders.

    Without a test/ the videos of val/ are the test, and the validation is cut from those of train/.
    """
    parts = {part: [v for v in videos if v.part == part] for part in splits.PARTS}
    if not parts["test"]:
        parts = {"train": parts["train"], "val": [], "test": parts["val"]}
    rest = len(videos) - sum(map(len, parts.values()))
    say("parts by folder: " + ", ".join(f"{len(found)} {part}" for part, found in parts.items() if found)
        + (f"; {rest} videos in none of them are left out" if rest else ""))
    return parts["train"] + parts["val"], parts["test"], splits.class_order(recipe.ucf_list_dir, videos)


def _drawn(recipe, videos, say):
    """(training videos, test videos, class order) of a split drawn by group, or by video for comparison."""
    leaky = recipe.split == "random"
    if leaky:
        print("warning: --split random draws by video, not by group: near copies of the tested clips "
              "are trained on, and the accuracy is inflated", file=sys.stderr)
    pool, test = splits.hold_out(videos, recipe.test_size, recipe.seed, by_video=leaky)
    return pool, test, splits.class_order(recipe.ucf_list_dir, videos)


def _classes(recipe, pool, order):
    """The classes to train on, in label order; UserError for a chosen one that has no training video."""
    names = {v.cls for v in pool}
    absent = [cls for cls in recipe.chosen_classes or () if cls not in names]
    if absent:
        raise UserError(f"--classes {','.join(recipe.chosen_classes)}: no training video of {absent[0]}; "
                        f"there are {', '.join(sorted(names)[:10])}{' ...' if len(names) > 10 else ''}")
    chosen = set(recipe.chosen_classes or names) & names
    return [cls for cls in order if cls in chosen][:recipe.number_of_classes]


def _as_written(table, flag, videos, candidates, say):
    """The samples and classes of a run's splits.csv: what came into the sampled data since is left out."""
    rows = splits.read_splits(table)
    there = {(v.cls, v.name): v for v in videos}
    samples = [splits.Sample(there[row["class"], row["video"]], row["label"], row["part"]) for row in rows
               if (row["class"], row["video"]) in there]
    if len(samples) < len(rows):
        say(f"{len(samples)} of {len(rows)} videos of {table} present")
    if {s.part for s in samples} < {row["part"] for row in rows} & {"train", "val"}:
        raise UserError(f"{flag}: no training or no validation video of its splits.csv is in the "
                        f"sampled data; give the --sampled_data_path that it was trained on")
    known = {(row["class"], row["video"]) for row in rows}
    labels = {row["class"]: row["label"] for row in rows}
    if sorted(labels.values()) != list(range(len(labels))):
        raise UserError(f"{flag}: expected the labels 0 to {len(labels) - 1}, one for each class")
    new = [v.path for v in candidates if (v.cls, v.name) not in known and v.cls in labels]
    if new:
        say(f"{len(new)} videos that are not in {table} are left out of this run: "
            f"{', '.join(new[:3])}{' ...' if len(new) > 3 else ''}")
    return samples, sorted(labels, key=labels.get)


# ---------------------------------------------------------------- testing

@dataclass
class TestData:
    """Test videos in list order, with what is known of them."""
    __test__ = False
    folder: Path
    videos: list            # manifest.SampledVideo
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
    saved, run = trained.settings, RunFolder(trained.folder)
    sampled_data_path = sampled_data_path or saved.get("sampled_data_path")
    ucf_list_dir = ucf_list_dir or saved.get("ucf_list_dir")
    split = split or saved.get("test_split", "drawn")
    refuse_moved(sampled_data_path, ucf_list_dir if split in ("1", "2", "3") else None)
    folder, videos = _sampled(sampled_data_path, saved)
    fields.require(folder, trained.recipe, saved.get("flow"))
    if not run.splits.is_file():
        raise UserError(f"--model_dir {run}: its splits.csv is missing; without it nobody can tell which "
                        f"videos it was trained on")
    rows = splits.read_splits(run.splits)
    if split in ("1", "2", "3"):
        lists = cli.folder("ucf_list_dir", ucf_list_dir, "give the folder of the split lists")
        _, listed = splits.official_lists(lists, split)
    else:
        listed = [splits.Listed(r["class"], r["video"], None, "") for r in rows if r["part"] == "test"]
    found, note = splits.present(listed, videos, "test")
    known = [v for v in found if v.cls in set(trained.classes)]
    if len(known) < len(found):
        note += f", {len(found) - len(known)} of them of classes that the model does not know"
    if not known:
        raise UserError(f"--sampled_data_path {folder}: holds no test video of split {split} in the model's "
                        f"classes")
    refuse_leaks(known, rows, split, run)
    samples = splits.make_samples({"test": known}, trained.classes)
    counts = np.bincount([r["label"] for r in rows if r["part"] == "train"], minlength=len(trained.classes))
    return TestData(folder, known, np.array([s.label for s in samples]), str(split), note, counts)


test_data.__test__ = False


def validation_data(trained):
    """The TestData of a run's validation part, as its splits.csv has it, where it was trained."""
    folder, videos = _sampled(trained.settings.get("sampled_data_path"), trained.settings)
    rows = [r for r in splits.read_splits(RunFolder(trained.folder).splits) if r["part"] == "val"]
    listed = [splits.Listed(r["class"], r["video"], None, "") for r in rows]
    found, note = splits.present(listed, videos, "validation")
    labels = {(r["class"], r["video"]): r["label"] for r in rows}
    return TestData(folder, found, np.array([labels[v.cls, v.name] for v in found], np.int64),
                    trained.settings.get("test_split", "drawn"), note,
                    np.zeros(len(trained.classes), np.int64))


def tested_data(shares, run, split):
    """The TestData of answers.Shares that were written for a RunFolder.

    Its clips are those that the run was trained with, where all are still there; else folder is None.
    """
    counts = np.zeros(len(shares.classes), np.int64)
    if run.splits.is_file():
        trained_on = [shares.classes.index(r["class"]) for r in splits.read_splits(run.splits)
                      if r["part"] == "train" and r["class"] in shares.classes]
        counts = np.bincount(trained_on, minlength=len(shares.classes))
    folder, frames = None, {}
    if run.settings.is_file():
        place = files.read_json(run.settings).get("sampled_data_path")
        if isinstance(place, str) and (Path(place) / "manifest.csv").is_file():
            folder, frames = Path(place), {(v.cls, v.name): v.frames for v in read_sampled(place)}
    if not frames.keys() >= set(shares.videos):
        folder = None
    videos = [SampledVideo(name, cls, group, frames.get((cls, name), 1))
              for (cls, name), group in zip(shares.videos, shares.groups, strict=True)]
    return TestData(folder, videos, shares.labels, str(split), "", counts)


tested_data.__test__ = False


def refuse_moved(sampled_data_path, ucf_list_dir):
    """One UserError that asks for both folders of a training, where both are not there any more."""
    if sampled_data_path and ucf_list_dir and not Path(sampled_data_path).expanduser().exists() \
            and not Path(ucf_list_dir).expanduser().exists():
        raise UserError(f"--sampled_data_path {sampled_data_path} --ucf_list_dir {ucf_list_dir}: neither of "
                        f"these folders exists; give both, the sampled clips and the split lists")


def refuse_leaks(videos, rows, split, run):
    """A UserError where a test video was in the run's training. rows: of its splits.csv."""
    trained_on = {(r["class"], r["video"]) for r in rows if r["part"] in ("train", "val")}
    leaked = [v.path for v in videos if (v.cls, v.name) in trained_on]
    if leaked:
        raise UserError(f"--split {split}: {len(leaked)} of its test videos, such as {leaked[0]}, were in "
                        f"the training of {run}; test it on the split that it was trained for")
