"""Raw videos or pictures -> sampled clips, the input of train.py and test.py, and a report on the data.

    python preprocessing_data.py --raw_data_dir my_videos --sampled_data_dir my_clips
    python preprocessing_data.py --raw_data_dir UCF-101 --ucf_list_dir ucfTrainTestlist \\
                                 --sampled_data_dir sampled
    python preprocessing_data.py --raw_data_dir my_videos --sampled_data_dir my_clips --flow dis
    python preprocessing_data.py --report --sampled_data_dir my_clips
    torchrun --nproc_per_node 4 preprocessing_data.py ...       (also over several machines)

--raw_data_dir holds one folder of videos (or pictures) per class; with --ucf_list_dir only the listed
videos are sampled. Of every video FPS / sampling_rate frames a second are kept (2.5 by default), and
num_frames_to_extract (5) of these, from a start that depends on the seed and the video's name only. The
same command goes on where it was stopped, samples what was added or changed, and removes the clips of what
was removed. Exit status 1: more than a tenth of the videos could not be read. The folders and files are
described in docs/data.md.
"""
import contextlib
import functools
import math
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lrcn.base import Lazy, UserError, cli, files, workers
from lrcn.base.distributed import rank_and_world
from lrcn.base.values import POSITIVE, Names, Number, number_or_all, number_or_source
from lrcn.data import fields
from lrcn.data.chunks import chunk_of
from lrcn.data.journal import Journal, digest, flush, follow, merge
from lrcn.data.manifest import FLOW, clip_path, read_sampled, sampling_settings
from lrcn.data.review import TABLE, read_review, write_review
from lrcn.data.sampler import attempt, is_picture, remove_leftovers, sample
from lrcn.data.sources import find_sources
from lrcn.data.split_lists import read_lists
from lrcn.video import avi
from lrcn.video.flow import BACKENDS, BOUND, KINDS, PRESETS, Flow, weights_digest
from lrcn.video.sampling import Rate

cv2 = Lazy("cv2")

# The flags that decide what a clip holds: one folder, one value of each.
FIXED = ("sampling_rate", "FPS", "num_frames_to_extract", "seed", "row_data_dir", "ucf_list_dir", "classes")
PILOT = 16      # the first videos, spread over all, from which the need of disk space is estimated


def make_parser():
    parser = cli.Parser(__doc__)
    data, clips, flow, running = (parser.group(title) for title in ("data", "clips", "flow", "running"))
    data.add_argument("--row_data_dir", "--raw_data_dir", metavar="DIR",
                      help="the raw videos, a folder a class (row: the original's spelling of raw)")
    data.add_argument("--sampled_data_dir", "--sampled_data_path", metavar="DIR",
                      help="folder to write the sampled clips to")
    data.add_argument("--ucf_list_dir", default=None, metavar="DIR",
                      help="folder with the split lists (trainlist01.txt, ...); else all videos are taken")
    data.add_argument("--classes", type=Names(), metavar="A,B,...", help="take these classes only")
    data.add_boolean("--keep", default=None,
                     help="keep the clips of videos that were removed or changed (default: remove them, but "
                          "refuse when that is more than half of all)")
    data.add_boolean("--stills", default=False,
                     help="every picture is a clip, even where names and numbers look like frames of a video")
    data.add_argument("--review", default=None, metavar="CSV",
                      help="follow this table of teach.py, and keep a copy of it (default: review.csv in "
                           "--sampled_data_dir, and that in --row_data_dir)")
    data.add_boolean("--report", default=None,
                     help="write the data report, without --row_data_dir only that (default: after changes)")
    data.add_argument("--sheet_clips", type=number_or_all, default=60, metavar="N|all",
                      help="clips on each class's contact sheet")
    clips.add_argument("--for", dest="encoder", default=None, metavar="ENCODER",
                       help="sample as this video encoder of train.py wants it, such as video/r2plus1d_18: "
                            "all frames, at the rate of its weights")
    clips.add_argument("--sampling_rate", type=number_or_source, default=None, metavar="X|source",
                       help="down-sampling factor: FPS / sampling_rate frames a second are kept; source: "
                            f"every frame, whatever the video's rate (default: {Rate.sampling_rate})")
    clips.add_argument("--FPS", type=Number(float, above=0), default=Rate.FPS,
                       help="frames a second to which sampling_rate refers, whatever the video's rate")
    clips.add_argument("--num_frames_to_extract", type=number_or_all, default=None, metavar="N|all",
                       help="frames of a clip, or all: the whole video (default: 5)")
    clips.add_argument("--seed", type=int, default=42, help="draws where a clip starts in its video")
    flow.add_argument("--flow", choices=BACKENDS, default=None,
                      help="optical flow beside the clips, by this method (default: what the folder has)")
    flow.add_argument("--flow_length", type=KINDS["length"], default=1, metavar="L",
                      help="fields of each sampled frame: to the next source frame, and on to the L-th")
    flow.add_argument("--flow_bound", type=KINDS["bound"], default=BOUND, metavar="PIXELS",
                      help="motions are clamped to this many pixels a source frame")
    flow.add_argument("--flow_preset", choices=KINDS["preset"].words, default=None,
                      help=f"of dis: {', '.join(PRESETS['dis'])}; of raft: {', '.join(PRESETS['raft'])}")
    flow.add_argument("--flow_dir", default=None, metavar="DIR",
                      help="take fields that were made elsewhere by --flow: <number>.jpg in u/<video>/ and "
                           "v/<video>/ of this folder, as in UCF-101's public tvl1_flow, or "
                           "flow_x_<number>.jpg and flow_y_<number>.jpg in folders as those of the videos")
    flow.add_argument("--flow_weights", default=None, metavar="FILE",
                      help="weights of raft (default: the library's, downloaded once)")
    data.add_argument("--write_frames", default=None, metavar="DIR",
                      help="write the sampled frames there too, as <Class>/<video>/<number>.jpg from 0")
    running.add_argument("--num_workers", type=POSITIVE, metavar="N",
                         help="worker processes (default: one for each core)")
    running.add_argument("--time_limit", type=Number(float, above=0), default=120, metavar="SECONDS",
                         help="give up a video that takes longer, and list it in failed.csv")
    return parser


def settle_rate(args, say):
    """Fill in --sampling_rate and --num_frames_to_extract where they were not given. UserError: --for is no
    video encoder, or wants other values than were given."""
    usual = {"sampling_rate": Rate.sampling_rate, "num_frames_to_extract": 5}
    if args.encoder:
        frames, _, per_second = chunk_of(args.encoder)
        if not frames:
            raise UserError(f"--for {args.encoder}: an image encoder takes frames at any rate; leave the "
                            f"flag out, or give a video encoder, such as video/r2plus1d_18")
        usual = {"sampling_rate": args.FPS / per_second, "num_frames_to_extract": "all"}
        say(f"--for {args.encoder}: it reads chunks of {frames} frames at {per_second:g} a second: "
            f"--FPS {args.FPS:g} --sampling_rate {usual['sampling_rate']:.6g} --num_frames_to_extract all")
    for name, wanted in usual.items():
        given = getattr(args, name)
        near = name == "sampling_rate" and given and math.isclose(given, wanted, rel_tol=1e-3)
        if given is None or args.encoder and near:
            setattr(args, name, wanted)
        elif args.encoder and given != wanted:
            shown = wanted if wanted == "all" else f"{wanted:.6g}"
            raise UserError(f"--{name} {given}: --for {args.encoder} wants {shown}; leave out one of the two")


def outcomes(function, jobs, out, rank, args, before=0, desc="sampling", **more):
    """Yields (job, kind, detail) of sampler.attempt(function, job, ...) in workers. before: jobs that an
    earlier run did, for the bar. OSError: the disk is full."""
    work = functools.partial(attempt, function, out=str(out), rank=rank, raw=args.row_data_dir,
                             rate=Rate(args.FPS, args.sampling_rate), count=args.num_frames_to_extract,
                             seed=args.seed, **more)
    done = workers.results(work, jobs, args.num_workers, args.time_limit)
    with contextlib.closing(done), cli.progress(
            total=before + len(jobs), initial=before, unit=" videos", show=rank == 0 and bool(jobs),
            desc=desc, mininterval=0.2, dynamic_ncols=True) as bar:
        for job, outcome in done:
            kind, detail = outcome if isinstance(outcome, tuple) else ("failed", f"the decoder {outcome}")
            if kind == "full":
                raise OSError(*detail, str(clip_path(out, *job.key)))
            bar.update()
            yield job, kind, detail


def sample_missing(jobs, before, out, rank, world, args):
    """Sample the jobs of this process; every outcome goes to its journal."""
    journal, sizes = Journal(out, rank, jobs), []
    # The first come from all over the list: they say how much disk space it takes.
    first = dict.fromkeys(jobs[::max(1, len(jobs) // PILOT)][:PILOT])
    try:
        with contextlib.closing(outcomes(sample, [*first, *(job for job in jobs if job not in first)], out,
                                         rank, args, before)) as done:
            for number, (job, kind, detail) in enumerate(done, 1):
                journal.add(kind, job, detail)
                if number <= PILOT and kind == "done":
                    sizes.append(clip_path(out, *job.key).stat().st_size)
                if number == PILOT and sizes:
                    left = len(jobs) - number
                    files.require_space(out, sum(sizes) / len(sizes) * left,
                                        f"--sampled_data_dir: sampling {left} more videos")
    finally:
        remove_leftovers(out, rank, world)
        journal.flush()


def add_flow(jobs, out, rank, flow, args, say):
    """Write the flow of the sampled clips that have none yet; how many failed."""
    clips = {job.key: n for job in jobs if (n := avi.frames_in(clip_path(out, *job.key)))}
    missing = {key for key, frames in clips.items()
               if avi.frames_in(clip_path(out / FLOW, *key)) != 2 * flow.length * frames}
    todo, done, begin = [job for job in jobs if job.key in missing], [], time.monotonic()
    with contextlib.closing(outcomes(fields.add_fields, todo, out / FLOW, rank, args, desc="optical flow",
                                     flow=flow, pictures=args.flow_dir)) as made:
        for job, kind, detail in made:
            if kind == "done":
                done.append(clip_path(out / FLOW, *job.key))
            else:
                cli.warn(f"no flow: {job.source}: {detail}")
    flush(done)
    seconds, failed = time.monotonic() - begin, len(todo) - len(done)
    new = f"{len(done)} in {seconds:.1f} s, {len(done) / seconds:.1f} videos/s" if done else "all there"
    say(f"optical flow, {flow.backend} {flow.preset}, of {len(clips) - failed} clips: {new}")
    return failed


def write_frames(out, folder):
    """Write the frames of all clips as pictures, with the bytes that they have in the clips."""
    for video in read_sampled(out):
        place = folder / video.cls / video.name
        place.mkdir(parents=True, exist_ok=True)
        for number, jpeg in enumerate(avi.jpegs(out / video.path, range(video.frames))):
            with files.atomic(place / f"{number}.jpg", lasting=False) as temporary:
                temporary.write_bytes(jpeg)
    cli.say(f"frames as pictures: {folder}")


def begin_flow(args, out):
    """The Flow of a folder that is being made: that of --flow and its flags, or the folder's own, or None.
    UserError: the flags do not go together, or the folder's flow was made with others."""
    if not args.flow:
        return fields.flow_of(out) if (out / FLOW / "settings.json").is_file() else None
    if args.flow_preset and args.flow_preset not in PRESETS[args.flow]:
        raise UserError(f"--flow_preset {args.flow_preset}: {args.flow} has {', '.join(PRESETS[args.flow])}")
    if args.flow_weights and args.flow != "raft":
        raise UserError(f"--flow_weights {args.flow_weights}: {args.flow} has no weights; leave it out, or "
                        f"give --flow raft")
    weights = args.flow_weights and str(Path(args.flow_weights).expanduser().resolve())
    flow = Flow(args.flow, args.flow_length, args.flow_bound, args.flow_preset, weights,
                weights and weights_digest(weights))
    (out / FLOW).mkdir(exist_ok=True)
    files.claim(out / FLOW, "flow", flow.settings(), flow.settings())
    return flow


def prepare(args, out, jobs, reviewed, say):
    """(the folder's Flow or None, the clips that are done, those that were taken out, {those that changed:
    digest of what they were}). UserError: the folder was made with other flags, or flow cannot be made."""
    versions = {"python": platform.python_version(), "opencv": cv2.__version__}
    files.claim(out, "sampled_data_dir", {name: getattr(args, name) for name in (*FIXED, "time_limit")}
                | {"versions": versions}, FIXED)
    flow = begin_flow(args, out)
    beside = sum(fields.lies_beside(Path(args.row_data_dir, job.source)) for job in jobs) if flow else 0
    if beside and not args.flow_dir:
        say(f"the flow_x_ and flow_y_ pictures beside the frames of {beside} videos are taken for their "
            f"flow, as made by --flow {flow.backend}")
    if flow and not args.flow_dir and beside < len(jobs):
        flow.require()      # before hours of sampling
    done, gone, changed = follow(out, jobs, args.keep, reviewed)
    lost = ["/".join(key) for key in sorted(gone) if gone[key] not in reviewed]
    if lost:
        say(f"taken out: {len(lost)} clips whose video is not in --row_data_dir any more: "
            f"{cli.first(lost, 3)} (--keep keeps them)")
    if len(gone) > len(lost):
        say(f"taken out of their class, as {TABLE} says: {len(gone) - len(lost)} clips")
    if changed:
        say(f"sampled again: {len(changed)} videos that changed in --row_data_dir: "
            f"{cli.first(map('/'.join, sorted(changed)), 3)}")
    return flow, done, gone, changed


def preprocess(args, out, rank, world, say):
    """Sample what is missing; write the tables and the report. Exit status 1: more than a tenth failed."""
    # One process of a torchrun launch reads or writes the tables; the others wait.
    alone = functools.partial(files.lock, out, "sampled_data_dir", "another process", wait=True,
                              name=".merge.lock")
    lists = args.ucf_list_dir and read_lists(args.ucf_list_dir)
    table = cli.file("review", args.review, "give a review.csv of teach.py") if args.review else out / TABLE
    reviews = [read_review(args.row_data_dir), read_review(table.parent, table.name)]
    sources = find_sources(args.row_data_dir, out.resolve(), lists, args.classes, args.stills, reviews)
    jobs = sources.jobs
    for line in sources.notes:
        say(line)
    with alone():    # whoever writes a table holds it: what is half written is a dead process's
        files.remove_leftovers(out)
        flow, done, gone, changed = prepare(args, out, jobs, sources.reviewed, say)
        if args.review and rank == 0:
            write_review(out, reviews[1])
    mine = [job for job in jobs[rank::world] if job.key not in done]
    before = len(jobs[rank::world]) - len(mine)
    if mine and before:
        say(f"going on: {before} of {before + len(mine)} videos are sampled already")
    begin = time.monotonic()
    sample_missing(mine, before, out, rank, world, args)
    with alone():
        failed = merge(out, jobs, args.keep, sources.reviewed)
    seconds = time.monotonic() - begin
    same = sum(before is not None and before == digest(clip_path(out, *key))
               for key, before in changed.items())
    if same:
        say(f"{same} of them differ in their time only: their clips are the same as before")
    what = "pictures" if all(is_picture(job.source) for job in jobs) else "videos"
    say(f"{len(mine)} {what} in {seconds:.1f} s, {len(mine) / seconds:.0f} {what}/s" if mine else
        f"nothing to do: all {len(jobs)} {what} are sampled")
    for source, reason in (failed or [])[:5]:
        cli.warn(f"not sampled: {source}: {reason}")
    if failed:
        cli.warn(f"{len(failed)} of {len(jobs)} videos could not be sampled; {out / 'failed.csv'} lists them")
    status = int(bool(failed) and len(failed) * 10 > len(jobs))
    if flow:
        status |= bool(add_flow(jobs[rank::world], out, rank, flow, args, say))
    if args.write_frames and rank == 0:
        write_frames(out, Path(args.write_frames).expanduser())
    moved = mine or gone or not (out / "data_report").is_dir()
    if failed is not None and len(failed) < len(jobs) and args.report is not False and (moved or args.report):
        with alone():
            report(out, lists, sources.left_out, args, say)
    say(out)
    return status


def report(out, lists, left_out, args, say):
    """Write data_report/ and say its lines."""
    # Imported here: what is needed to draw takes longer to load than many a folder to sample.
    from lrcn.data.overview import FOLDER, make_report
    from lrcn.drawing.labels import contact_sheet
    from lrcn.video.reader import VideoError, read_frames
    lines, tables, sheets = make_report(out, lists, left_out, args.sheet_clips)
    with files.replaced_folder(out / FOLDER, own=("*",)) as folder:
        for name, table in tables.items():
            files.write_csv(folder / name, *table)
        files.write_text(folder / "report.txt", "".join(f"{line}\n" for line in lines))
        (folder / "sheets").mkdir()

        def draw(cls):
            pictures, (title, tiles) = [], sheets[cls]
            for clip, frame, caption, mark in tiles:
                with contextlib.suppress(VideoError):
                    pictures.append((read_frames(clip, [frame])[0], caption, mark))
            contact_sheet(folder / "sheets" / f"{cls}.png", title, pictures)
        with ThreadPoolExecutor(args.num_workers) as pool:
            list(pool.map(draw, sheets))
    for line in lines:
        say(line)


def main():
    args = make_parser().parse_args()
    rank, world = rank_and_world()
    say = cli.say if rank == 0 else lambda _: None
    args.num_workers = args.num_workers or max(1, workers.cores() // int(
        os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", 1))))
    if args.report and not args.row_data_dir:   # on the clips, and on their source where that is there
        out = cli.folder("sampled_data_dir", args.sampled_data_dir, "give the folder with the sampled clips")
        if not (out / "manifest.csv").is_file():
            raise UserError(f"--sampled_data_dir {out}: no manifest.csv in it; give --row_data_dir as well")
        made = sampling_settings(out)
        raw, folder = made.get("row_data_dir"), made.get("ucf_list_dir")
        lists = read_lists(folder) if folder and Path(folder).is_dir() else None
        left_out = []
        if raw and Path(raw).is_dir():
            with contextlib.suppress(UserError):    # it may be empty by now
                left_out = find_sources(raw, out.resolve(), lists, made.get("classes"),
                                        reviews=[read_review(raw), read_review(out)]).left_out
        with files.lock(out, "sampled_data_dir", "a preprocessing run"):
            report(out, lists, left_out, args, cli.say)
        return cli.say(out)
    for flag, hint in (("row_data_dir", "give the folder with the raw videos"),
                       ("ucf_list_dir", "give the folder with the split lists, or leave the flag out"),
                       ("flow_dir", "give the folder with u/ and v/")):
        if getattr(args, flag) or flag == "row_data_dir":
            setattr(args, flag, str(cli.folder(flag, getattr(args, flag), hint).resolve()))
    raw, args.classes = Path(args.row_data_dir), args.classes and sorted(args.classes)
    if args.flow_dir and not args.flow:
        raise UserError(f"--flow_dir {args.flow_dir}: say by which method it was made, as --flow tvl1")
    if not args.sampled_data_dir:
        raise UserError("--sampled_data_dir is missing: give the folder to write the clips to")
    out = Path(args.sampled_data_dir).expanduser()
    if out.resolve().is_relative_to(raw) or raw.is_relative_to(out.resolve()):  # clips would pass for videos
        raise UserError(f"--sampled_data_dir {out}: it is --row_data_dir {raw}, or one lies inside the "
                        f"other; choose a folder beside it")
    settle_rate(args, say)
    files.output_folder("sampled_data_dir", out)
    what = "another preprocessing run"
    number = files.lock(out, "sampled_data_dir", what, name=f".rank{rank}.lock")    # its own in a launch
    with files.lock(out, "sampled_data_dir", what, shared=world > 1), \
            number if world > 1 else contextlib.nullcontext():
        return preprocess(args, out, rank, world, say)


if __name__ == "__main__":
    cli.run(main)
