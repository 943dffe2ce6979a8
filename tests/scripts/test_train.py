"""train.py on its command line, and the engine under it."""
import os
import re
import shutil
from dataclasses import replace

import cv2
import pytest
import runs
import torch
from commands import call
from runs import TINY, flags, last_line, load, metrics, read_json, refused, table, train, weights

import dataset
import models
import networks
from lrcn.base import cli
from lrcn.base.cli import UserError
from lrcn.base.distributed import set_seed
from lrcn.data import split_lists
from lrcn.features import surgery
from lrcn.runs import new_run_folder
from lrcn.training.recipe import add_flags, parse


def test_a_run_folder_holds_what_the_readme_lists(trained, demo):
    names = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert {"settings.json", "splits.csv", "metrics.csv", "Saved_model_checkpoint/epoch_20.pth.tar",
            "Saved_model_checkpoint/best.pth.tar", "Saved_model_checkpoint/last.pth.tar",
            "figures/class_distribution.png", "figures/curves.png", "figures/validation_labels.png"} <= names
    assert re.fullmatch(r"\d{8}-\d{6}(-\d+)?", trained.name)
    settings = read_json(trained / "settings.json")
    assert settings["classes"] == list(split_lists.read_class_index(demo / "ucfTrainTestlist"))
    assert settings["seed"] == 42 and settings["lr"] == 0.01 and settings["versions"]["torch"]
    parts = table(trained / "splits.csv")
    assert all(settings["classes"][int(row["label"])] == row["class"] for row in parts) and len(parts) == 24
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
    assert [e.value for e in scalars] == pytest.approx([float(row["train_loss"]) for row in rows], rel=1e-5)
    assert {"class_distribution", "curves", "validation_labels"} <= set(tags["images"])
    assert [e.step for e in events.Images("validation_labels")] == [5, 10, 15, 20]      # at every validation


def test_a_run_goes_where_open_new_folder_says(tmp_path):
    assert new_run_folder(tmp_path, "False") == tmp_path
    assert new_run_folder(tmp_path, "debug") == tmp_path / "debug"
    new = new_run_folder(tmp_path, "'True’")
    assert new.parent == tmp_path and re.fullmatch(r"\d{8}-\d{6}", new.name)
    assert new_run_folder(tmp_path, "True", name="first") == tmp_path / "first"
    for words, says in (("--name first", "--resume"), ("--name a/b", "slashes"), ("--name ..", "slashes"),
                        ("--name new --open_new_folder debug", "leave one")):
        refused("train.py", *words.split(), "--local_dir", tmp_path, says=("--name", says))


def samples_of(*words):
    """(samples, classes) of train.py's flags."""
    return dataset.training_samples(parse("", list(map(str, words)))[0])


def test_absent_videos_are_counted_and_classes_are_those_that_have_any_and_are_chosen(demo, sampled, tmp_path,
                                                                                      capsys):
    few = shutil.copytree(sampled, tmp_path / "few", ignore=shutil.ignore_patterns("features"))
    lines = (few / "manifest.csv").read_text().splitlines()
    gone = lines[1].split(",")[1]
    on_train = {row.video for row in split_lists.official_lists(demo / "ucfTrainTestlist", 1)[0]}
    left = [line for line in lines if line.split(",")[1] != gone or line.split(",")[0] not in on_train]
    (few / "manifest.csv").write_text("\n".join(left) + "\n")
    samples, classes = samples_of(*flags(demo, few, "."))
    assert "20 of 24 listed training videos present" in capsys.readouterr().out
    assert {sample.label for sample in samples} == {*range(5)} and len(classes) == 5 and gone not in classes
    samples, classes = samples_of(*flags(demo, sampled, ".", "--number_of_classes", 2, "--smaller_dataset"))
    assert {sample.label for sample in samples} == {0, 1} and len(classes) == 2 and len(samples) <= 8
    assert samples_of(*flags(demo, sampled, ".", "--classes", "Shrink,Grow"))[1] == ["Grow", "Shrink"]
    samples_of(*flags(demo, sampled, ".", "--num_frames_video", 8))
    assert "--num_frames_video 8: 24 of 24 sampled videos have fewer frames" in capsys.readouterr().out


def test_a_random_split_is_drawn_by_video_and_warns(sampled, tmp_path):
    # a group of all classes, so that videos of a group are many
    result = call("train.py", "--sampled_data_path", sampled, *TINY, "--local_dir", tmp_path, "--epochs", 1,
                  "--group_pattern", r"_(g\d+)_", "--split", "random")
    rows = table(last_line(result) / "splits.csv")
    trained, tested = ({row["group"] for row in rows if row["part"] == part} for part in ("train", "test"))
    assert "warning: --split random draws by video" in result.err
    assert trained & tested, "groups cross"
    assert read_json(runs.report_of(last_line(result)) / "metrics.json")["leaky"] is True


NORMS = ("--encoder", "shufflenet_v2_x0_5", "--epochs", 1, "--lr", 0.01, "--encoder_lr", 0.001)


def fresh_encoder():
    set_seed(42)
    return {f"encoder.{k}": v for k, v in
            models.build_encoder("shufflenet_v2_x0_5", None, 32).state_dict().items()}


@pytest.mark.parametrize("what, more", [
    ("none", "--no-feature_cache"), ("last:2", "--feature_cache"), ("all", "--no-train_batch_norm"),
    ("all", "--train_batch_norm")])
def test_the_chosen_blocks_are_trained_and_all_else_is_bit_identical(demo, sampled, tmp_path, what, more):
    folder = train(demo, sampled, tmp_path, *NORMS, "--train_encoder", what, more)
    before, after = fresh_encoder(), weights(folder, "best")
    norms = {key for key in before if re.search(r"running_|num_batches", key)}
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert len(norms) > 100 and before.keys() == {key for key in after if key.startswith("encoder.")}
    blocks = surgery.units(models.build_encoder("shufflenet_v2_x0_5", None, 32).backbone)
    last = tuple(f"encoder.backbone.{name}." for block in blocks[-2:] for name in block)
    every = before.keys() if more == "--train_batch_norm" else before.keys() - norms
    ends = {key for key in every if key.startswith(last)}
    assert moved == {"none": set(), "all": every, "last:2": ends}[what]
    if what == "none":
        assert weights(folder).keys() < after.keys(), "the frozen encoder is stored once, and in the best"


def begun(*words):
    """(the Transform, {key: tensor}) of the network that train.py starts with."""
    recipe, _ = parse("", [str(word) for word in words])
    model = networks.network_to_train(recipe, ["a", "b"], torch.device("cpu"))[0]
    return model.encoder.transform, model.state_dict()


def test_init_from_takes_the_runs_encoder_as_it_is_and_the_projection(trained, capsys):
    before, heads = weights(trained, "best"), ("--init_from", trained, "--latent_dim", 64, "--hidden_size", 8)
    seen, after = begun(*heads)
    said = capsys.readouterr().out
    assert "--encoder resnet18 --img_dim 32 --resize centre --modality rgb" in said
    assert "tensors taken over (encoder and projection)" in said
    assert re.search(r"newly initialised: head\.classifier\.1, head\.lstm", said)
    taken = [key for key in before if key.startswith(("encoder.", "head.projection."))]
    assert len(taken) > 100 and all(torch.equal(after[key], before[key]) for key in taken)
    other, after = begun(*heads, "--modality", "rgbdiff", "--img_dim", 48, "--resize", "squeeze")
    assert torch.equal(after["encoder.backbone.conv1.weight"], before["encoder.backbone.conv1.weight"])
    assert other == replace(seen, modality="rgbdiff", crop=48, resize=other.resize, fit="squeeze")
    for words, fault in ((("--encoder", "resnet34"), "--encoder resnet34: .* it has resnet18"),
                         (("--modality", "flow", "--flow_length", 2, "--train_encoder", "all"),
                          "its encoder does not fit the network: of another shape backbone.conv1")):
        with pytest.raises(UserError, match=fault):
            begun(*heads, *words)


PARSER = cli.Parser("")
add_flags(PARSER)


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


SAYS = {    # of what is wrong; else its last flag
    "--sampled_data_path FILE": "is a file, not a folder",
    "--encoder_weights EMPTY": "is a folder, not a file",
    "--resume auto": "--resume auto: no run folder", "--load_checkpoint True": "--checkpoint_path",
    "--background Swim": "--background Swim: no such class",
    "--train_batch_norm": "--train_batch_norm: the encoder is frozen"}


@pytest.mark.parametrize("words", [
    *SAYS, "--sampled_data_path ABSENT", "--sampled_data_path EMPTY", "--ucf_list_dir ABSENT",
    "--ucf_list_dir EMPTY", "--encoder_weights ABSENT", "--encoder_weights FILE", "--init_from ABSENT",
    "--init_from EMPTY", "--groups ABSENT", "--local_dir FILE", "--resume ABSENT", "--resume EMPTY",
    "--load_checkpoint --checkpoint_path ABSENT", "--load_checkpoint --checkpoint_path FILE",
    "--open_new_folder maybe", "--encoder resnet153", "--device cuda:99", "--split 4", "--epochs 0",
    "--lr nan", "--background Swim", "--dropout 1", "--split_size 1.5", "--train_encoder last:99",
    "--train_encoder some", "--epoch 3", "--bidirectional maybe"])
def test_a_wrong_path_or_value_is_one_line_that_names_the_flag(demo, sampled, tmp_path, words):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("text")
    given = [str(tmp_path / word) if word.isupper() else word for word in words.split()]
    command = flags(demo, sampled, tmp_path / "runs", "--epochs", 1)
    if "--groups" in words:
        command = ("--sampled_data_path", sampled, *TINY)
    refused("train.py", *command, *given, says=SAYS.get(words, words.split()[-2:][0]))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_give_the_features_and_the_accuracy_of_one(demo, sampled, tmp_path):
    mine = [shutil.copytree(sampled, tmp_path / name, ignore=shutil.ignore_patterns("features"))
            for name in ("one", "two")]
    common = ("--epochs", 1, "--lr", 0.01, "--views", 2)
    one = train(demo, mine[0], tmp_path / "runs", *common)
    two = last_line(runs.launched("train.py", *flags(demo, mine[1], tmp_path / "runs", *common)))
    assert len(list((tmp_path / "runs").iterdir())) == 2, "a rank beside the first has written"
    assert len(list(mine[1].glob("features/*/*.index"))) == 2, "one process did it alone"
    runs.assert_same_run(one, two)      # whose head the first process has trained on the features of both
    undrawn = "from lrcn.evaluation import results\nresults.draw = lambda *_: 0"
    result = runs.launched(runs.patched(tmp_path, "test.py", undrawn), "--model_dir", two, "--num_workers", 0)
    reports = [runs.report_of(one), last_line(result)]
    assert table(reports[0] / "predictions.csv") == table(reports[1] / "predictions.csv")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_that_train_the_encoder_agree_with_one(demo, long, tmp_path):
    common = (*NORMS, "--num_frames_video", "all", "--train_encoder", "all", "--dropout", 0, "--batch_size",
              5, "--scheduler", "constant", "--lr", 1e-3)
    one = train(demo, long, tmp_path / "one", *common)
    two = last_line(runs.launched("train.py", *flags(demo, long, tmp_path / "two", *common)))
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), rel=1e-3)
        assert float(a["val_loss"]) == pytest.approx(float(b["val_loss"]), rel=1e-3)
    alone, together = weights(one), weights(two)
    start = fresh_encoder()
    for key in alone:
        if key in start and alone[key].is_floating_point():
            moved = (alone[key] - start[key]).norm()
            assert (alone[key] - together[key]).norm() <= 0.1 * moved + 1e-5, key


def test_weights_that_cannot_be_fetched_are_one_line_at_once(demo, sampled, tmp_path, monkeypatch):
    told = []

    def tried(*_, **options):
        told.append((options["pretrained"], os.environ.get("HF_HUB_OFFLINE")))
        raise OSError("no such file here")

    monkeypatch.setattr(pytest.importorskip("timm"), "create_model", tried)
    words = flags(demo, sampled, tmp_path, "--encoder", "timm/resnet18", "--encoder_weights", "DEFAULT")
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": None}
    result = call("train.py", *words, ok=False, env=nowhere)
    runs.one_line(result, "--encoder_weights DEFAULT", "timm/resnet18")
    assert told == [(True, "1")]


def test_without_a_validation_all_clips_train_and_the_last_weights_are_the_best(demo, sampled, tmp_path):
    folder = train(demo, sampled, tmp_path, "--split_size", 0, "--epochs", 2)
    assert [row["part"] for row in table(folder / "splits.csv")] == ["train"] * 24
    assert not runs.differences(load(folder, "best")["head"], load(folder, "last")["head"])
    assert {row["val_top1"] for row in table(folder / "metrics.csv")} == {""}
    refused("train.py", *flags(demo, sampled, tmp_path, "--split_size", 0, "--scheduler", "plateau"),
            says=("--scheduler plateau", "--split_size"))
