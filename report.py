"""One page of a run: its accuracy, mistakes, clips, curves, study and films, to open in a browser.

    python report.py 20261121-110128
    python report.py RUN_A RUN_B            # a page each, with the runs compared

writes <run>/report.html, one file that opens from the disk without a server or a network, and
<run>/report_clips/, small films and stills of the test clips that the page shows (--clips_per_cell 0: none).
What has not been made yet (test.py, test_continues_movie.py, test_on_video.py) is left out. Several runs are
compared with the first on the same videos. The path of the first page is the last printed line.
"""

from lrcn.base import cli, files
from lrcn.base.values import COUNT
from lrcn.pages.page import write_clips, write_page
from lrcn.pages.reading import read_run, side_by_side
from lrcn.training.recipe import read_flags


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders of train.py")
    parser.add_argument("--clips_per_cell", type=COUNT, default=3, metavar="N",
                        help="clips to draw of every cell of the confusion matrix, the most confident first")
    parser.add_argument("--sampled_data_path", "--sampled_data_dir", dest="sampled_data_path", metavar="DIR",
                        help="folder of the sampled clips (default: that of the training)")
    args = parser.parse_args()
    runs = [read_run(cli.folder("runs", word, "give run folders of train.py")) for word in args.runs]
    if len({run.folder.path.resolve() for run in runs}) < len(runs):
        raise cli.UserError("RUN: the same run twice; give different ones")
    compared = side_by_side(runs, [read_flags(run.folder) for run in runs]) if len(runs) > 1 else []
    for run in runs:
        sampled = args.sampled_data_path or run.settings.get("sampled_data_path")
        clips, missing = write_clips(run, sampled, args.clips_per_cell) if run.tested else ({}, None)
        if missing:
            cli.warn(f"warning: {missing}")
        size = write_page(run, clips, compared, runs, missing)
        cli.say(f"{run.folder.report}: {files.gigabytes(size)}, {len(clips)} clips that play in it")
    cli.say(runs[0].folder.report)


if __name__ == "__main__":
    cli.run(main)
