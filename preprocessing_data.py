"""Raw videos -> sampled clips, the input of train.py and test.py.

    python preprocessing_data.py --row_data_dir UCF-101 --ucf_list_dir ucfTrainTestlist \\
                                 --sampled_data_dir sampled
    python preprocessing_data.py --row_data_dir my_videos --sampled_data_dir my_clips
    torchrun --nproc_per_node 4 preprocessing_data.py ...       (also over several machines)

Keeps FPS / sampling_rate frames of every second (2.5 by default), whatever the video's own rate,
and of these num_frames_to_extract (5) from a start drawn by the seed and the video's name alone.
--row_data_dir holds one folder of videos per class (.avi .mp4 .mov .mkv .webm), however deep. With
--ucf_list_dir the listed videos are taken, without it all. What it leaves in --sampled_data_dir:

    <Class>/<video>.avi   the clip: Motion JPEG, quality 95, the source's size
    manifest.csv          video,class,source,source_fps,source_frames,start,stride,frames
    failed.csv            source,reason: what could not be read (absent when all went well)
    settings.json         flags and versions

start and stride count source frames, frames is what the clip holds. A video too short for the
stride gets a smaller one; one with fewer frames than the clip repeats its last, and there frames is
more than source_frames. At a variable rate the frames are taken by their times, and start and
stride are nominal. A run that was stopped goes on where it was when the same command is given
again. Exit status 1: more than a tenth of the videos could not be read.
"""
import contextlib
import errno
import functools
import hashlib
import math
import os
import platform
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
from tqdm import tqdm

from lrcn.base import cli, files, workers
from lrcn.base.cli import UserError
from lrcn.clips import splits
from lrcn.clips.journal import Journal, clip_path, merge, read_state
from lrcn.video.reader import EXTENSIONS, Video, VideoError
from lrcn.video.sampling import Rate, read_clip, sample_video
from lrcn.video.writer import write_clip

# The flags that decide what a clip holds: one folder, one value of each.
FIXED = ("sampling_rate", "FPS", "num_frames_to_extract", "seed", "row_data_dir", "ucf_list_dir")
PILOT = 16      # the first videos, spread over all, from which the need of disk space is estimated


class Stopped(Exception):
    """SIGINT or SIGTERM; args[0] is its number."""


@dataclass(frozen=True)
class Job:
    """A video to sample. source: relative to --row_data_dir, with slashes."""
    cls: str
    video: str
    source: str

    @property
    def key(self):
        return self.cls, self.video


def frames_or_all(text):
    return text.lower() if text.lower() == "all" else cli.positive_int(text)


def parse_arguments():
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--row_data_dir", "--raw_data_dir", default=None, metavar="DIR",
        help="folder with the raw videos, one folder per class")
    add("--sampled_data_dir", "--sampled_data_path", default=None, metavar="DIR",
        help="folder to write the sampled clips to")
    add("--ucf_list_dir", default=None, metavar="DIR",
        help="folder with the split lists (trainlist01.txt, ...); without it every video is taken")
    add("--sampling_rate", type=cli.number(float, above=0), default=Rate.sampling_rate,
        help="down-sampling factor: FPS / sampling_rate frames a second are kept")
    add("--FPS", type=cli.number(float, above=0), default=Rate.FPS,
        help="frames a second to which sampling_rate refers; a video of another rate is sampled "
             "at the same times")
    add("--num_frames_to_extract", type=frames_or_all, default=5, metavar="N|all",
        help="frames of a clip, or all: the whole video")
    add("--num_workers", type=cli.positive_int, default=None, metavar="N",
        help="processes (default: one a core)")
    add("--seed", type=int, default=42, help="draws where a clip starts in its video")
    add("--time_limit", type=cli.number(float, above=0), default=120, metavar="SECONDS",
        help="a video that takes longer is given up and listed in failed.csv")
    return parser.parse_args()


# ---------------------------------------------------------------- which videos

def scan(folder, leave_out):
    """[Job] of all videos below `folder`, sorted; the class is the name of the folder they lie in."""
    jobs = []
    for root, folders, names in os.walk(folder, followlinks=True):
        inside = Path(root)
        folders[:] = sorted(d for d in folders
                            if not d.startswith(".") and (inside / d).resolve() != leave_out
                            and (inside / d).resolve() not in inside.resolve().parents)
        if inside == folder:
            continue
        jobs += [Job(inside.name, Path(name).stem, (inside / name).relative_to(folder).as_posix())
                 for name in names
                 if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS]
    return sorted(jobs, key=lambda job: (job.cls, job.video, job.source))


def listed(folder):
    """{split: (training list, test list)} of every split that has lists in the folder."""
    numbers = [n for n in (1, 2, 3) if (folder / f"trainlist{n:02d}.txt").is_file()
               or any(folder.glob(f"*_test_split{n}.txt"))]
    return {n: splits.official_lists(folder, n) for n in numbers or [1]}


def choose(jobs, lists, say):
    """The jobs that stand on any list; says how many of each list's videos are there."""
    there = {job.key for job in jobs}
    wanted = set()
    for split, (train, test) in lists.items():
        counts = []
        for rows, what in ((train, "training"), (test, "test")):
            keys = {(row.cls, row.video) for row in rows}
            counts.append(f"{len(keys & there)} of {len(keys)} listed {what} videos present")
            wanted |= keys
        say(f"split {split}: {', '.join(counts)}")
    return [job for job in jobs if job.key in wanted]


def check_names(jobs):
    """One video, one clip: refuse two sources whose clips would have the same name."""
    seen = {}
    for job in jobs:
        other = seen.setdefault(job.key, job.source)
        if other != job.source:
            raise UserError(f"--row_data_dir: {other} and {job.source} would both become "
                            f"{job.cls}/{job.video}.avi; rename one of them")
        if job.cls == "features":
            raise UserError("--row_data_dir: a class folder cannot be named 'features' (the feature "
                            "cache has that name); rename it")


def find_jobs(raw, lists_dir, out, say):
    jobs = scan(raw, out.resolve())
    if not jobs:
        raise UserError(f"--row_data_dir {raw}: no class folder with videos in it "
                        f"({' '.join(EXTENSIONS)})")
    if lists_dir:
        jobs = choose(jobs, listed(lists_dir), say)
        if not jobs:
            raise UserError(f"--row_data_dir {raw}: none of the listed videos is in this folder; is "
                            f"--ucf_list_dir {lists_dir} the list of these videos?")
    check_names(jobs)
    return jobs


# ---------------------------------------------------------------- one video, in a worker

def fraction(seed, job):
    """Where the clip starts, in [0, 1) of the possible starts: by the seed and the name alone."""
    digest = hashlib.sha256(f"{seed}/{job.cls}/{job.video}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2 ** 48


def sample(job, raw, out, rank, count, rate, seed):
    """Write one clip. Returns ("done", manifest row), ("failed", reason) or ("full", errno, text)."""
    cv2.setNumThreads(1)
    source = Path(raw, job.source)
    try:
        job.source.encode()     # the manifest is UTF-8
        if count == "all":
            return write_whole(job, source, out, rank, rate)
        frames, info, indices, spacing = read_clip(source, count, rate, fraction(seed, job))
    except (VideoError, OSError) as error:
        return "failed", str(error)
    except UnicodeEncodeError:
        return "failed", "the file's name is not UTF-8"
    except Exception as error:
        return "failed", " ".join(f"{type(error).__name__}: {error}".split())
    written = write_job(out, rank, job, frames, info.fps / spacing)
    return written if isinstance(written, tuple) else row(job, info, indices[0], spacing, written)


def row(job, info, start, spacing, frames):
    return "done", [job.video, job.cls, job.source, f"{info.fps:.6g}", info.frames, int(start),
                    math.floor(spacing + 0.5), frames]


def write_job(out, rank, job, frames, fps):
    """Write `frames` (any iterable) as the job's clip; their count, or ("full", errno, text)."""
    target = clip_path(out, job.cls, job.video)
    temporary = target.with_name(f".{target.stem}.{rank}-{os.getpid()}.tmp.avi")
    try:
        return write_clip(target, frames, fps, temporary)
    except OSError as error:
        return ("failed", error.strerror) if error.errno == errno.EFBIG else (
            "full", error.errno, error.strerror)


def remove_leftovers(out, rank, world):
    """Delete what workers of this rank (of this launch or one before) were writing when they died."""
    for path in out.glob("*/.*.tmp.avi"):
        writer = re.search(r"\.(\d+)-\d+\.tmp\.avi$", path.name)
        if writer and int(writer[1]) % world == rank:
            path.unlink(missing_ok=True)


def write_whole(job, source, out, rank, rate):
    """All sampled frames of a video, in constant memory."""
    with Video(source) as opened:
        spacing = rate.spacing(opened.info.fps)
        frames = (frame for _, _, frame in sample_video(opened, rate))
        try:
            written = write_job(out, rank, job, frames, opened.info.fps / spacing)
        except ValueError:
            raise VideoError("not one frame of it can be decoded") from None
        opened.info.frames = opened.position + 1
        return written if isinstance(written, tuple) else row(job, opened.info, 0, spacing, written)


# ---------------------------------------------------------------- the run

def check_settings(out, args):
    """Write settings.json, or refuse a folder that was made with other flags."""
    path = out / "settings.json"
    flags = {name: getattr(args, name) for name in FIXED}
    if path.is_file():
        before = files.read_json(path)
        for name, value in flags.items():
            if before.get(name) != value:
                raise UserError(f"--{name} {value}: the clips in {out} were made with --{name} "
                                f"{before.get(name)}; choose another --sampled_data_dir or the same flags")
        return
    if any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise UserError(f"--sampled_data_dir {out}: this folder holds other files; choose a new or an "
                        f"empty one")
    versions = {"python": platform.python_version(), "opencv": cv2.__version__}
    files.write_json(path, {**flags, "time_limit": args.time_limit, "versions": versions})


def rank_and_world():
    """This process's number and how many there are, as torchrun says, or (0, 1)."""
    try:
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError:
        rank, world = 0, 0
    if not 0 <= rank < world:
        raise UserError(f"RANK={os.environ.get('RANK')} and WORLD_SIZE={os.environ.get('WORLD_SIZE')} "
                        f"in the environment do not fit together; unset them or use torchrun")
    return rank, world


def default_workers():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", 1))))


def spread(jobs):
    """The same jobs, first a few from all over the list: they say how much disk space it takes."""
    first = jobs[::max(1, len(jobs) // PILOT)][:PILOT]
    chosen = set(first)
    return first + [job for job in jobs if job not in chosen]


def sample_all(jobs, out, rank, args, journal, bar):
    """Sample `jobs` in worker processes; every outcome goes to the journal."""
    work = functools.partial(sample, raw=args.row_data_dir, out=str(out), rank=rank,
                             rate=Rate(args.FPS, args.sampling_rate), count=args.num_frames_to_extract,
                             seed=args.seed)
    written = []
    outcomes = workers.results(work, spread(jobs), args.num_workers or default_workers(), args.time_limit)
    with contextlib.closing(outcomes):
        for number, (job, outcome) in enumerate(outcomes, 1):
            kind, *detail = outcome if isinstance(outcome, tuple) else ("failed", str(outcome))
            if kind == "full":
                raise OSError(*detail, str(clip_path(out, job.cls, job.video)))
            journal.add(kind, job, detail[0])
            bar.update()
            if number <= PILOT and kind == "done":
                written.append(clip_path(out, job.cls, job.video).stat().st_size)
            if number == PILOT and written:
                needed = sum(written) / len(written) * (len(jobs) - number)
                files.require_space(out, needed, f"--sampled_data_dir: sampling {len(jobs) - number} "
                                                 f"more videos")


def stop(number, _frame):
    raise Stopped(number)


def preprocess(args, out, rank, world, say):
    raw = Path(args.row_data_dir)
    jobs = find_jobs(raw, args.ucf_list_dir and Path(args.ucf_list_dir), out, say)
    with short_lock(out):   # whoever writes a table holds it: what is half written is a dead process's
        files.remove_leftovers(out)
        check_settings(out, args)
        done, _ = read_state(out)
    mine = [job for job in jobs[rank::world] if job.key not in done]
    for cls in {job.cls for job in mine}:
        (out / cls).mkdir(exist_ok=True)
    remove_leftovers(out, rank, world)
    before = len(jobs[rank::world]) - len(mine)
    if mine and before:
        say(f"going on: {before} of {before + len(mine)} videos are sampled already")
    journal, begin = Journal(out, rank), time.monotonic()
    with tqdm(total=before + len(mine), initial=before, unit=" videos", disable=rank > 0 or not mine,
              desc="sampling", mininterval=0.2, dynamic_ncols=True) as bar:
        try:
            sample_all(mine, out, rank, args, journal, bar)
        finally:
            remove_leftovers(out, rank, world)
            journal.flush()
    with short_lock(out):
        failed = merge(out, jobs)
    seconds = time.monotonic() - begin
    if not mine:
        say(f"nothing to do: all {len(jobs)} videos are sampled")
    else:
        say(f"{len(mine)} videos in {seconds:.1f} s, {len(mine) / seconds:.0f} videos/s")
    status = report(failed, len(jobs), out)
    say(out)
    return status


def report(failed, total, out):
    """Say what could not be read; exit status 1 when it is more than a tenth."""
    for source, reason in (failed or [])[:5]:
        print(f"not sampled: {source}: {reason}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {total} videos could not be sampled; {out / 'failed.csv'} lists them",
              file=sys.stderr)
    return 1 if failed and len(failed) * 10 > total else 0


@contextlib.contextmanager
def short_lock(out):
    """One process of a torchrun launch at a time; the others wait."""
    with open(out / ".merge.lock", "a") as f:
        if files.fcntl:
            files.fcntl.flock(f, files.fcntl.LOCK_EX)
        yield


def main():
    args = parse_arguments()
    rank, world = rank_and_world()
    raw = cli.folder("row_data_dir", args.row_data_dir, "give the folder with the raw videos")
    args.row_data_dir = str(raw.resolve())
    if args.ucf_list_dir:
        lists = cli.folder("ucf_list_dir", args.ucf_list_dir, "give the folder with the split lists, "
                           "or leave the flag out to take every video")
        args.ucf_list_dir = str(lists.resolve())
    if not args.sampled_data_dir:
        raise UserError("--sampled_data_dir is missing: give the folder to write the clips to")
    out = Path(args.sampled_data_dir).expanduser()
    if out.resolve() == raw.resolve():
        raise UserError(f"--sampled_data_dir {out}: this is the folder of the raw videos; choose another")
    try:
        out.mkdir(parents=True, exist_ok=True)
        group = None if world == 1 else "/".join(
            os.environ.get(name, "") for name in
            ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "WORLD_SIZE")).replace(" ", "_")
        with files.lock(out, "sampled_data_dir", "another preprocessing run", group):
            signal.signal(signal.SIGINT, stop)
            signal.signal(signal.SIGTERM, stop)
            return preprocess(args, out, rank, world, cli.say if rank == 0 else lambda _: None)
    except Stopped as stopped:
        name = signal.Signals(stopped.args[0]).name
        print(f"stopped by {name}; the same command goes on where this one stopped", file=sys.stderr)
        return 128 + stopped.args[0]
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--sampled_data_dir {out}: cannot write there ({error.strerror}: "
                        f"{error.filename}); choose another folder") from None


if __name__ == "__main__":
    cli.run(main)
