"""train.py on its command line, and the engine under it."""
import math
import re
import shutil
import time

import cv2
import numpy as np
import pytest
import torch
from commands import run
from runs import (
    ONE_THREAD,
    TINY,
    assert_same_run,
    differences,
    flags,
    last_line,
    launched,
    load,
    metrics,
    one_line,
    read_json,
    table,
    train,
    weights,
)

import models
from lrcn.base import cli
from lrcn.base.distributed import set_seed
from lrcn.data import split_lists
from lrcn.features import surgery
from lrcn.features.store import Store
from lrcn.training.recipe import add_flags

SCRIPTS = ("preprocessing_data.py", "train.py", "test.py", "test_continues_movie.py", "test_on_video.py",
           "demo_data.py", "compare.py", "benchmark.py")


def changed(before, after):
    """The keys whose tensors differ."""
    assert before.keys() == after.keys()
    return {key for key in before if not torch.equal(before[key], after[key])}


def batch_norm_buffers(state):
    return {key for key in state if re.search(r"running_|num_batches", key)}


# ---------------------------------------------------------------- what a run leaves

def test_a_run_folder_holds_what_the_readme_lists(trained, demo):
    names = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert {"settings.json", "splits.csv", "metrics.csv", "Saved_model_checkpoint/epoch_20.pth.tar",
            "Saved_model_checkpoint/best.pth.tar", "Saved_model_checkpoint/last.pth.tar",
            "figures/class_distribution.png", "figures/curves.png", "figures/validation_labels.png"} <= names
    assert re.fullmatch(r"\d{8}-\d{6}(-\d+)?", trained.name)
    settings = read_json(trained / "settings.json")
    assert settings["classes"] == list(split_lists.read_class_index(demo / "ucfTrainTestlist"))
    assert settings["seed"] == 42 and settings["lr"] == 0.01 and settings["versions"]["torch"]
    rows = table(trained / "metrics.csv")
    assert [int(row["epoch"]) for row in rows] == [*range(1, 21)]
    assert {"lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "seconds"} <= rows[0].keys()
    assert [bool(row["val_loss"]) for row in rows] == [epoch % 5 == 0 for epoch in range(1, 21)]
    assert float(rows[-1]["train_loss"]) < 0.8 * float(rows[0]["train_loss"]), "it has learnt nothing"
    best = load(trained, "best")["progress"]["best"]
    assert best["top1"] == max(float(row["val_top1"]) for row in rows if row["val_top1"])
    for path in (trained / "figures").glob("*.png"):
        assert cv2.imread(str(path)).std() > 1


def test_tensorboard_shows_curves_and_pictures(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(trained))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/top1", "val/loss", "val/top1", "lr"} <= set(tags["scalars"])
    rows = table(trained / "metrics.csv")
    scalars = events.Scalars("train/loss")
    assert [e.step for e in scalars] == [*range(1, 21)]
    expected = [float(row["train_loss"]) for row in rows]
    np.testing.assert_allclose([e.value for e in scalars], expected, rtol=1e-5)
    assert {"class_distribution", "curves", "validation_labels"} <= set(tags["images"])
    assert [e.step for e in events.Images("validation_labels")] == [5, 10, 15, 20]      # at every validation


def test_the_checkpoint_holds_state_dicts_and_plain_containers(trained):
    state = load(trained)

    def plain(value):
        if isinstance(value, dict):
            return all(isinstance(k, str | int) and plain(v) for k, v in value.items())
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or isinstance(value, bool | int | float | str | torch.Tensor)

    assert plain(state) and state["epoch"] == 20
    assert {"optimizer", "schedule", "scaler", "random"} <= state["learner"].keys()


@pytest.mark.slow
def test_a_run_goes_where_open_new_folder_says(demo, sampled, tmp_path):
    assert train(demo, sampled, tmp_path, "--epochs", 1, "--open_new_folder", "False") == tmp_path
    assert train(demo, sampled, tmp_path, "--epochs", 1, "--open_new_folder", "debug") == tmp_path / "debug"
    new = train(demo, sampled, tmp_path, "--epochs", 1, "--open_new_folder", "'True’")
    assert new.parent == tmp_path and re.fullmatch(r"\d{8}-\d{6}", new.name)
    one_line(run("train.py", *flags(demo, sampled, tmp_path, "--open_new_folder", "maybe"), ok=False),
             "--open_new_folder maybe")


# ---------------------------------------------------------------- which videos, which classes

@pytest.mark.slow
def test_absent_videos_are_counted_and_classes_without_any_are_left_out(demo, sampled, tmp_path):
    few = shutil.copytree(sampled, tmp_path / "few", ignore=shutil.ignore_patterns("features"))
    lines = (few / "manifest.csv").read_text().splitlines()
    gone = lines[1].split(",")[1]
    on_train = {row.video for row in split_lists.official_lists(demo / "ucfTrainTestlist", 1)[0]}
    left = [line for line in lines if line.split(",")[1] != gone or line.split(",")[0] not in on_train]
    (few / "manifest.csv").write_text("\n".join(left) + "\n")
    result = run("train.py", *flags(demo, few, tmp_path / "runs", "--epochs", 1))
    assert "20 of 24 listed training videos present" in result.out
    folder = last_line(result)
    assert len(read_json(folder / "settings.json")["classes"]) == 5
    assert gone not in read_json(folder / "settings.json")["classes"]
    assert load(folder)["head"]["classifier.1.weight"].shape[0] == 5
    tested = run("test.py", "--model_dir", folder, "--num_workers", 0, "--num_videos", 0, env=ONE_THREAD)
    assert "7 of them of classes that the model does not know" in tested.out


def test_labels_follow_the_class_index_and_no_test_video_is_trained_on(trained, demo):
    index = split_lists.read_class_index(demo / "ucfTrainTestlist")
    rows = table(trained / "splits.csv")
    assert {row["class"]: int(row["label"]) for row in rows} == {
        cls: i for i, cls in enumerate(sorted(index, key=index.get))}
    train_list, test_list = split_lists.official_lists(demo / "ucfTrainTestlist", 1)
    assert {row["video"] for row in rows} == {row.video for row in train_list}
    assert not {row["video"] for row in rows} & {row.video for row in test_list}
    assert sorted({row["part"] for row in rows}) == ["train", "val"]


@pytest.mark.slow
def test_fewer_classes_and_a_smaller_data_set_are_flags(demo, sampled, tmp_path):
    folder = train(demo, sampled, tmp_path, "--epochs", 1, "--number_of_classes", 2, "--smaller_dataset")
    rows = table(folder / "splits.csv")
    assert {row["label"] for row in rows} == {"0", "1"}
    assert len(rows) <= 8


@pytest.mark.slow
def test_without_lists_the_split_is_drawn_by_group_and_random_warns(sampled, tmp_path):
    drawn = ("--sampled_data_path", sampled, *TINY, "--local_dir", tmp_path, "--epochs", 1, "--group_pattern",
             r"_(g\d+)_")       # a group of all classes, so that videos of a group are many
    folder = last_line(run("train.py", *drawn))
    rows = table(folder / "splits.csv")
    parts = [{row["group"] for row in rows if row["part"] == part} for part in ("train", "val", "test")]
    assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == 11
    result = run("train.py", *drawn, "--split", "random")
    assert "warning: --split random draws by video" in result.err
    rows = table(last_line(result) / "splits.csv")
    parts = [{row["group"] for row in rows if row["part"] == part} for part in ("train", "val", "test")]
    assert parts[0] & parts[2], "by video, groups would cross"
    tested = run("test.py", "--model_dir", last_line(result), "--num_workers", 0, "--num_videos", 0)
    assert read_json(last_line(tested) / "metrics.json")["leaky"] is True


# ---------------------------------------------------------------- which weights move

NORMS = ("--encoder", "shufflenet_v2_x0_5", "--epochs", 2, "--lr", 0.01, "--encoder_lr", 0.001)


def fresh_encoder():
    set_seed(42)
    return {f"encoder.{k}": v for k, v in
            models.build_encoder("shufflenet_v2_x0_5", None, 32).state_dict().items()}


@pytest.mark.parametrize("cache", ["--feature_cache", "--no-feature_cache"])
@pytest.mark.slow
def test_a_frozen_encoder_is_bit_identical_before_and_after(demo, sampled, tmp_path, cache):
    folder = train(demo, sampled, tmp_path, *NORMS, cache)
    before, after = fresh_encoder(), weights(folder, "best")
    assert len(batch_norm_buffers(before)) > 100
    assert not changed(before, {k: v for k, v in after.items() if k.startswith("encoder.")})
    assert weights(folder, "last").keys() < after.keys(), "the frozen encoder is stored once, and in the best"


@pytest.mark.parametrize("what, extra", [("last:2", []), ("last:2", ["--no-feature_cache"]), ("all", []),
                                         ("all", ["--train_batch_norm"])])
@pytest.mark.slow
def test_exactly_the_chosen_blocks_are_trained(demo, sampled, tmp_path, what, extra):
    folder = train(demo, sampled, tmp_path, *NORMS, "--train_encoder", what, *extra)
    before, after = fresh_encoder(), weights(folder, "last")
    moved = changed(before, {k: v for k, v in after.items() if k.startswith("encoder.")})
    if what == "all":
        expected = set(before) - batch_norm_buffers(before)
        if extra:
            expected = set(before)
    else:
        encoder = models.build_encoder("shufflenet_v2_x0_5", None, 32)
        blocks = [name for block in surgery.units(encoder.backbone)[-2:] for name in block]
        expected = {key for key in set(before) - batch_norm_buffers(before)
                    if any(key.startswith(f"encoder.backbone.{name}.") for name in blocks)}
    assert moved == expected


@pytest.mark.slow
def test_init_from_takes_encoder_and_projection_and_says_so(demo, sampled, tmp_path):
    first = train(demo, sampled, tmp_path, *NORMS, "--train_encoder", "all", "--readout", "none",
                  "--num_frames_video", 1)
    result = run("train.py", *flags(demo, sampled, tmp_path, *NORMS, "--init_from", first, "--lr", 1e-12,
                               "--weight_decay", 0))
    assert "tensors taken over (encoder and projection)" in result.out
    assert re.search(r"starting afresh: head\.classifier\.1, head\.lstm", result.out)
    before, after = weights(first, "best"), weights(last_line(result), "best")
    for key in after:
        if key.startswith(("encoder.", "head.projection.")):
            torch.testing.assert_close(after[key], before[key], msg=key)


# ---------------------------------------------------------------- flags

ALL_OPTIONS = ("--loss_per_step", "--mixup", 0.2, "--accumulate", 2, "--ema", 0.9, "--scheduler", "step",
               "--readout", "attention", "--lstm_layers", 1, "--no-bidirectional", "--recompute",
               "--train_encoder", "last:1", "--clip_grad", 0, "--label_smoothing", 0, "--warmup_epochs", 0.5)


@pytest.mark.slow
def test_every_option_trains_and_tests(demo, sampled, tmp_path):
    folder = train(demo, sampled, tmp_path, "--epochs", 2, *ALL_OPTIONS, "--pictures")
    assert all(math.isfinite(float(row["train_loss"])) for row in metrics(folder))
    result = run("test.py", "--model_dir", folder, "--num_workers", 0, "--num_videos", 0, env=ONE_THREAD)
    assert read_json(last_line(result) / "metrics.json")["readout"] == "attention"


# The original's README: each flag, as it is spelt there, and its default value there
README = """--sampled_data_path D --ucf_list_dir D --epochs 100 --batch-size 32 --lr 5e-4 -num_workers 4
    --split_size 0.2 --num_frames_video 5 --seed 42 --smaller_dataset False --latent_dim 512
    --hidden_size 256 --lstm_layers 2 --bidirectional True --open_new_folder 'True’
    --load_checkpoint False --checkpoint_path '' --checkpoint_interval 5 --val_check_interval 5
    --local_dir . --number_of_classes None"""


PARSER = cli.Parser("")
add_flags(PARSER)


def test_the_originals_flags_have_the_originals_defaults():
    words = [word.replace("''", "") for word in README.split()]
    given_ones = vars(PARSER.parse_args(words))
    defaults = vars(PARSER.parse_args(["--sampled_data_path", "D", "--ucf_list_dir", "D"]))
    given_ones["open_new_folder"] = given_ones["open_new_folder"].strip("'’")
    assert given_ones == defaults


@pytest.mark.parametrize("script, words", [
    ("train.py", "--sampled_data_path NO --ucf_list_dir NO"),
    ("test.py", "--sampled_data_path NO --ucf_list_dir NO --model_dir NO --model_name NO"),
    ("test_continues_movie.py", "--sampled_data_path NO --ucf_list_dir NO --model_dir NO --model_name NO"),
    ("preprocessing_data.py", "–-sampled_data_dir NO –-row_data_dir NO -–ucf_list_dir NO"),
    ("preprocessing_data.py", "—sampled-data-dir NO --row-data-dir NO --sampling-rate 10 --FPS 25 "
                              "--num_frames_to_extract 5"),
    ("preprocessing_data.py", "--sampled_data_path NO --raw_data_dir NO"),
    ("test_on_video.py", "--model_dir NO --video_path NO"),
    ("benchmark.py", "--sampled_data_path NO"),
    ("compare.py", "NO NO"),
])
def test_the_originals_commands_parse_and_a_wrong_folder_is_one_line(script, words, tmp_path):
    words = [word.replace("NO", str(tmp_path / "absent")) for word in words.split()]
    result = run(script, *words, ok=False)
    one_line(result, str(tmp_path / "absent"), "does not exist")
    assert re.search(r"error: --(sampled|row|raw|model|video)_(d|path)", result.err) or script == "compare.py"


def test_every_flag_is_taken_with_underscores_dashes_and_long_dashes():
    for action in PARSER._actions:
        for name in action.option_strings:
            if name.startswith("--no_") or name in ("-h", "--help"):
                continue
            usual = action.choices[0] if action.choices else action.default
            absent = "0.5" if name == "--classifier_dropout" else "1"
            value = [] if action.nargs == "?" else [str(absent if usual in (None, "") else usual)]
            forms = [name, name.replace("_", "-"), "–-" + name[2:], "—" + name[2:], "-" + name[2:],
                     "––" + name[2:].replace("_", "-")]
            results = [getattr(PARSER.parse_args([form, *value]), action.dest) for form in forms]
            assert all(result == results[0] for result in results), name


@pytest.mark.parametrize("words, value", [
    ("--bidirectional", True), ("--no-bidirectional", False), ("--no_bidirectional", False),
    ("--bidirectional True", True), ("--bidirectional False", False), ("--bidirectional=False", False),
    ("--bidirectional false", False), ("--bidirectional 0", False), ("--bidirectional yes", True),
    ("–-no-bidirectional", False), ("--bidirectional 'False’", False)])
def test_a_switch_works_in_every_form(words, value):
    assert PARSER.parse_args(words.split()).bidirectional is value


@pytest.mark.parametrize("words, says", [
    ("--sampled_data_path ABSENT", "--sampled_data_path"),
    ("--ucf_list_dir ABSENT", "--ucf_list_dir"),
    ("--ucf_list_dir EMPTY", "--ucf_list_dir"),
    ("--sampled_data_path EMPTY", "--sampled_data_path"),
    ("--sampled_data_path FILE", "is a file, not a folder"),
    ("--encoder_weights ABSENT", "--encoder_weights"),
    ("--encoder_weights EMPTY", "is a folder, not a file"),
    ("--encoder_weights FILE", "--encoder_weights"),
    ("--init_from ABSENT", "--init_from"),
    ("--init_from EMPTY", "--init_from"),
    ("--groups ABSENT", "--groups"),
    ("--local_dir FILE", "--local_dir"),
    ("--resume ABSENT", "--resume"),
    ("--resume EMPTY", "--resume"),
    ("--resume auto", "--resume auto: no run folder"),
    ("--load_checkpoint --checkpoint_path ABSENT", "--checkpoint_path"),
    ("--load_checkpoint True", "--checkpoint_path"),
    ("--load_checkpoint --checkpoint_path FILE", "--checkpoint_path"),
    ("--encoder resnet153", "--encoder resnet153"),
    ("--device cuda:99", "--device cuda:99"),
    ("--split 4", "--split"),
    ("--epochs 0", "--epochs"),
    ("--lr nan", "--lr"),
    ("--dropout 1", "--dropout"),
    ("--split_size 1.5", "--split_size"),
    ("--train_encoder last:99", "--train_encoder last:99"),
    ("--train_encoder some", "--train_encoder"),
    ("--train_batch_norm", "--train_batch_norm: the encoder is frozen"),
    ("--epoch 3", "--epoch"),
    ("--bidirectional maybe", "--bidirectional"),
])
def test_a_wrong_path_or_value_is_one_line_that_names_the_flag(demo, sampled, tmp_path, words, says):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("text")
    words = [str(tmp_path / word) if word.isupper() else word for word in words.split()]
    command = flags(demo, sampled, tmp_path / "runs", "--epochs", 1)
    if "--groups" in words:
        command = ("--sampled_data_path", sampled, *TINY)
    one_line(run("train.py", *command, *words, ok=False), says)


def test_help_says_each_flags_purpose_and_default():
    for script in SCRIPTS:
        text = run(script, "--help").out
        assert "usage" in text and len(text) > 500, script
    text = " ".join(run("train.py", "--help").out.split())
    for action in PARSER._actions:
        if action.dest != "help" and not action.option_strings[0].startswith("--no_"):
            assert action.option_strings[0] in text and action.help
    assert "--batch_size BATCH_SIZE clips a step (default: 32)" in text


# ---------------------------------------------------------------- several processes

def cached(folder):
    """Features (frames, D) of a folder's sampled clips, by what their entries in the store say."""
    [path] = folder.glob("features/*/key.json")
    store = Store(folder, read_json(path)["key"]).lay_out(read_json(path)).open()
    entries = np.concatenate([segment.entries for segment in store.segments])
    order = np.argsort(entries, order=("video", "view", "frame"))
    assert len(np.unique(entries[["video", "view", "frame"]])) == len(entries), "a frame was encoded twice"
    return store.read(store.find(entries[order]))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.slow
def test_two_processes_give_the_features_and_the_accuracy_of_one(demo, sampled, tmp_path):
    mine = [shutil.copytree(sampled, tmp_path / name, ignore=shutil.ignore_patterns("features"))
            for name in ("one", "two")]
    common = ("--epochs", 3, "--lr", 0.01, "--views", 2)
    one = train(demo, mine[0], tmp_path / "runs", *common)
    two = last_line(launched("train.py", *flags(demo, mine[1], tmp_path / "runs", *common)))
    assert len(list((tmp_path / "runs").iterdir())) == 2, "a rank beside the first has written"
    told = ("--num_workers", 0, "--num_videos", 0, "--device", "cpu")
    reports = [last_line(run("test.py", "--model_dir", one, *told, env=ONE_THREAD)),
               last_line(launched("test.py", "--model_dir", two, *told))]
    alone, together = map(cached, mine)
    assert np.array_equal(alone, together)
    assert len(list(mine[1].glob("features/*/*.index"))) == 2, "one process did it alone"
    figures = [read_json(report / "metrics.json") for report in reports]
    assert figures[0]["top1"] == figures[1]["top1"]
    assert figures[0]["loss"] == pytest.approx(figures[1]["loss"], rel=1e-2)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.slow
def test_two_processes_that_train_the_encoder_agree_with_one(demo, sampled, tmp_path):
    common = (*NORMS, "--train_encoder", "all", "--dropout", 0, "--batch_size", 5, "--scheduler", "constant",
              "--lr", 1e-3)
    one = train(demo, sampled, tmp_path / "one", *common)
    two = last_line(launched("train.py", *flags(demo, sampled, tmp_path / "two", *common)))
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), rel=1e-3)
        assert float(a["val_loss"]) == pytest.approx(float(b["val_loss"]), rel=1e-3)
    alone, together = weights(one), weights(two)
    start = fresh_encoder()
    for key in alone:
        if key in start and alone[key].is_floating_point():
            moved = (alone[key] - start[key]).norm()
            assert (alone[key] - together[key]).norm() <= 0.1 * moved + 1e-5, key


def test_weights_that_cannot_be_fetched_are_one_line_at_once(demo, sampled, tmp_path):
    """A hub at an address where nobody listens; its library would try for half a minute."""
    words = flags(demo, sampled, tmp_path, "--encoder", "timm/resnet18", "--encoder_weights", "DEFAULT")
    elsewhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": tmp_path, "HF_HUB_OFFLINE": None}
    begun = time.monotonic()
    result = run("train.py", *words, ok=False, env=elsewhere, fork=False)
    one_line(result, "--encoder_weights DEFAULT", "timm/resnet18")
    assert time.monotonic() - begun < 25


def test_without_a_validation_all_clips_train_and_the_last_weights_are_the_best(demo, sampled, tmp_path):
    without = "--split_size", 0, "--epochs", 2
    whole = train(demo, sampled, tmp_path / "whole", *without, "--pictures")
    assert [row["part"] for row in table(whole / "splits.csv")] == ["train"] * 24
    assert not differences(load(whole, "best")["head"], load(whole, "last")["head"])
    assert {row["val_top1"] for row in table(whole / "metrics.csv")} == {""}
    assert (whole / "figures" / "curves.png").is_file()
    half = train(demo, sampled, tmp_path / "half", *without, "--stop_after", 1)
    run("train.py", "--resume", half, env=ONE_THREAD)
    assert_same_run(whole, half)
    one_line(run("train.py", *flags(demo, sampled, tmp_path, *without, "--scheduler", "plateau"), ok=False),
             "--scheduler plateau", "--split_size")
