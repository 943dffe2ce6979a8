"""What the documents of five other systems print, as a user types it here; the rest: docs/originals.md."""
import shutil

import cv2
import pytest
from commands import ROOT, run
from runs import ONE_THREAD, TINY, last_line, one_line, read_json, table

pytestmark = pytest.mark.slow

TABLE = (ROOT / "docs" / "originals.md").read_text(encoding="utf-8")
# The first document's defaults, spelled as there.
DEFAULTS = ("--epochs", 2, "--batch-size", 32, "--lr", "5e-4", "-num_workers", 0, "--split_size", 0.2,
            "--num_frames_video", 5, "--seed", 42, "--smaller_dataset", "False", "--latent_dim", 512,
            "--hidden_size", 256, "--lstm_layers", 2, "--bidirectional", "True", "--load_checkpoint", "False",
            "--checkpoint_path", "", "--checkpoint_interval", 5, "--val_check_interval", 5,
            "--number_of_classes", "None")
ENCODER = ("--encoder", "squeezenet1_1", "--encoder_weights", "none", "--img_dim", 32, "--device", "cpu",
           "--no-pictures")


@pytest.fixture(scope="module")
def original(demo, sampled, tmp_path_factory):
    """(run folder, the words of its flags): the first document's train.py, all defaults spelled out."""
    folder = tmp_path_factory.mktemp("original")
    words = ("--sampled_data_path", sampled, "--ucf_list_dir", demo / "ucfTrainTestlist", *DEFAULTS,
             "--local_dir", folder, "--open_new_folder", "'True’")
    return last_line(run("train.py", *words, *ENCODER, env=ONE_THREAD)), words


def ran(script, *words):
    result = run(script, *words, "--device", "cpu", env=ONE_THREAD)
    return result, last_line(result)


# ---------------------------------------------------------------- the first

def test_the_firsts_preprocessing_line_with_its_typographic_dashes(demo, sampled, tmp_path):
    run("preprocessing_data.py", "–-sampled_data_dir", tmp_path / "new", "-–row_data_dir", demo / "UCF-101",
        "-–ucf_list_dir", demo / "ucfTrainTestlist", "--sampling_rate", 10, "--FPS", 25,
        "--num_frames_to_extract", 5)
    assert table(tmp_path / "new" / "manifest.csv") == table(sampled / "manifest.csv")


def test_test_py_takes_all_flags_of_the_training_and_is_silent_where_they_agree(original):
    folder, words = original
    plain = read_json(ran("test.py", "--model_dir", folder, "--num_videos", 0)[1] / "metrics.json")
    result, report = ran("test.py", *words, "--model_dir", folder / "Saved_model_checkpoint",
                            "--model_name", "epoch_2.pth.tar", "--num_videos", 0)
    assert "warning" not in result.err
    assert {**read_json(report / "metrics.json"), "checkpoint": ""} == {**plain, "checkpoint": ""}


def test_where_the_flags_disagree_one_line_says_so_and_the_runs_values_count(original, tmp_path):
    folder, words = original
    plain = read_json(ran("test.py", "--model_dir", folder, "--num_videos", 0)[1] / "metrics.json")
    result, report = ran("test.py", *words, "--model_dir", folder, "--num_videos", 0, "--epochs", 100,
                            "--hidden_size", 8, "--bidirectional", "False", "--local_dir", tmp_path)
    [said] = [line for line in result.err.splitlines() if "warning" in line]
    assert said.endswith(f"the run was trained with --epochs 2 (not 100), --hidden_size 256 (not 8), "
                         f"--bidirectional True (not False), --local_dir {folder.parent} (not {tmp_path}): "
                         f"the run's values count")
    assert read_json(report / "metrics.json") == plain
    result, _ = ran("test_continues_movie.py", *words, "--model_dir", folder, "--num_movies", 2,
                       "--lstm_layers", 1, "--no-pictures")
    assert "--lstm_layers 2 (not 1): the run's values count" in result.err


def test_a_movie_is_of_as_many_clips_as_the_batch_size_says(original):
    folder, words = original
    _, study = ran("test_continues_movie.py", *words, "--model_dir", folder, "--batch_size", 64,
                      "--num_movies", 2)
    assert cv2.VideoCapture(str(study / "movie.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 320
    assert read_json(study / "metrics.json")["measured_on"]["movie_clips"] == 64
    for more, clips in (((), 16), (("--batch_size", 64, "--movie_clips", 3), 3)):
        _, study = ran("test_continues_movie.py", "--model_dir", folder, "--num_workers", 0,
                          "--num_movies", 2, "--no-pictures", *more)
        assert read_json(study / "metrics.json")["measured_on"]["movie_clips"] == clips
    one_line(run("test_continues_movie.py", "--model_dir", folder, "--batch_size", 1, ok=False),
             "--batch_size 1")


# ---------------------------------------------------------------- the second and the fourth

def test_the_seconds_lines_train_a_network_to_the_letter_and_label_a_video(demo, sampled, tmp_path):
    folder = last_line(run(
        "train.py", *TINY, "--dataset_path", sampled, "--split_path", demo / "ucfTrainTestlist",
        "--num_epochs", 1, "--sequence_length", 5, "--img_dim", 32, "--latent_dim", 16, "--split_number", 1,
        "--projection", "batchnorm", "--classifier_hidden", 12, "--readout", "attention", "--dropout", 0,
        "--lstm_layers", 1, "--local_dir", tmp_path, env=ONE_THREAD))
    best = folder / "Saved_model_checkpoint" / "best.pth.tar"
    film = next((demo / "UCF-101").rglob("*.avi"))
    labelled = last_line(run("test_on_video.py", "--video_path", film, "--checkpoint_model", best,
                             "--device", "cpu", env=ONE_THREAD))
    assert labelled.exists()
    run("train.py", "--checkpoint_model", folder, "--num_epochs", 2, env=ONE_THREAD)
    assert len(table(folder / "metrics.csv")) == 2


@pytest.mark.parametrize("optimizer, scheduler", [("SGD", "OneCycle"), ("Adam", "Step"),
                                                  ("AdamW", "constant")])
def test_the_fourths_lines_train_and_go_on(demo, sampled, tmp_path, optimizer, scheduler):
    words = (*TINY[4:], "--data-dir", sampled, "--annots-dir", demo / "ucfTrainTestlist",
             "--local-dir", tmp_path, "--feature-extractor", "squeezenet1_1", "--encoder-weights", "none",
             "--frames-per-clip", 5,
             "--batch-size", 4, "--learning-rate", "3e-4", "--rnn-units", 8, "--fusion-mode", "mean",
             "--grad-accum-steps", 2, "--optimizer", optimizer, "--scheduler", scheduler, "--epochs", 2)
    folder = last_line(run("train.py", *words, env=ONE_THREAD))
    settings = read_json(folder / "settings.json")
    assert (settings["optimizer"], settings["scheduler"]) == (optimizer.lower(), scheduler.lower())
    assert (settings["hidden_size"], settings["accumulate"], settings["lr"]) == (8, 2, 3e-4)
    one_line(run("train.py", "--resume", folder, "--optimizer", "adam" if optimizer != "Adam" else "sgd",
                 ok=False), "--optimizer")


def test_the_fourths_frame_classifier_is_a_clip_of_one_frame_without_an_lstm(demo, sampled, tmp_path):
    folder = last_line(run(
        "train.py", *TINY, "--data-dir", sampled, "--annots-dir", demo / "ucfTrainTestlist", "--epochs", 1,
        "--batch-size", 32, "--learning-rate", "3e-5", "--feature-extractor", "squeezenet1_1",
        "--num_frames_video", 1, "--readout", "none", "--local_dir", tmp_path / "runs", env=ONE_THREAD))
    model = shutil.copy(folder / "Saved_model_checkpoint" / "best.pth.tar", tmp_path / "model.pt")
    film = next((demo / "UCF-101").rglob("*.avi"))
    labelled = last_line(run("test_on_video.py", "--model_dir", model, "--video_path", film, "--no-video",
                             "--device", "cpu", env=ONE_THREAD))
    assert table(labelled / "segments.csv")


# ---------------------------------------------------------------- what has its row

@pytest.mark.parametrize("line", [
    "git clone", "conda env create -f environment.yml", "unrar x", "unzip", "extract_frames.py",
    "ar.data.build_image_ds", "ar.models.image.train", "ar.applications.generate_action_clip",
    "ar.models.video.train", "import ar", "wget"])
def test_a_printed_line_that_is_not_typed_here_has_its_row(line):
    assert f"`{line}" in TABLE


def test_the_data_sets_two_links_for_a_browser_are_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("UCF101.rar", "UCF101TrainTestSplits-RecognitionTask.zip"):
        assert f"https://www.crcv.ucf.edu/data/UCF101/{name}" in text
