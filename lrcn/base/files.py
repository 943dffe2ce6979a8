"""Files that are whole or absent: atomic writes, folder locks, room on the disk.

Every file that a script leaves goes through `atomic`: written under a temporary name, flushed,
renamed, and its folder flushed, so that a kill at any moment leaves the old file or the new one.
"""
import contextlib
import csv
import json
import os
import shutil
import time
from pathlib import Path

from lrcn.base.cli import UserError

try:
    import fcntl
except ImportError:  # Windows: no lock, the rest works
    fcntl = None


@contextlib.contextmanager
def atomic(path):
    """with atomic(path) as temporary: write to `temporary`; it becomes `path` when all went well."""
    path = Path(path)
    # The ending stays, because OpenCV and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_folder(path):
    """Make the renames in a folder last through a power cut."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path, text):
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path):
    """The object in a JSON file; a UserError names the file when it holds anything else."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"cannot read {path}: it holds no JSON object")
    return value


def write_csv(path, header, rows):
    """rows: sequences in the order of `header`."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path, columns):
    """[{column: text}] of a CSV file that has at least `columns`; else a UserError with file, line."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f, strict=True)
            missing = [c for c in columns if c not in (reader.fieldnames or [])]
            if missing:
                raise UserError(f"{path} line 1: column {', '.join(missing)} is missing; "
                                f"is this the file that the scripts wrote?")
            rows = []
            for row in reader:
                if any(row[c] is None for c in columns):
                    raise UserError(f"{path} line {reader.line_num}: {len(columns)} columns expected")
                rows.append(row)
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def remove_leftovers(folder):
    """Delete temporary files that a killed process left in `folder`."""
    for path in Path(folder).glob(".*.tmp*"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(folder, flag, what, group=None, wait=False):
    """Hold `folder` for one process; a second one gets a UserError, a dead one's lock is free.

    wait: the second one waits its turn instead. Processes that give the same `group` hold it
    together. The kernel drops the lock with its holder, so that nothing has to be cleaned up after
    a kill.
    """
    path = Path(folder) / ".lock"
    with open(path, "a+") as f:
        if fcntl and wait:
            fcntl.flock(f, fcntl.LOCK_EX)
        elif fcntl and not _locked(f, group):
            f.seek(0)
            holder = (f.read().split() or ["?"])[0]
            raise UserError(f"--{flag} {folder}: {what} (process {holder}) is at work in this folder; "
                            f"wait for it or choose another")
        yield


def _locked(f, group, patience=2.0):
    """Lock the open file f and write the holder's process and group into it; False if it is taken."""
    end = time.monotonic() + patience
    while True:
        with contextlib.suppress(OSError):
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            f.truncate(0)
            f.write(f"{os.getpid()} {group or ''}")
            f.flush()
            if not group:
                return True
        if not group:
            return False
        # Shared from here on. Between the two locks another group may have been faster: it has
        # written its own name then, and whoever reads a name that is not his gives way.
        with contextlib.suppress(OSError):
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            f.seek(0)
            return f.read().partition(" ")[2] == group
        if time.monotonic() > end:
            return False
        time.sleep(0.02)


def gigabytes(size):
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def require_space(folder, needed, what):
    """Refuse a step whose files cannot fit. needed: bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{what} needs {gigabytes(needed)} in {folder}, and {gigabytes(free)} are "
                        f"free there; free some space or choose another folder")
