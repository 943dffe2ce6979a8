"""What the documents of five other systems print, as a user types it here; the rest: docs/originals.md."""
import sys
from unittest import mock

import pytest
from commands import call
from runs import TINY, last_line, read_json, refused, report_of, table

import test_continues_movie
from lrcn.base import cli
from lrcn.evaluation import results
from lrcn.training.recipe import add_flags

# The first document's flags, spelled as there, with their defaults there.
DEFAULTS = """--epochs 100 --batch-size 32 --lr 5e-4 -num_workers 4 --split_size 0.2 --num_frames_video 5
    --seed 42 --smaller_dataset False --latent_dim 512 --hidden_size 256 --lstm_layers 2 --bidirectional True
    --load_checkpoint False --checkpoint_path= --checkpoint_interval 5 --val_check_interval 5
    --number_of_classes None"""
ENCODER = ("--encoder", "squeezenet1_1", "--encoder_weights", "none", "--img_dim", 32, "--device", "cpu",
           "--no-pictures")


@pytest.fixture(scope="module")
def original(demo, sampled, tmp_path_factory):
    """(run folder, the words of its flags): the first document's train.py, all defaults spelled out."""
    folder = tmp_path_factory.mktemp("original")
    words = ("--sampled_data_path", sampled, "--ucf_list_dir", demo / "ucfTrainTestlist", *DEFAULTS.split(),
             "--epochs", 2, "-num_workers", 0, "--local_dir", folder, "--open_new_folder", "'True’")
    return last_line(call("train.py", *words, *ENCODER)), words


def test_the_firsts_flags_have_the_firsts_defaults():
    parser = cli.Parser("")
    add_flags(parser)
    assert parser.parse_args([*DEFAULTS.split(), "--local_dir", "."]) == parser.parse_args([])
    assert parser.parse_args(["--open_new_folder", "'True’"]).open_new_folder.strip("'’") == "True"


def test_flags_of_the_training_are_taken_and_where_they_disagree_the_runs_values_count(original, tmp_path):
    folder, words = original
    plain = read_json(report_of(folder) / "metrics.json")
    with mock.patch.object(results, "draw"):
        agreeing = call("test.py", *words, "--model_dir", folder / "Saved_model_checkpoint", "--model_name",
                        "epoch_2.pth.tar", "--device", "cpu")
        other = read_json(last_line(agreeing) / "metrics.json")
        result = call("test.py", *words, "--model_dir", folder, "--device", "cpu", "--epochs", 100,
                      "--hidden_size", 8, "--bidirectional", "False", "--local_dir", tmp_path)
    assert "warning" not in agreeing.err and {**other, "checkpoint": plain["checkpoint"]} == plain
    [said] = [line for line in result.err.splitlines() if "warning" in line]
    assert said.endswith(f"the run was trained with --epochs 2 (not 100), --hidden_size 256 (not 8), "
                         f"--bidirectional True (not False), --local_dir {folder.parent} (not {tmp_path}): "
                         f"the run's values count")
    assert read_json(last_line(result) / "metrics.json") == plain


def test_a_movie_is_of_as_many_clips_as_the_batch_size_says(original, monkeypatch):
    folder, words = original
    result = call("test_continues_movie.py", *words, "--model_dir", folder, "--batch_size", 3,
                  "--lstm_layers", 1, "--num_movies", 2, "--no-pictures", "--device", "cpu")
    assert "--lstm_layers 2 (not 1): the run's values count" in result.err
    assert read_json(last_line(result) / "metrics.json")["measured_on"]["movie_clips"] == 3
    for more, clips in (("", 16), ("--batch_size 64", 64), ("--batch_size 64 --movie_clips 3", 3)):
        monkeypatch.setattr(sys, "argv", ["test_continues_movie.py", "--model_dir", "x", *more.split()])
        assert test_continues_movie.parse_args().movie_clips == clips
    refused("test_continues_movie.py", "--model_dir", folder, "--batch_size", 1, says="--batch_size 1")


def test_the_seconds_lines_train_a_network_to_the_letter_and_label_a_video(demo, sampled, tmp_path):
    folder = last_line(call(
        "train.py", *TINY, "--dataset_path", sampled, "--split_path", demo / "ucfTrainTestlist",
        "--num_epochs", 1, "--sequence_length", 5, "--img_dim", 32, "--latent_dim", 16, "--split_number", 1,
        "--projection", "batchnorm", "--classifier_hidden", 12, "--readout", "attention", "--dropout", 0,
        "--lstm_layers", 1, "--resize", "squeeze", "--local_dir", tmp_path))
    best = folder / "Saved_model_checkpoint" / "best.pth.tar"
    film = next((demo / "UCF-101").rglob("*.avi"))
    labelled = last_line(call("test_on_video.py", "--video_path", film, "--checkpoint_model", best,
                              "--no-video", "--device", "cpu"))
    assert table(labelled / "segments.csv")
    call("train.py", "--checkpoint_model", folder, "--num_epochs", 2)
    assert len(table(folder / "metrics.csv")) == 2


def test_the_fourths_lines_train_and_go_on(demo, sampled, tmp_path):
    words = (*TINY[4:], "--data-dir", sampled, "--annots-dir", demo / "ucfTrainTestlist",
             "--local-dir", tmp_path, "--feature-extractor", "squeezenet1_1", "--encoder-weights", "none",
             "--frames-per-clip", 5,
             "--batch-size", 4, "--learning-rate", "3e-4", "--rnn-units", 8, "--fusion-mode", "mean",
             "--grad-accum-steps", 2, "--optimizer", "SGD", "--scheduler", "OneCycle", "--epochs", 2)
    folder = last_line(call("train.py", *words))
    settings = read_json(folder / "settings.json")
    assert (settings["optimizer"], settings["scheduler"]) == ("sgd", "onecycle")
    assert (settings["hidden_size"], settings["accumulate"], settings["lr"]) == (8, 2, 3e-4)
    for other in ("Adam", "AdamW"):
        refused("train.py", "--resume", folder, "--optimizer", other, says="--optimizer")
    call("train.py", "--resume_checkpoint", folder, "--epochs", 3)
    assert len(table(folder / "metrics.csv")) == 3


def test_a_frame_classifier_labels_films_finds_clips_and_starts_an_lrcn(demo, sampled, tmp_path):
    model, runs = tmp_path / "model.pt", ("--local_dir", tmp_path / "runs")
    words = (*TINY, "--data-dir", sampled, "--annots-dir", demo / "ucfTrainTestlist", "--epochs", 1,
             "--batch-size", 32, "--learning-rate", "3e-5", *runs)
    call("train.py", *words, "--feature-extractor", "squeezenet1_1", "--num_frames_video", 1, "--readout",
         "none", "--train_encoder", "all", "--save-checkpoint", model)
    film = next((demo / "UCF-101").rglob("*.avi"))
    labelled = last_line(call("test_on_video.py", "--model_dir", model, "--video_path", film, "--no-video",
                              "--device", "cpu"))
    assert table(labelled / "segments.csv")
    call("find_clips.py", "--model_dir", model, "--video_path", film, "--frames", "--min_probability", 0,
         "--clip_seconds", 1, "--output_dir", tmp_path / "found", "--device", "cpu")
    assert [*(tmp_path / "found").rglob("*.jpg")]
    lrcn = last_line(call("train.py", *words, "--init_from", model, "--num_frames_video", 5))
    settings = read_json(lrcn / "settings.json")
    assert (settings["encoder"], settings["readout"]) == ("squeezenet1_1", "final")
