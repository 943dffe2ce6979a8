"""Label any video with a trained model: a file, a folder of files, a camera or a stream.

    python test_on_video.py --model_dir 20261121-110128 --video_path holiday.mp4
    python test_on_video.py --model_dir 20261121-110128 --video_path my_videos --no-video
    python test_on_video.py --model_dir 20261121-110128 --video_path 0            (camera 0)
    python test_on_video.py --model_dir 20261121-110128 --video_path rtsp://host/stream
    python test_on_video.py --model 20261121-110128/export/model.onnx --video_path holiday.mp4

The video is sampled in time as the training clips were, a window slides over it by one sampled
frame, and every frame is encoded once. Leaves <model_dir>/test_on_video/<name>/ with

    predictions.csv   start and end of every window in seconds, its five leading labels
    segments.csv      start,end,label,probability: runs of one label, after smoothing
    segments.srt      the same as subtitles
    labelled.mp4      the video with its labels and its sound (H.264): as it is shown, odd sides one
                      pixel longer, every frame at its own time
    timeline.png      probability of the leading classes over time
    labelled.gif      with --gif, the whole video in ten seconds at most

and prints that folder as the last line; of a folder of files also summary.csv, a row a film, most
confident first. What an earlier run left is replaced when the new is whole. With --truth labels.csv
(video,start,end,class: what the films really show, in seconds) also

    truth.json        shares of frames and segments that are right, mean average precision at overlaps
                      of 0.3, 0.5 and 0.7; of a folder another one of all its films
    wrong.csv         start,end,truth,said: the wrong places, by time

and the truth stands above the prediction in timeline.png.

Smoothing: a moment's probabilities are the mean of all windows that contain it, as in the bars of
labelled.mp4; a moment whose best label has less than --min_probability is "unsure"; runs shorter than
--min_segment join a neighbour. The network knows its own classes only, and what is none of them may
still look like one. Ctrl-C keeps the tables and a playable video of what was done.
"""
import errno
import re
import signal
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import utils
from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.base.distributed import Stop
from lrcn.base.values import Number
from lrcn.runs import FilmFolder, RunFolder
from lrcn.video.reader import VideoError
from lrcn.watching import live, outputs
from lrcn.watching.candidates import of_films, read_stretches
from lrcn.watching.films import Labeller, find_films, unique_names
from lrcn.watching.recogniser import Recogniser
from lrcn.watching.truth import Verdict, sentence


def make_parser():
    parser = cli.Parser(__doc__)
    utils.add_model_flags(parser, required=False)
    parser.group("network").add_argument("--model", metavar="FILE.onnx", help="in the place of --model_dir: "
                                         "the model.onnx of export.py, which runs on onnxruntime")
    add, switch = parser.add_argument, parser.add_boolean
    add("--video_path", required=True, metavar="X",
        help="a file, a folder of files, a camera's number, or a stream's address")
    add("--output_dir", metavar="DIR", help="where <name>/ is made (default: <model_dir>/test_on_video)")
    add("--min_probability", type=Number(float, low=0, high=1), default=0.4,
        help="a best label under this is drawn as unsure")
    add("--min_segment", type=Number(float, low=0), default=1.0,
        help="seconds; a shorter run of one label joins a neighbour in segments.csv")
    add("--truth", metavar="CSV",
        help="what the films show: a table with the columns video,start,end,class, in seconds")
    utils.add_speed_flag(parser)
    switch("--video", default=True, help="write labelled.mp4; --no-video: the tables and the picture only")
    switch("--gif", default=False, help="write labelled.gif too")
    add("--time_limit", type=Number(float, above=0), default=120, metavar="SECONDS",
        help="a file whose decoder takes longer for a step is given up")
    switch("--display", default=None,
           help="show a camera or stream in a window while it is labelled (default: if there is one)")
    return parser


# ---------------------------------------------------------------- sources

def find_sources(text):
    """[(source, output name)]: one, or all videos below a folder."""
    path = Path(text).expanduser()
    if path.is_dir():
        found = find_films(path)
        return list(zip(found.values(), unique_names(found), strict=True))
    if not path.exists() and live.is_live(text):
        stamp = time.strftime("%Y%m%d-%H%M%S")    # the next recording does not replace this one
        return [(text, f"{live_name(text)}_{stamp}")]
    return [(cli.file("video_path", text, "give a video file, a folder, a camera's number or an address"),
             files.shortened(path.stem))]


def live_name(source):
    """A folder's name for a camera or an address, without the address's password."""
    if "://" not in source:
        return f"camera_{source}"
    address = urlsplit(source)
    return re.sub(r"\W+", "_", f"{address.hostname}{address.path}").strip("_")[:80] or "stream"


def read_truth(path, sources, text):
    """{file: [(start, end, class)]} of a table, by the names that it has for the films."""
    table = cli.file("truth", path, "give a table with the columns video,start,end,class")
    folder = Path(text).expanduser()
    files_of = {(p.relative_to(folder).as_posix() if folder.is_dir() else p.name): p for p, _ in sources}
    found, absent = of_films(read_stretches(table, "truth"), files_of)
    if not found:
        raise UserError(f"--truth {path}: names none of the films, but "
                        f"{', '.join(list(absent)[:3]) or 'nothing'}")
    lacking = [name for name in files_of if name not in found]
    if lacking:
        cli.say(f"--truth {path}: says nothing of {len(lacking)} films, such as {lacking[0]}: they are not "
                f"judged", file=sys.stderr)
    return {files_of[name]: sorted((s.start, s.end, s.cls) for s in rows) for name, rows in found.items()}


def make_recogniser(args):
    """The Recogniser of --model_dir or of --model."""
    if bool(args.model_dir) == bool(args.model):
        raise UserError("--model_dir: give the run folder that train.py printed, or else --model FILE.onnx")
    if args.model:
        return Recogniser.of_file(args.model, args.sampling_rate)
    return utils.load_recogniser(args.model_dir, args.model_name, args.device, args.encoder_backend,
                                 args.encoder_precision, args.sampling_rate)


# ---------------------------------------------------------------- files

def label_files(sources, root, labeller, args):
    """Label file after file; how many failed. A bad one is said and the rest go on."""
    stop = labeller.stop
    truth = read_truth(args.truth, sources, args.video_path) if args.truth else {}
    done, failed = [], 0
    for path, name in sources:
        try:
            film = labeller.film(path, name, root / name, truth.get(path))
        except (VideoError, OSError, UserError) as error:    # it cannot be read, or its outputs not written
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            if len(sources) == 1 and not isinstance(error, VideoError):
                raise UserError(f"--video_path {path}: {error}") from None
            if len(sources) == 1:
                raise UserError(f"--video_path {path}: cannot read this video ({error}); try another, or "
                                f"convert it") from None
            cli.say(f"cannot read {path}: {error}", file=sys.stderr)
            failed += 1
            continue
        done.append((path, film))
        cli.say(film.sentence)
        if stop.signal:
            cli.say(root / name)
            kind = KeyboardInterrupt if stop.signal == signal.SIGINT else cli.Terminated
            raise kind(f"the first {film.seconds:.1f} s of {name} are in {root / name}")
    if len(sources) > 1 and done:
        outputs.write_summary(root / "summary.csv", done)
    judge(done, truth, labeller.recogniser.classes, root if len(sources) > 1 else None)
    if failed:
        cli.say(f"{failed} of {len(sources)} videos could not be read", file=sys.stderr)
    return failed


def judge(done, truth, classes, folder):
    """Say how much was right of the films whose truth is known; of several, in `folder`, write it."""
    verdict = Verdict(classes)
    for path, film in done:
        if path in truth:
            verdict.add(truth[path], film.segments, film.times)
    if not verdict.films:
        return
    figures = verdict.figures()
    if verdict.unknown:
        cli.say(f"--truth: {sum(verdict.unknown.values())} stretches are of classes that the network does "
                f"not know ({', '.join(sorted(verdict.unknown))}): there unsure is right", file=sys.stderr)
    if folder:
        files.write_json(folder / FilmFolder("").truth, figures)
    cli.say(sentence(figures))


def main():
    args = make_parser().parse_args()
    sources = find_sources(args.video_path)
    if args.truth and isinstance(sources[0][0], str):
        raise UserError(f"--truth {args.truth}: it is of files; {args.video_path} is a camera or a stream")
    recogniser, failed = make_recogniser(args), 0
    root = Path(args.output_dir).expanduser() if args.output_dir else RunFolder(recogniser.folder).films
    with Stop() as stop:
        labeller = Labeller(recogniser, args, stop)
        if isinstance(sources[0][0], str):
            source, name = sources[0]
            cli.say(labeller.live(source, name, root / name))
        else:
            failed = label_files(sources, root, labeller, args)
    cli.say(root / sources[0][1] if len(sources) == 1 else root)
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main)
