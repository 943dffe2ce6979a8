"""Candidate clips for a new data set, out of long films.

    python find_clips.py RUN --video_path my_films --clips_per_class 2
    python find_clips.py --from my_candidates/candidates.csv --video_path my_films --output_dir my_candidates

The run labels every film as test_on_video.py does; the stretches of --clip_seconds with the highest mean
probability of a class become clips of it. --from cuts any table of stretches without a model: film (or
video),class,start,end, or Kinetics' tables. Writes into --output_dir (default: RUN/find_clips) clips in
class folders, candidates.csv and .png, films.csv and settings.json: a data set for preprocessing_data.py,
in which the film is the group. The last line is that folder. The same command goes on where it was stopped
(docs/films.md).
"""
from collections import Counter
from pathlib import Path

import utils
from lrcn.base import UserError, cli, files
from lrcn.base.values import POSITIVE, Names, Number
from lrcn.data.sources import chosen_classes
from lrcn.runs import RunFolder
from lrcn.video.reader import VideoError
from lrcn.video.sampling import Rate
from lrcn.watching.candidates import ClipFolder, Stretch, check_class, of_films, propose, read_stretches
from lrcn.watching.films import find_films, unique_names
from lrcn.watching.recogniser import Recogniser

# The flags that decide which stretches are proposed: one folder, one value of each
FIXED = ("clips_per_class", "clip_seconds", "max_overlap", "min_probability", "every", "classes",
         "sampling_rate")


def make_parser():
    parser = cli.Parser(__doc__)
    utils.add_model_flags(parser, required=False)
    films, choice, clips = (parser.group(title) for title in ("films", "what is taken", "what is written"))
    films.add_argument("--video_path", required=True, metavar="X", help="a film, or a folder of films")
    films.add_argument("--from", dest="table", metavar="CSV",
                       help="cut these stretches, without a model: a candidates.csv or Kinetics' table")
    films.add_argument("--every", type=POSITIVE, default=None, metavar="N",
                       help="use every Nth frame of a film, for runs of single frames (default: FPS / "
                            "sampling_rate frames a second)")
    utils.add_film_flags(films)
    choice.add_argument("--clips_per_class", type=POSITIVE, default=2, metavar="N",
                        help="at most this many candidates of a class in a film")
    choice.add_argument("--clip_seconds", type=Number(float, above=0, high=3600), default=5.0,
                        help="length of a candidate")
    choice.add_argument("--min_probability", type=Number(float, low=0, high=1), default=0.4,
                        help="lowest mean probability of a candidate")
    choice.add_argument("--max_overlap", type=Number(float, low=0, below=1), default=0.0, metavar="SHARE",
                        help="share of a candidate that may overlap a more probable one")
    choice.add_argument("--classes", type=Names(), default=None, metavar="A,B,...",
                        help="look for these classes only, names with commas")
    clips.add_argument("--output_dir", metavar="DIR",
                       help="where the clips go (default: <model_dir>/find_clips; with --from give one)")
    clips.add_boolean("--copy", default=False,
                      help="copy the pictures as they are stored, from the key frame before the start on")
    clips.add_boolean("--frames", default=False,
                      help="write the candidates' sampled frames as pictures, instead of clips")
    return parser


def table_of(args, films):
    """([Stretch] of --from, those of films that are there first, {name of a missing film: why})."""
    rows = read_stretches(cli.file("from", args.table, "give a table of stretches"), "from")
    classes = dict.fromkeys(row.cls for row in rows)
    wanted = chosen_classes(args.classes, classes, f"--from {args.table} does not know")
    rows = [row for row in rows if row.cls in wanted]
    by_film, absent = of_films(rows, films)
    if not by_film:
        raise UserError(f"--from {args.table}: none of its {len(absent)} films is in --video_path "
                        f"{args.video_path}")
    there = [row for film in films for row in dict.fromkeys(by_film.get(film, ()))]
    return there + [row for row in rows if row.film in absent], absent


def check_run(args, trained):
    """The numbers of --classes, or of all without the background; UserError: the run and the flags differ."""
    source = f"--model_dir {args.model_dir}"
    for cls in trained.classes:
        check_class(cls, source)
    wanted = chosen_classes(args.classes, trained.classes, f"{source} does not know")
    background = trained.recipe.background_of(trained.classes)
    if background is not None:
        if args.classes and trained.classes[background] in wanted:
            raise UserError(f"--classes {','.join(args.classes)}: {trained.classes[background]} is the run's "
                            f"--background, for everything else; leave it out")
        wanted = [cls for cls in wanted if cls != trained.classes[background]]
    if args.every and trained.frames > 1:
        raise UserError(f"--every {args.every}: the run reads clips of {trained.frames} frames, as far apart "
                        f"as in its training; --sampling_rate changes that")
    return {trained.classes.index(cls) for cls in wanted}


def find(folder, films, args, absent, recogniser, wanted):
    """Look through every film, unless `recogniser` is None, and write its candidates into a folder that this
    process holds; the exit status. wanted: the numbers of --classes."""
    failed, written = 0, 0
    with cli.progress(total=len(films), unit="film", desc="films", dynamic_ncols=True) as bar:
        for film, path in films.items():
            try:
                if recogniser and folder.films.get(film, ())[1:3] != files.stamp(path):   # new, or changed
                    history = recogniser.look_through(path, args.time_limit)
                    smoothed = history.smoothed()
                    best = propose(history.times[:len(smoothed)], history.end, smoothed, args.clip_seconds,
                                   args.clips_per_class, args.max_overlap, args.min_probability, wanted)
                    stretches = [Stretch(film, recogniser.classes[cls], start, end, p)
                                 for start, end, cls, p in best]
                    folder.propose(film, path, stretches, history.end)
                    kinds = ", ".join(f"{n} {cls}" for cls, n in Counter(s.cls for s in stretches).items())
                    bar.clear()
                    cli.say(f"{film}: {history.end:.1f} s, {len(stretches)} candidates"
                            + (f" ({kinds})" if kinds else ""))
                for _ in folder.write(film, path, args.time_limit):
                    written += 1
            except (VideoError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in files.OF_ONE_FILE:
                    raise
                bar.clear()
                cli.warn(f"cannot read {film}: {error}")
                folder.note(film, path, reason=str(error))
                failed += 1
            bar.update()
    for film, reason in absent.items():
        folder.note(film, "", reason=reason)
    folder.save()
    there, gone = folder.of(folder.names), folder.tidy()
    folder.draw()
    kind = "candidates' frames" if folder.kind == "frames" else "clips"
    cli.say(f"{len(there)} candidates of {len({s.cls for s in there})} classes in "
            f"{len({s.film for s in there})} of {len(films)} films; {written} {kind} written"
            + (f", {gone} files removed that have no row" if gone else "")
            + (f"; copies begin up to {folder.early:.2f} s early" if folder.early else ""))
    if not there:
        cli.warn(f"no stretch of --clip_seconds {args.clip_seconds:g} has a mean probability of "
                 f"--min_probability {args.min_probability:g} or more")
    if failed or absent:
        cli.warn(f"{failed} of {len(films)} films could not be read"
                 + (f", {len(absent)} of the table are missing, such as {next(iter(absent))}"
                    if absent else "") + f"; {folder.out / 'films.csv'} lists them")
    cli.say(folder.out)
    return 1 if failed else 0


def main():
    args = make_parser().parse_args()
    if not args.table and not args.model_dir:
        raise UserError("--model_dir is missing: give a run folder, or a table of stretches with --from")
    if args.table and args.model_dir:
        raise UserError("--from: it replaces --model_dir; give one of the two")
    if args.copy and args.frames:
        raise UserError("--copy: it copies film, not pictures; leave out --copy or --frames")
    if args.every and args.sampling_rate:
        raise UserError("--every: it replaces --sampling_rate; give one of the two")
    films, absent, table, recogniser, wanted = find_films(args.video_path), {}, None, None, None
    names = dict(zip(films, unique_names(films), strict=True))
    if args.table:
        table, absent = table_of(args, films)
        films = {film: path for film, path in films.items() if any(row.film == film for row in table)}
        choices, flags = {"from": str(Path(args.table).resolve())}, ("every", "sampling_rate")
        rate = Rate(sampling_rate=args.sampling_rate or Rate.sampling_rate)
        if not args.output_dir:
            raise UserError("--output_dir is missing: with --from, give the folder to write the clips to")
    else:
        trained = utils.load_trained(args.model_dir, args.model_name, args.device)
        wanted = check_run(args, trained)
        choices, flags = {"model": str(trained.checkpoint.resolve())}, FIXED
        rate = trained.rate if args.every else utils.watching_rate(trained, args.sampling_rate)
    choices.update({name: getattr(args, name) for name in flags})
    out = Path(args.output_dir).expanduser() if args.output_dir else RunFolder(trained.folder).clips
    source = Path(args.video_path).expanduser().resolve()
    out = files.output_folder("output_dir", out, source)
    kind = "frames" if args.frames else "copies" if args.copy else "clips"
    with files.lock(out, "output_dir", "another find_clips.py"):
        folder = ClipFolder(out, kind, names, rate, args.every)
        folder.check(choices, table, str(source))
        if not args.table:      # last, for its engine takes a while
            recogniser = Recogniser.of_run(trained, trained.device, args.encoder_backend,
                                           args.encoder_precision, rate, args.every, args.flow)
        return find(folder, films, args, absent, recogniser, wanted)


if __name__ == "__main__":
    cli.run(main)
