"""What preprocessing has done so far: a journal a process, and the manifest they become in the end.

    journal = Journal(folder, rank)     # .journal-<rank>.jsonl, one line a video
    journal.add("done", job, row); journal.add("failed", job, "the file is empty"); journal.flush()
    merge(folder, jobs)                 # manifest.csv, failed.csv

A kill at any moment costs at most the videos of the last two seconds: they are sampled again.
"""
import contextlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lrcn.base import files
from lrcn.video import avi

COLUMNS = ("video", "class", "source", "source_fps", "source_frames", "start", "stride", "frames")


def clip_path(out, cls, name):
    return Path(out, cls, f"{name}.avi")


class Journal:
    """What one process has done, one JSON line a video, until the manifest is written.

    Clips are flushed to the disk before their lines are, many at a time: a line that can be read
    stands for a whole file, and a flush per file would cost more than the sampling.
    """

    def __init__(self, out, rank):
        self.out, self.path = out, out / f".journal-{rank}.jsonl"
        self.lines, self.clips, self.flushed = [], [], time.monotonic()

    def add(self, kind, job, detail):
        self.lines.append(json.dumps([kind, job.source if kind == "failed" else None, detail]))
        if kind == "done":
            self.clips.append(clip_path(self.out, job.cls, job.video))
        if len(self.lines) >= 256 or time.monotonic() - self.flushed > 2:
            self.flush()

    def flush(self):
        lines, clips, self.lines, self.clips = self.lines, self.clips, [], []
        if lines:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(flush_file, clips))
            for folder in {clip.parent for clip in clips}:
                files.flush_folder(folder)
            with open(self.path, "a", encoding="utf-8") as f:
                # A line that a kill cut off must not swallow the next.
                f.write("\n" + "\n".join(lines) + "\n")
                f.flush()
                os.fsync(f.fileno())
        self.flushed = time.monotonic()


def flush_file(path):
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def read_journal(path):
    """[(kind, source, detail)]; a line that a kill cut off is left out."""
    lines = []
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError, TypeError):
            kind, source, detail = json.loads(line)
            if kind == "failed" and isinstance(source, str) and isinstance(detail, str):
                lines.append((kind, source, detail))
            elif kind == "done" and source is None and len(detail) == len(COLUMNS):
                lines.append((kind, source, [str(value) for value in detail]))
    return lines


def read_state(out):
    """({(class, video): manifest row} of every clip that is whole, {source: reason} of the failed)."""
    rows, failed = [], {}
    if (out / "manifest.csv").is_file():
        rows = [[line[c] for c in COLUMNS] for line in files.read_csv(out / "manifest.csv", COLUMNS)]
    if (out / "failed.csv").is_file():
        failed = {line["source"]: line["reason"]
                  for line in files.read_csv(out / "failed.csv", ("source", "reason"))}
    for path in sorted(out.glob(".journal-*.jsonl")):
        for kind, source, detail in read_journal(path):
            if kind == "done":
                rows.append(detail)
            else:
                failed[source] = detail
    done = {}
    for line in rows:
        name, cls, frames = line[0], line[1], line[-1]
        # Journals come after the manifest, and a video's later line replaces the earlier one.
        if not {"/", "\0"} & set(name + cls) and str(avi.frames_in(clip_path(out, cls, name))) == frames:
            done[cls, name] = line
    return done, failed


def merge(out, jobs):
    """Write manifest.csv and failed.csv once every job is done or failed, and drop the journals.

    Returns the failed [(source, reason)], or None while other processes still have work to do.
    Whichever process comes last merges; to merge twice does no harm.
    """
    done, failed = read_state(out)
    if any(job.key not in done and job.source not in failed for job in jobs):
        return None
    failed = [(job.source, failed[job.source]) for job in jobs if job.key not in done]
    files.write_csv(out / "manifest.csv", COLUMNS, [done[key] for key in sorted(done)])
    if failed:
        files.write_csv(out / "failed.csv", ("source", "reason"), failed)
    else:
        (out / "failed.csv").unlink(missing_ok=True)
    for path in out.glob(".journal-*.jsonl"):
        path.unlink()
    return failed
