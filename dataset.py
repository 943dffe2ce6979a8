"""Which videos count: split lists and sampled clips -> the samples of a training or a test. What is left out
is counted and said."""
import functools
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lrcn.base import UserError, cli, files
from lrcn.data import fields, split_lists, splits
from lrcn.data.chunks import require_rate
from lrcn.data.frames import ClipSampler
from lrcn.data.groups import look_alike
from lrcn.data.learned import Learned, leaked
from lrcn.data.manifest import read_sampled
from lrcn.data.sources import chosen_classes
from lrcn.evaluation.answers import Answers
from lrcn.runs import RunFolder
from lrcn.training.recipe import Recipe
from lrcn.training.run import starts, what_it_learned


def silent(*_, **__):
    """cli.say for all ranks but the first."""


_sampled_folder = functools.partial(cli.folder, "sampled_data_path",
                                    hint="give the folder that preprocessing_data.py wrote")
_list_folder = functools.partial(cli.folder, "ucf_list_dir", hint="give the folder of the split lists")


def _sampled(folder, settings):
    """(Path, [SampledVideo]) of --sampled_data_path, with the groups that the flags name."""
    folder = _sampled_folder(folder)
    return folder, read_sampled(folder, *map(settings.get, ("group_pattern", "groups", "ucf_list_dir")))


def require_folders(recipe):
    """UserError where a folder of the recipe is missing, or its clips' rate is not the encoder's."""
    require_rate(_sampled_folder(recipe.sampled_data_path), recipe)
    if recipe.ucf_list_dir and recipe.split != "random":
        _list_folder(recipe.ucf_list_dir)


def training_samples(recipe, run=None, say=cli.say):
    """([SampledVideo] with label and part, of train, val and, where no list says it, test; class names in
    label order). run: the RunFolder of a resumed run, whose splits.csv decides. With --parts the videos in
    the table keep their part; others get that of their group, or are drawn."""
    folder, videos = _sampled(recipe.sampled_data_path, recipe.as_settings())
    require_rate(folder, recipe)
    leaky, rows = recipe.split == "random", []
    if recipe.parts:
        table, flag = cli.file("parts", recipe.parts, "give a run's splits.csv"), f"--parts {recipe.parts}"
        rows = splits.read_splits(table)
    known = splits.known_parts(rows, videos, by_video=leaky)
    pool, test, order, parted = _pool(recipe, videos, say, known)
    _say_short(recipe, pool, say, run is not None)
    if not (leaky or recipe.group_pattern or recipe.groups) and (
            alike := look_alike([v.key for v in [*pool, *test]])):
        say(f"warning: {alike}", file=sys.stderr)
    resumed = run is not None and run.splits.is_file()
    if resumed:
        table, flag = run.splits, f"--resume {run}"
    if resumed or rows and recipe.streams:  # a head over encoders that have these parts, and no others
        return _as_written(table, flag, videos, [*pool, *test], say)
    labels = {row.cls: row.label for row in rows}
    classes = _classes(recipe, pool, sorted(order, key=lambda cls: labels.get(cls, len(labels))))
    if parted and test and (sided := split_lists.one_sided({v.cls for v in pool}, {v.cls for v in test})):
        say(f"warning: {sided}", file=sys.stderr)
    pool = [v for v in pool if v.cls in classes]
    train, val = pool, []
    if parted and recipe.split_size:
        train, val = ([v for v in pool if v.part == part] for part in ("train", "val"))
    if not val and recipe.split_size and (not rows or "val" in {row.part for row in rows}):
        held = {group: part == "val" for group, part in known.items()}
        train, val = splits.hold_out(train, recipe.split_size, recipe.seed + 1, by_video=leaky, known=held)
    parts = {"train": train, "val": val, "test": test}
    if rows:
        parts = _kept(rows, parts, recipe.parts, say)
    if recipe.smaller_dataset:
        parts |= {part: splits.smaller(parts[part]) for part in ("train", "val")}
    if not parts["val"] and recipe.split_size and not rows:
        raise UserError("--split_size: no class has enough groups (recordings) to hold one out for "
                        "validation; add some, or give 0 to train on all of them without a validation")
    if not parts["val"] and recipe.validated:
        raise UserError(f"{recipe.validated}: it needs a validation; give a --split_size above 0")
    return splits.make_samples(parts, classes), classes


def _say_short(recipe, pool, say, resumed=False):
    """Say how many videos have fewer frames than a clip; UserError: a new run would see only pictures."""
    sampler = ClipSampler.of(recipe)
    needed, T = sampler.length or 1, recipe.num_frames_video
    if sampler.chunk:
        needed = sampler.chunk + (needed - 1) * sampler.chunk_stride
    short = sum(v.frames < needed for v in pool)
    if short and all(v.frames == 1 for v in pool):
        words = (f"--num_frames_video {T}: these {len(pool)} are pictures, of one frame; "
                 f"--num_frames_video 1 --readout none makes an image classifier")
        if not resumed and not recipe.allow_pictures:
            raise UserError(f"{words}; --allow_pictures trains on them anyway")
        say(words)
    elif short:
        read = "repeat their last one" if sampler.repeat else "are read as they are"
        say(f"--num_frames_video {T}: {short} of {len(pool)} sampled videos have fewer frames than "
            f"{needed}, and {read}; preprocess with --num_frames_to_extract {needed} or more")


def _kept(rows, parts, table, say):
    """`parts` ({part: [SampledVideo]}) as drawn, but the videos in the table of --parts as they are there."""
    written, kept = {row.key: row.part for row in rows}, {part: [] for part in parts}
    for part, videos in parts.items():
        for v in videos:
            kept[v.in_table(written) or part].append(v)
    new = [part for part, videos in kept.items() for v in videos if not v.in_table(written)]
    old = sum(map(len, kept.values())) - len(new)
    say(f"--parts {table}: {old} of its {len(rows)} videos are there and keep their part"
        + (f"; {len(new)} new ones: {', '.join(splits.counted(new))}" if new else ""))
    if not kept["train"]:
        raise UserError(f"--parts {table}: no training video of it is in the sampled data; give the "
                        f"--sampled_data_path that it was made of")
    return kept


def training_pool(recipe, say=cli.say):
    """([SampledVideo], class names in label order): all that a run of this recipe may learn from. To choose
    between recipes: neither the test list nor a test video is read."""
    _, videos = _sampled(recipe.sampled_data_path, recipe.as_settings())
    pool, _, order, _ = _pool(recipe, videos, say, blind=True)
    _say_short(recipe, pool, say)
    classes = _classes(recipe, pool, order)
    pool = [v for v in pool if v.cls in classes]
    return splits.smaller(pool) if recipe.smaller_dataset else pool, classes


def _pool(recipe, videos, say, known=None, blind=False):
    """(training videos, test videos, all classes in label order, whether folders say the parts): by an
    official split, without its test videos (blind: nor is its test list read); by the sources' folders, where
    without a test/ val/ is the test, and the validation is cut from train/; else drawn by group, or by video
    for comparison. known: {group: part} of --parts; without a test there, none is drawn."""
    leaky = recipe.split == "random"
    if recipe.ucf_list_dir and not leaky:
        lists = _list_folder(recipe.ucf_list_dir)
        path = lists / f"trainlist{int(recipe.split):02d}.txt"
        listed = (split_lists.read_list(path, split_lists.read_class_index(lists)) if blind and path.is_file()
                  else split_lists.official_lists(lists, recipe.split)[0])
        pool, sentence = split_lists.present(listed, videos, "training")
        say(sentence)
        if not pool:
            raise UserError(f"--sampled_data_path {recipe.sampled_data_path}: holds no video of the training "
                            f"list in --ucf_list_dir {lists}")
        return pool, [], split_lists.class_order(lists, listed), False
    order = split_lists.class_order(recipe.ucf_list_dir, videos)
    if not leaky and any(v.part for v in videos):
        parts = {part: [v for v in videos if v.part == part] for part in splits.PARTS}
        if not parts["test"]:
            parts = {"train": parts["train"], "val": [], "test": parts["val"]}
        rest = len(videos) - sum(map(len, parts.values()))
        say("parts by folder: " + ", ".join(f"{len(own)} {part}" for part, own in parts.items() if own)
            + (f"; {rest} videos in none of them are left out" if rest else ""))
        return parts["train"] + parts["val"], parts["test"], order, True
    if leaky:
        print("warning: --split random draws by video, not by group: near copies of the test clips are in "
              "training, and the accuracy is too high", file=sys.stderr)
    held = {group: part == "test" for group, part in (known or {}).items()}
    fraction = recipe.test_size if not held or any(held.values()) else 0
    return *splits.hold_out(videos, fraction, recipe.seed, by_video=leaky, known=held), order, False


def _classes(recipe, pool, order):
    """The classes to train on, in label order; UserError: a chosen one has no training video."""
    chosen = chosen_classes(recipe.chosen_classes, sorted({v.cls for v in pool}), "no training video of")
    return [cls for cls in order if cls in chosen][:recipe.number_of_classes]


def _as_written(table, flag, videos, candidates, say):
    """The samples and classes of a run's splits.csv, without what came into the sampled data later."""
    rows, there = splits.read_splits(table), {v.key: v for v in videos}
    samples = [replace(there[row.key], label=row.label, part=row.part) for row in rows if row.key in there]
    if len(samples) < len(rows):
        say(f"{len(samples)} of {len(rows)} videos of {table} present")
    if {s.part for s in samples} < {row.part for row in rows} & {"train", "val"}:
        raise UserError(f"{flag}: no training or no validation video of its splits.csv is in the "
                        f"sampled data; give the --sampled_data_path that it was trained on")
    known, labels = {row.key for row in rows}, {row.cls: row.label for row in rows}
    if sorted(labels.values()) != list(range(len(labels))):
        raise UserError(f"{flag}: expected the labels 0 to {len(labels) - 1}, one for each class")
    if new := [v.path for v in candidates if v.key not in known and v.cls in labels]:
        say(f"{len(new)} videos that are not in {table} are left out of this run: {cli.first(new, 3)}")
    return samples, sorted(labels, key=labels.get)


UNKNOWN = ("it is not known what its weights were trained on before (by another program, or in an older run "
           "without its splits.csv): perhaps on the test videos")


def refuse_leaks(start, marks, videos, advice, trained_on=()):
    """UserError where weights that a training starts from were trained on what it holds out. start: the flag
    and its value; marks, trained_on: see learned.leaked."""
    if seen := leaked(videos, marks, trained_on):
        raise UserError(f"{start}: it was trained on {len(seen)} of the {len(videos)} videos that are held "
                        f"out, or on others of their groups, such as {seen[0].path}; {advice}")


def before_training(recipe, state, checkpoint, samples, say):
    """The Learned of the weights that a training starts from; UserError: they were trained on what it holds
    out, or on its test list. A resumed run with its splits.csv was checked when it began."""
    begun = [(f"--checkpoint_path {checkpoint}", what_it_learned(state, checkpoint, "checkpoint_path"))] \
        if state else starts(recipe)
    if begun and recipe.split != "random" and not (state and RunFolder.of(checkpoint).splits.is_file()):
        videos = [v for v in samples if v.part != "train"]
        if recipe.ucf_list_dir:
            _, listed = split_lists.official_lists(recipe.ucf_list_dir, recipe.split)
            _, sampled = _sampled(recipe.sampled_data_path, recipe.as_settings())
            videos += split_lists.present(listed, sampled, "test")[0]
        for start, known in begun:
            refuse_leaks(start, known.network, videos, "give --parts with its splits.csv, which keeps its "
                         "parts, or a run of other videos", [v for v in samples if v.part == "train"])
            if not known.known:
                say(f"warning: {start}: {UNKNOWN}", file=sys.stderr)
    return functools.reduce(Learned.__or__, (one for _, one in begun), Learned())


@dataclass
class TestData(Answers):
    """Test videos in list order."""
    split: str = ""         # 1, 2, 3, random or drawn
    note: str = ""          # what was left out, and what is not known
    train_counts: np.ndarray = None     # int64 (C,), training videos of each class
    leak: str = ""          # why the network may know these videos
    background: int = None  # the label of --background
    uncalibrated: np.ndarray = None     # float64 (N, C), the probabilities at temperature 1
    by_video = (*Answers.by_video, "uncalibrated")


def test_data(trained, sampled_data_path=None, ucf_list_dir=None, split=None):
    """The TestData of a run: the official test list, the part that it drew, or, with split "folder", all of
    --sampled_data_path. UserError: no such folders, no test video, or one that was trained on."""
    saved, run = trained.settings, RunFolder(trained.folder)
    sampled_data_path = sampled_data_path or saved.get("sampled_data_path")
    ucf_list_dir = ucf_list_dir or saved.get("ucf_list_dir")
    split = split or saved.get("test_split", "drawn")
    folder, videos = _sampled(sampled_data_path, {} if split == "folder" else
                              {**saved, "ucf_list_dir": ucf_list_dir})
    fields.require(folder, trained.recipe, saved.get("flow"))
    require_rate(folder, trained.recipe)
    if not run.splits.is_file():
        raise UserError(f"--model_dir {run}: its splits.csv is missing; without it it is not known which "
                        f"videos it was trained on")
    rows = splits.read_splits(run.splits)
    if split in ("1", "2", "3"):
        _, listed = split_lists.official_lists(_list_folder(ucf_list_dir), split)
    else:
        listed = [row for row in rows if row.part == "test"]
    tested, note = (videos, f"{len(videos)} videos in the folder") if split == "folder" else \
        split_lists.present(listed, videos, "test")
    known = [v for v in tested if v.cls in trained.classes]
    # Where folders are the parts, the run's table holds only its own classes.
    parted = split == "drawn" and ([v for v in videos if v.part == "test"]
                                   or [v for v in videos if v.part == "val"])
    unknown = [v for v in parted or tested if v.cls not in trained.classes]
    if unknown:
        note += f", {len(unknown)} {'more' if parted else 'of them'} of classes that the model does not know"
    sided = split_lists.one_sided(trained.classes, {v.cls for v in [*tested, *unknown]})
    note += f"; {sided}" if sided and (parted or unknown or split == "folder") else ""
    if not known:
        raise UserError(f"--sampled_data_path {folder}: holds no test video of split {split} in the model's "
                        f"classes")
    own = {row.key: row for row in rows if row.part != "test"}
    seen = [v for v in known if v.key in own]
    if seen and split != "folder":      # there, other videos may have the same names
        raise UserError(f"--split {split}: {len(seen)} of its test videos, such as {seen[0].path}, were in "
                        f"the training of {run}; test it on the split that it was trained for")
    before = leaked(known, trained.learned.network, own.values())
    leak = before and (f"a run that it started from was trained on {len(before)} of these {len(known)} "
                       "videos, or on others of their groups") or ""
    if seen:
        leak = f"{len(seen)} of these {len(known)} videos have the names of videos of its training"
    if not trained.learned.known:
        note += f"; {UNKNOWN}"
    labels = np.array([trained.classes.index(v.cls) for v in known])
    counts = np.bincount([row.label for row in rows if row.part == "train"], minlength=len(trained.classes))
    return TestData(known, labels, trained.classes, folder, split=str(split), note=note, train_counts=counts,
                    leak=leak, background=trained.recipe.background_of(trained.classes))


def validation_data(trained):
    """The TestData of a run's validation part, by its splits.csv, in the folder that it was trained on."""
    folder, videos = _sampled(trained.settings.get("sampled_data_path"), trained.settings)
    listed = [row for row in splits.read_splits(RunFolder(trained.folder).splits) if row.part == "val"]
    validated, note = split_lists.present(listed, videos, "validation")
    labels = np.array([trained.classes.index(v.cls) for v in validated], np.int64)
    return TestData(validated, labels, trained.classes, folder, note=note)


def tested_data(answers, run, split, leak):
    """The TestData of the Answers of a RunFolder. Its clips are those that the run was trained with; where
    they are not all there any more, folder is None."""
    rows = splits.read_splits(run.splits) if run.splits.is_file() else ()
    trained_on = Counter(row.cls for row in rows if row.part == "train")
    settings = files.read_json(run.settings) if run.settings.is_file() else {}
    recipe = Recipe.of({"background": settings.get("background")}, run.settings)
    place = settings.get("sampled_data_path")
    there = isinstance(place, str) and (Path(place) / "manifest.csv").is_file()
    frames = {v.key: v.frames for v in read_sampled(place)} if there else {}
    folder = Path(place) if there and frames.keys() >= set(answers.names) else None
    videos = [replace(v, frames=frames.get(v.key, 1)) for v in answers.videos]
    return TestData(videos, answers.labels, answers.classes, folder, answers.probabilities, split=str(split),
                    train_counts=np.array([trained_on[cls] for cls in answers.classes]), leak=leak,
                    background=recipe.background_of(answers.classes))
