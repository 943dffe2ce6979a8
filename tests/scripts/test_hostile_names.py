"""Names that a terminal would obey, through every script: what is printed shows them and does nothing."""
import shutil
import signal
import time

import pytest
from commands import run, start
from runs import ONE_THREAD, one_line, table

CLASSES = ("a\x1b[31mred\x1b[2J", "b\u202egpj", "c\nnew\tline", "=cmd|'calc'!A0 -x", "d..\u200b\x07",
           "'q\"uo`te\\$(id);\U0001f3ac\U0001f468\u200d\U0001f4bb")
TINY = ("--encoder", "resnet18", "--encoder_weights", "none", "--img_dim", 32, "--device", "cpu")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hostile(demo, tmp_path_factory):
    """Folder with raw/<class>/<film>, names with escapes, marks and line breaks, one film broken."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, source in zip(CLASSES, sorted((demo / "UCF-101").iterdir()), strict=False):
        (folder / "raw" / name).mkdir(parents=True)
        for i, film in enumerate(sorted(source.iterdir())[:5]):
            shutil.copy(film, folder / "raw" / name / f"\x1b[2J\u202e\n{i}{name[0]}.avi")
    (folder / "raw" / CLASSES[0] / "broken\x1b[31m\n.avi").write_text("no film")
    return folder


def checked(result):
    """The result, whose output no terminal would obey."""
    for line in (result.out + result.err).split("\n"):
        assert line.isprintable(), ascii(line)
    return result


def test_what_scripts_print_of_hostile_names_is_shown_escaped(hostile):
    options = dict(cwd=hostile, env=ONE_THREAD)
    said = checked(run("preprocessing_data.py", "--row_data_dir", "raw", "--sampled_data_dir", "sampled",
                       **options))
    assert "broken\\x1b[31m\\n.avi" in said.out + said.err
    said = checked(run("train.py", "--sampled_data_path", "sampled", *TINY, "--epochs", 1, "--num_workers", 0,
                       "--local_dir", "run\x1b[2J", "--open_new_folder", False, **options))
    assert "a\\x1b[31mred\\x1b[2J, b\\u202egpj, c\\nnew\\tline" in said.out
    assert said.out.splitlines()[-1] == "run\\x1b[2J"
    for script, flags in (("test.py", ("--num_videos", 3)), ("test_continues_movie.py", ("--num_movies", 4)),
                          ("test_on_video.py", ("--video_path", f"raw/{CLASSES[0]}"))):
        checked(run(script, "--model_dir", "run\x1b[2J", "--device", "cpu", "--num_workers", 0, *flags,
                    ok=script != "test_on_video.py", **options))
    named = f"{CLASSES[3]}\x1b[31m {CLASSES[5]}"
    said = checked(run("compare.py", "run\x1b[2J", "run\x1b[2J", "--names", named, CLASSES[5], "--no-speed",
                       "--device", "cpu", "--output", "table\x1b[2J\n", **options))
    assert "=cmd|'calc'!A0 -x\\x1b[31m 'q\"uo`te\\$(id);\U0001f3ac" in said.out
    assert [row["run"] for row in table(hostile / "table\x1b[2J\n" / "comparison.csv")] == [named, CLASSES[5]]
    assert {row["class"] for row in table(hostile / "sampled" / "manifest.csv")} == set(CLASSES)
    assert sorted(p.name for p in hostile.iterdir()) == ["raw", "run\x1b[2J", "sampled", "table\x1b[2J\n"]


def test_a_signal_to_the_group_of_a_training_ends_it_with_one_line(demo, sampled, tmp_path):
    process = start("train.py", "--sampled_data_path", sampled, "--ucf_list_dir", demo / "ucfTrainTestlist",
                    *TINY, "--epochs", 100, "--num_workers", 2, "--no-feature_cache", "--no-pictures",
                    "--local_dir", tmp_path, env=ONE_THREAD)
    while "epoch 1/100" not in process.out:
        assert process.poll() is None, process.err
        time.sleep(0.01)
    process.kill(signal.SIGTERM, group=True)
    one_line(process.wait(), "go on with: python train.py --resume", code=128 + signal.SIGTERM)
