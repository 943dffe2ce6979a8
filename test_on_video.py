"""Label any video with a trained model: a file, a folder of files, a camera or a stream.

    python test_on_video.py RUN --video_path holiday.mp4
    python test_on_video.py RUN --video_path my_videos --no-video
    python test_on_video.py RUN --video_path 0                          (camera 0; or rtsp://host/stream)
    python test_on_video.py --model RUN/export/model.onnx --video_path holiday.mp4
    python test_on_video.py RUN --video_path my_videos --truth labels.csv

writes RUN/test_on_video/<name>/ with labelled.mp4, segments.csv and .srt, predictions.csv and timeline.png;
for a folder also summary.csv; with --truth also how much was right. The last line is that folder. The video
is sampled in time as the training clips were, and a window slides over it by one sampled frame. Ctrl-C
keeps the tables and a playable video so far. Everything else is described in docs/films.md.
"""
import re
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import utils
from lrcn.base import UserError, cli, files
from lrcn.base.signals import Stop, Terminated
from lrcn.runs import FilmFolder, RunFolder
from lrcn.video.reader import VideoError
from lrcn.watching import outputs
from lrcn.watching.candidates import of_films, read_stretches
from lrcn.watching.films import Labeller, find_films, unique_names
from lrcn.watching.recogniser import Recogniser
from lrcn.watching.truth import Verdict, sentence


def make_parser():
    parser = cli.Parser(__doc__)
    utils.add_model_flags(parser, required=False)
    parser.group("network").add_argument(
        "--model", metavar="FILE.onnx", help="a model.onnx of export.py, instead of --model_dir")
    add, switch = parser.add_argument, parser.add_boolean
    add("--video_path", required=True, metavar="X",
        help="a file, a folder of files, a camera's number, or a stream's address")
    add("--output_dir", metavar="DIR", help="where <name>/ is made (default: <model_dir>/test_on_video)")
    utils.add_label_flags(parser)
    add("--truth", metavar="CSV",
        help="what the films show: a table with the columns video,start,end,class, in seconds")
    utils.add_film_flags(parser)
    switch("--video", default=True, help="write labelled.mp4; --no-video: the tables and the picture only")
    switch("--gif", default=False, help="write labelled.gif too")
    switch("--display", default=None,
           help="show a camera or stream in a window while it is labelled (default: if there is one)")
    return parser


def live_name(source):
    """A folder's name for a camera, or for an address without its password; another one each second."""
    address = urlsplit(source)
    name = re.sub(r"\W+", "_", f"{address.hostname}{address.path}").strip("_")[:80] or "stream"
    return (name if "://" in source else f"camera_{source}") + time.strftime("_%Y%m%d-%H%M%S")


def read_truth(path, films):
    """{film: [(start, end, class)]} of a table."""
    table = cli.file("truth", path, "give a table with the columns video,start,end,class")
    by_film, absent = of_films(read_stretches(table, "truth"), films)
    if not by_film:
        raise UserError(f"--truth {path}: names none of these films, but {cli.first(absent, 3) or 'nothing'}")
    lacking = [film for film in films if film not in by_film]
    if lacking:
        cli.warn(f"--truth {path}: no rows for {len(lacking)} films, such as {lacking[0]}: they are not "
                 "evaluated")
    return {film: sorted((s.start, s.end, s.cls) for s in rows) for film, rows in by_film.items()}


def label_films(films, root, labeller, truth):
    """Label film after film; (folder of the outputs, how many films failed). A bad one is reported, and the
    others go on. films: of find_films; truth: {film: [(start, end, class)]}, perhaps not of all."""
    done, failed, verdict = [], 0, Verdict(labeller.recogniser.known)
    for (film, path), name in zip(films.items(), unique_names(films), strict=True):
        try:
            result = labeller.film(path, name, root / name, truth.get(film))
        except (VideoError, OSError, UserError) as error:
            if getattr(error, "errno", None) in cli.FULL:
                raise
            if len(films) == 1:
                reason = f"cannot read this video ({error}); try another, or convert it"
                reason = reason if isinstance(error, VideoError) else error
                raise UserError(f"--video_path {path}: {reason}") from None
            cli.warn(f"cannot read {path}: {error}")
            failed += 1
            continue
        done.append((path, result))
        cli.say(result.sentence)
        if labeller.stop.signal:
            cli.say(root / name)
            kind = KeyboardInterrupt if labeller.stop.signal == signal.SIGINT else Terminated
            raise kind(f"the first {result.seconds:.1f} s of {name} are in {root / name}")
        if film in truth:
            verdict.add(truth[film], result.segments, result.times)
    if len(films) > 1 and done:
        outputs.write_summary(root / "summary.csv", done)
    if verdict.unknown:
        cli.warn(f"--truth: {sum(verdict.unknown.values())} stretches are of classes that the network does "
                 f"not know ({', '.join(sorted(verdict.unknown))}): unsure counts as right there")
    if verdict.films:
        figures = verdict.figures()
        if len(films) > 1:
            files.write_json(FilmFolder(root).truth, figures)
        cli.say(sentence(figures))
    if failed:
        cli.warn(f"{failed} of {len(films)} videos could not be read")
    return root if len(films) > 1 else root / name, failed


def main():
    args = make_parser().parse_args()
    watched = ((args.video_path.isdigit() or "://" in args.video_path)
               and not Path(args.video_path).expanduser().exists())
    if args.truth and watched:
        raise UserError(f"--truth {args.truth}: it needs films; {args.video_path} is a camera or a stream")
    films = {} if watched else find_films(
        args.video_path, "give a video file, a folder, a camera's number or an address")
    if bool(args.model_dir) == bool(args.model):
        raise UserError("--model_dir: give the run folder that train.py printed, or else --model FILE.onnx")
    recogniser = Recogniser.of_file(args.model, args.sampling_rate, args.flow) if args.model else \
        utils.load_recogniser(args.model_dir, args.model_name, args.device, args.encoder_backend,
                              args.encoder_precision, args.sampling_rate, flow=args.flow)
    utils.say_least(args, recogniser)
    root = Path(args.output_dir).expanduser() if args.output_dir else RunFolder(recogniser.folder).films
    truth = read_truth(args.truth, films) if args.truth else {}
    with Stop() as stop:
        labeller = Labeller(recogniser, args, stop)
        if watched:
            folder, failed = root / live_name(args.video_path), 0
            cli.say(labeller.live(args.video_path, folder.name, folder))
        else:
            folder, failed = label_films(films, root, labeller, truth)
    cli.say(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main)
