"""What the documents of five other systems print, as a user types it here; the rest: docs/originals.md."""
import shutil
import sys
from unittest import mock

import pytest
from commands import call
from runs import TINY, last_line, read_json, refused, table

import test_continues_movie
from lrcn.base import cli
from lrcn.evaluation import results
from lrcn.training.recipe import add_flags

# The first document's flags, spelled as there, with their defaults there.
DEFAULTS = """--epochs 100 --batch-size 32 --lr 5e-4 -num_workers 4 --split_size 0.2 --num_frames_video 5
    --seed 42 --smaller_dataset False --latent_dim 512 --hidden_size 256 --lstm_layers 2 --bidirectional True
    --load_checkpoint False --checkpoint_path= --checkpoint_interval 5 --val_check_interval 5
    --number_of_classes None"""


@pytest.fixture
def original(tested, tmp_path):
    """(a tested run to be changed, the words that the first document's train.py would have had for it)."""
    settings = read_json(tested / "settings.json")
    own = ("sampled_data_path", "ucf_list_dir", "epochs", "batch_size", "lr", "latent_dim", "hidden_size",
           "checkpoint_interval", "local_dir")
    return (shutil.copytree(tested, tmp_path / "run"),
            (*DEFAULTS.split(), *(f"--{name}={settings[name]}" for name in own), "-num_workers", 0,
             "--device", "cpu"))


def test_the_firsts_flags_have_the_firsts_defaults():
    parser = cli.Parser("")
    add_flags(parser)
    assert parser.parse_args([*DEFAULTS.split(), "--local_dir", "."]) == parser.parse_args([])
    assert parser.parse_args(["--open_new_folder", "'True’"]).open_new_folder.strip("'’") == "True"


def test_flags_of_the_training_are_taken_and_where_they_disagree_the_runs_values_count(original, tmp_path):
    folder, words = original
    before = read_json(folder / "test" / "metrics.json")
    with mock.patch.object(results, "draw"):
        agreeing = call("test.py", *words, "--model_dir", folder / "Saved_model_checkpoint", "--model_name",
                        "best.pth.tar")
        assert "warning" not in agreeing.err
        assert read_json(last_line(agreeing) / "metrics.json") == before
        result = call("test.py", *words, "--model_dir", folder, "--epochs", 100, "--hidden_size", 8,
                      "--bidirectional", "False", "--local_dir", tmp_path)
    [said] = [line for line in result.err.splitlines() if "warning" in line]
    place = read_json(folder / "settings.json")["local_dir"]
    assert said.endswith(f"the run was trained with --epochs 20 (not 100), --hidden_size 16 (not 8), "
                         f"--bidirectional True (not False), --local_dir {place} (not {tmp_path}): "
                         f"the run's values count")
    assert read_json(last_line(result) / "metrics.json") == before


def test_a_movie_is_of_as_many_clips_as_the_batch_size_says(original, monkeypatch):
    folder, words = original
    result = call("test_continues_movie.py", *words, "--model_dir", folder, "--batch_size", 3,
                  "--lstm_layers", 1, "--num_movies", 2, "--no-pictures")
    assert "--lstm_layers 2 (not 1): the run's values count" in result.err
    assert read_json(last_line(result) / "metrics.json")["measured_on"]["movie_clips"] == 3
    for more, clips in (("", 16), ("--batch_size 64", 64), ("--batch_size 64 --movie_clips 3", 3)):
        monkeypatch.setattr(sys, "argv", ["test_continues_movie.py", "--model_dir", "x", *more.split()])
        assert test_continues_movie.parse_args().movie_clips == clips
    refused("test_continues_movie.py", "--model_dir", folder, "--batch_size", 1, says="--batch_size 1")


@pytest.mark.parametrize("theirs, ours", [
    ("--dataset_path s --split_path l --num_epochs 2 --sequence_length 40 --split_number 1",
     "--sampled_data_path s --ucf_list_dir l --epochs 2 --num_frames_video 40 --split 1"),
    ("--data-dir s --annots-dir l --feature-extractor densenet121 --frames-per-clip 16 --learning-rate 3e-4",
     "--sampled_data_path s --ucf_list_dir l --encoder densenet121 --num_frames_video 16 --lr 3e-4"),
    ("--rnn-units 8 --fusion-mode mean --grad-accum-steps 2 --optimizer SGD --scheduler OneCycle",
     "--hidden_size 8 --readout mean --accumulate 2 --optimizer sgd --scheduler onecycle"),
    ("--checkpoint_model auto", "--resume auto"), ("--resume_checkpoint auto", "--resume auto")])
def test_the_others_flags_are_flags_of_here(theirs, ours):
    parser = cli.Parser("")
    add_flags(parser)
    assert parser.parse_args(theirs.split()) == parser.parse_args(ours.split())


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
