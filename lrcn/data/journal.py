"""What preprocessing has done so far: a journal a process, and the tables they become in the end.

    done, gone, changed = follow(folder, jobs)  # what is sampled as its source is; the rest is taken out
    journal = Journal(folder, rank, jobs)   # .journal-<rank>.jsonl, a line a video, and one when it is done
    journal.add("done", job, row); journal.add("failed", job, "the file is empty"); journal.flush()
    merge(folder, jobs)                 # manifest.csv, clips.csv, failed.csv

A kill at any moment costs at most the videos of the last two seconds: they are sampled again.
"""
import contextlib
import functools
import hashlib
import os
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from lrcn.base import UserError, files
from lrcn.data.manifest import CLIP_COLUMNS, FACTS, FLOW, MANIFEST_COLUMNS, clip_path
from lrcn.video import avi

MANY = 10       # so many clips, if they are over half of all, are taken out only when asked


class Journal:
    """What one process has done, until the manifest is written. Clips are flushed to the disk before their
    lines: a line that can be read stands for a whole file; many at a time, because flushes are slow."""

    def __init__(self, out, rank, jobs):
        """jobs: those to come, written first: a kill may leave a clip that has no line of its own."""
        self.out, self.path = out, out / f".journal-{rank}.jsonl"
        self.lines, self.clips, self.flushed = [], [], time.monotonic()
        if jobs:
            files.append_lines(self.path, [["begun", job.source, job.key] for job in jobs])

    def add(self, kind, job, detail):
        """detail: for kind "done" the row of the manifest and FACTS, for "failed" the reason."""
        self.lines.append([kind, job.source, detail])
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
    """Make files and their names last through a power cut, many at a time."""
    def flush_file(path):
        with open(path, "rb") as f:
            os.fsync(f.fileno())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(flush_file, paths))
    for folder in {path.parent for path in paths}:
        files.flush_folder(folder)


def read_tables(out):
    """([{column: text}] of manifest.csv with the FACTS of clips.csv, blank where they are missing; {source:
    reason} of failed.csv); empty where there is no file."""
    tables = {"manifest.csv": MANIFEST_COLUMNS, "clips.csv": CLIP_COLUMNS, "failed.csv": ("source", "reason")}
    rows, known, failed = (files.read_csv(out / name, columns) if (out / name).is_file() else []
                           for name, columns in tables.items())
    facts = {(row["class"], row["video"]): {name: row[name] for name in FACTS} for row in known}
    blank = dict.fromkeys(FACTS, "")
    return ([row | facts.get((row["class"], row["video"]), blank) for row in rows],
            {row["source"]: row["reason"] for row in failed})


def read_state(out):
    """({(class, video): [its rows, the latest last]} of the whole clips, {source: reason} of the failed,
    {(class, video)} of the begun) of the tables and journals."""
    (rows, failed), begun = read_tables(out), set()
    for path in sorted(out.glob(".journal-*.jsonl")):
        for value in files.read_lines(path):
            with contextlib.suppress(ValueError, TypeError):    # no line of a journal
                kind, source, detail = value
                if kind == "failed":
                    failed[source] = str(detail)
                elif kind == "begun" and not {"/", "\0"} & set("".join(detail)):
                    cls, video = detail
                    begun.add((cls, video))
                elif kind == "done":
                    rows.append(dict(zip(MANIFEST_COLUMNS + FACTS, map(str, detail), strict=True)))
    whole, frames = defaultdict(list), functools.cache(lambda *key: str(avi.frames_in(clip_path(out, *key))))
    for row in rows:
        key = row["class"], row["video"]
        if not {"/", "\0"} & set("".join(key)) and frames(*key) == row["frames"]:
            whole[key].append(row)
    return whole, failed, begun


def follow(out, jobs, keep=None, reviewed=()):
    """Take out what is gone or changed in the source. Returns ({(class, video): row} of what stays, {key:
    source} of what is gone, {key: digest of its clip} of what changed). keep: True keeps all; None takes it
    out, but refuses for most of a folder. reviewed: sources of a review.csv, which says what stays."""
    state, _, begun = read_state(out)
    done, wanted = _current(state, jobs, keep, reviewed), {job.key for job in jobs}
    gone = {key: state[key][-1]["source"] for key in state if key not in done and key not in wanted}
    lost = sum(source not in reviewed for source in gone.values())
    if keep is None and lost >= MANY and 2 * lost > len(state):
        raise UserError(f"--row_data_dir: {lost} of the {len(state)} videos sampled in {out} are not in "
                        f"it any more; add --keep to keep their clips, or --no-keep to take them out")
    changed = {key: digest(clip_path(out, *key)) for key in state if key not in done and key in wanted}
    for key in begun - state.keys() - wanted:   # a clip of a run that was killed before its line was written
        _remove(out, key)
    # Tables last: a row without a clip is nothing to the next run, a clip without a row would stay for ever.
    for key in (*gone, *changed):
        _remove(out, key, clip=key in gone)
    if (gone or changed) and (out / "manifest.csv").is_file():
        _write_tables(out, done)
    return done, gone, changed


def _current(state, jobs, keep, reviewed):
    """{(class, video): row} of the clips that count: the latest of the job's source as it is now, by path,
    size and time of change; with `keep` the latest of all, also where the source is gone."""
    sources, done = {job.key: [job.source, str(job.bytes), str(job.modified)] for job in jobs}, {}
    for key, rows in state.items():
        as_it_is = [row for row in rows if [row["source"], row["bytes"], row["modified"]] == sources.get(key)]
        if as_it_is or keep and (key in sources or rows[-1]["source"] not in reviewed):
            done[key] = (as_it_is or rows)[-1]
    return done


def digest(path):
    return hashlib.blake2b(path.read_bytes()).digest() if path.is_file() else None


def _remove(out, key, clip=True):
    """Delete a clip's flow and the clip (clip=False: the flow alone), and folders that are empty then. Flow
    first: without its clip it would pass for a new one's."""
    for path in [clip_path(out / FLOW, *key), clip_path(out, *key)][:1 + clip]:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:                # a name that the disk cannot have
            if error.errno not in files.OF_ONE_FILE or os.path.lexists(path):
                raise
        with contextlib.suppress(OSError):      # other clips lie in it, or there is none
            path.parent.rmdir()


def _write_tables(out, done):
    # settings.json first, so that a table that a kill left is seen to be old; clips.csv last, for a row
    # without its facts is sampled again.
    settings = out / "settings.json"
    if settings.is_file() and (written := files.read_json(settings)).get("clips") != len(done):
        files.write_json(settings, {**written, "clips": len(done)})
    for name, columns in (("manifest.csv", MANIFEST_COLUMNS), ("clips.csv", CLIP_COLUMNS)):
        files.write_csv(out / name, columns, [[done[key][c] for c in columns] for key in sorted(done)])


def merge(out, jobs, keep=None, reviewed=()):
    """Write the tables once every job is done or failed, and delete the journals. The failed [(source,
    reason)]; None while other processes have work to do: the last one merges. Twice does no harm."""
    state, reasons, _ = read_state(out)
    done, failed = _current(state, jobs, keep, reviewed), []
    for job in jobs:
        if job.key in done:
            continue
        if job.source not in reasons:
            return None
        failed.append((job.source, reasons[job.source]))
        _remove(out, job.key)
    _write_tables(out, done)
    if failed:
        files.write_csv(out / "failed.csv", ("source", "reason"), failed)
    else:
        (out / "failed.csv").unlink(missing_ok=True)
    for path in out.glob(".journal-*.jsonl"):
        path.unlink()
    return failed
