"""Names that a terminal would obey, through every script: what is printed shows them and does nothing."""
import pytest
from commands import call
from runs import flags, table
from videos import write_video

CLASSES = ("a\x1b[31mred\x1b[2J", "b\u202egpj", "c\nnew\tline", "=cmd|'calc'!A0 -x", "d..\u200b\x07",
           "'q\"uo`te\\$(id);\U0001f3ac\U0001f468\u200d\U0001f4bb")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Folder with raw/<class>/<film>, names with escapes, marks and line breaks, one film broken."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in CLASSES:
        for i in range(4):
            write_video(folder / "raw" / name / f"\x1b[2J\u202e\n{i}{name[0]}.avi", 45)
    (folder / "raw" / CLASSES[0] / "broken\x1b[31m\n.avi").write_text("no film")
    return folder


def checked(result):
    for line in (result.out + result.err).split("\n"):
        assert line.isprintable(), ascii(line)
    return result


def test_what_scripts_print_of_hostile_names_is_shown_escaped(hostile):
    def said(script, *words, **options):
        return checked(call(script, *words, cwd=hostile, **options)).out

    result = checked(call("preprocessing_data.py", "--row_data_dir", "raw", "--sampled_data_dir", "sampled",
                          cwd=hostile))
    assert "broken\\x1b[31m\\n.avi" in result.out + result.err
    out = said("train.py", *flags(None, "sampled", "run\x1b[2J", "--epochs", 1, "--open_new_folder", False))
    assert "a\\x1b[31mred\\x1b[2J, b\\u202egpj, c\\nnew\\tline" in out
    assert out.splitlines()[-1] == "run\\x1b[2J"
    for script, words in (("test.py", ("--num_videos", 3)),
                          ("test_continues_movie.py", ("--num_movies", 2, "--no-pictures")),
                          ("test_on_video.py", ("--video_path", f"raw/{CLASSES[0]}"))):
        said(script, "--model_dir", "run\x1b[2J", "--device", "cpu", "--num_workers", 0, *words,
             ok=script != "test_on_video.py")
    named = f"{CLASSES[3]}\x1b[31m {CLASSES[5]}"
    out = said("compare.py", "run\x1b[2J", "run\x1b[2J", "--names", named, CLASSES[5], "--no-speed",
               "--output", "table\x1b[2J\n")
    assert "=cmd|'calc'!A0 -x\\x1b[31m 'q\"uo`te\\$(id);\U0001f3ac" in out
    assert [row["run"] for row in table(hostile / "table\x1b[2J\n" / "comparison.csv")] == [named, CLASSES[5]]
    assert {row["class"] for row in table(hostile / "sampled" / "manifest.csv")} == set(CLASSES)
    assert sorted(p.name for p in hostile.iterdir()) == ["raw", "run\x1b[2J", "sampled", "table\x1b[2J\n"]
