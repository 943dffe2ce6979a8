"""What preprocessing has done so far: a journal a process, and the tables they become in the end.

    followed = follow(folder, jobs)      # what is sampled as its source is now; the rest is taken out
    journal = Journal(folder, rank)     # .journal-<rank>.jsonl, one line a video
    journal.add("done", job, row, facts); journal.add("failed", job, "the file is empty"); journal.flush()
    merge(folder, jobs)                 # manifest.csv, clips.csv, failed.csv

A kill at any moment costs at most the videos of the last two seconds: they are sampled again.
"""
import contextlib
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.data.manifest import CLIP_COLUMNS, FACTS, FLOW, MANIFEST_COLUMNS, clip_path
from lrcn.video import avi

MANY = 10       # clips that are not taken out unasked, if they are more than half of all


class Journal:
    """What one process has done, one JSON line a video, until the manifest is written.

    Clips are flushed to the disk before their lines are, many at a time: a line that can be read
    stands for a whole file, and a flush per file would cost more than the sampling.
    """

    def __init__(self, out, rank):
        self.out, self.path = out, out / f".journal-{rank}.jsonl"
        self.lines, self.clips, self.flushed = [], [], time.monotonic()

    def add(self, kind, job, detail, facts=None):
        """kind "done": detail is the row of the manifest, facts that of clips.csv; "failed": the reason."""
        self.lines.append([kind, job.source if kind == "failed" else None, detail, facts])
        if kind == "done":
            self.clips.append(clip_path(self.out, job.cls, job.video))
        if len(self.lines) >= 256 or time.monotonic() - self.flushed > 2:
            self.flush()

    def flush(self):
        lines, clips, self.lines, self.clips = self.lines, self.clips, [], []
        if lines:
            flush(clips)
            files.append_lines(self.path, lines)
        self.flushed = time.monotonic()


def flush(paths):
    """Files and their names safe on the disk, many at a time."""
    def flush_file(path):
        with open(path, "rb") as f:
            os.fsync(f.fileno())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(flush_file, paths))
    for folder in {path.parent for path in paths}:
        files.flush_folder(folder)


# ---------------------------------------------------------------- reading it back

@dataclass(frozen=True)
class Entry:
    """A whole clip: its row of the manifest, and its FACTS (blank where clips.csv has lost them), as text."""
    row: list
    facts: list

    def shows(self, job):
        """Is it the clip of the job's source as that is now, by path, size and time of change?"""
        return [self.row[MANIFEST_COLUMNS.index("source")], *self.facts[:2]] == [
            job.source, str(job.bytes), str(job.modified)]


def read_facts(out):
    """{(class, video): FACTS as text} of clips.csv; empty where there is none."""
    path = out / "clips.csv"
    rows = files.read_csv(path, CLIP_COLUMNS) if path.is_file() else []
    return {(row["class"], row["video"]): [row[name] for name in FACTS] for row in rows}


def read_failed(out):
    """{source: reason} of failed.csv."""
    path = out / "failed.csv"
    rows = files.read_csv(path, ("source", "reason")) if path.is_file() else []
    return {row["source"]: row["reason"] for row in rows}


def read_state(out):
    """({(class, video): [Entry], the latest last} of the whole clips, {source: reason} of the failed)."""
    entries, failed, blank = [], read_failed(out), [""] * len(FACTS)
    if (out / "manifest.csv").is_file():
        facts = read_facts(out)
        entries = [Entry([row[c] for c in MANIFEST_COLUMNS], facts.get((row["class"], row["video"]), blank))
                   for row in files.read_csv(out / "manifest.csv", MANIFEST_COLUMNS)]
    for path in sorted(out.glob(".journal-*.jsonl")):
        for value in files.read_lines(path):
            with contextlib.suppress(ValueError, TypeError):    # no line of a journal
                kind, source, detail, facts = value
                if kind == "failed" and isinstance(source, str) and isinstance(detail, str):
                    failed[source] = detail
                elif kind == "done" and (len(detail), len(facts)) == (len(MANIFEST_COLUMNS), len(FACTS)):
                    entries.append(Entry([str(v) for v in detail], [str(v) for v in facts]))
    done, held = {}, {}
    for entry in entries:
        name, cls, frames = entry.row[0], entry.row[1], entry.row[-1]
        if {"/", "\0"} & set(name + cls):
            continue
        if (cls, name) not in held:
            held[cls, name] = str(avi.frames_in(clip_path(out, cls, name)))
        if held[cls, name] == frames:
            done.setdefault((cls, name), []).append(entry)
    return done, failed


# ---------------------------------------------------------------- the tables

@dataclass
class Followed:
    """done: {(class, video): Entry}; gone, changed: {(class, video): digest of its clip}."""
    done: dict
    gone: dict
    changed: dict


def follow(out, jobs, keep=None):
    """Let the folder follow its source: Followed, after what is gone or changed there was taken out.

    keep: True keeps it, clips and rows; None takes it out, but for most of a folder asks first.
    """
    state, _ = read_state(out)
    wanted = {job.key: job for job in jobs}
    followed = Followed({}, {}, {})
    for key, entries in state.items():
        job = wanted.get(key)
        entry = _current(entries, job, keep)
        if entry:
            followed.done[key] = entry
        else:
            (followed.changed if job else followed.gone)[key] = None
    if keep is None and len(followed.gone) >= MANY and 2 * len(followed.gone) > len(state):
        raise UserError(f"--row_data_dir: {len(followed.gone)} of the {len(state)} videos sampled in {out} "
                        f"are not in it any more; add --keep to keep their clips, or --no-keep to take them "
                        f"out")
    for key in followed.changed:
        followed.changed[key] = digest(clip_path(out, *key))
    if followed.gone or followed.changed:
        # Flow first: without its clip it would pass for a new one's.
        for key in (*followed.gone, *followed.changed):
            _remove(clip_path(out / FLOW, *key))
        if (out / "manifest.csv").is_file():
            _write_tables(out, followed.done)
        for key in followed.gone:
            _remove_clip(out, *key)
    return followed


def _current(entries, job, keep):
    """The entry that counts for a job (None: a video that the source does not hold any more), or None."""
    if job is None:
        return entries[-1] if keep else None
    as_it_is = [entry for entry in entries if entry.shows(job)] or (entries if keep else [])
    return as_it_is[-1] if as_it_is else None


def digest(path):
    return hashlib.blake2b(path.read_bytes()).digest() if path.is_file() else None


def _remove_clip(out, cls, name):
    """Delete a clip and its flow, where they are there, and their folders where nothing else is in them."""
    for path in (clip_path(out / FLOW, cls, name), clip_path(out, cls, name)):
        _remove(path)


def _remove(path):
    try:
        path.unlink(missing_ok=True)
    except OSError as error:                # a name that the disk cannot have
        if error.errno not in files.OF_ONE_FILE or os.path.lexists(path):
            raise
    with contextlib.suppress(OSError):      # other clips lie in it, or there is none
        path.parent.rmdir()


def _write_tables(out, done):
    # In this order: a row without its facts is looked at anew, facts without a row are nothing, and what
    # settings.json counts before its rows are there is told as missing.
    settings = out / "settings.json"
    if settings.is_file() and (written := files.read_json(settings)).get("clips") != len(done):
        files.write_json(settings, {**written, "clips": len(done)})
    files.write_csv(out / "manifest.csv", MANIFEST_COLUMNS, [done[key].row for key in sorted(done)])
    files.write_csv(out / "clips.csv", CLIP_COLUMNS,
                    [(name, cls, *done[cls, name].facts) for cls, name in sorted(done)])


def merge(out, jobs, keep=None):
    """Write the tables once every job is done or failed, and drop the journals.

    Returns the failed [(source, reason)], or None while other processes still have work to do.
    Whichever process comes last merges; to merge twice does no harm.
    """
    state, reasons = read_state(out)
    wanted = {job.key for job in jobs}
    done = {key: entries[-1] for key, entries in state.items() if keep and key not in wanted}
    failed = []
    for job in jobs:
        entry = _current(state.get(job.key, []), job, keep)
        if entry:
            done[job.key] = entry
        elif job.source in reasons:
            failed.append((job.source, reasons[job.source]))
            _remove_clip(out, *job.key)
        else:
            return None
    _write_tables(out, done)
    if failed:
        files.write_csv(out / "failed.csv", ("source", "reason"), failed)
    else:
        (out / "failed.csv").unlink(missing_ok=True)
    for path in out.glob(".journal-*.jsonl"):
        path.unlink()
    return failed
