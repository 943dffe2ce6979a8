"""Files that are whole or absent: atomic writes, folder locks, room on the disk.

Every file that a script leaves goes through `atomic`: written under a temporary name, flushed, renamed, and
its folder flushed, so that a kill at any moment leaves the old file or the new one. What belongs together
goes through `replaced_folder`, which does the same for all of it.
"""
import codecs
import contextlib
import csv
import ctypes
import errno
import functools
import glob
import hashlib
import io
import json
import os
import re
import shutil
import unicodedata
import zlib
from pathlib import Path

from lrcn.base.cli import UserError

try:
    import fcntl
except ImportError:  # Windows: no lock, the rest works
    fcntl = None

# Errors of one file's name or rights, not of the disk
OF_ONE_FILE = {errno.EFBIG, errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ,
               errno.ENOENT, errno.EISDIR, errno.ENOTDIR}
# Hidden files, and files that systems and network disks leave in folders
SYSTEM = re.compile(r"\..*|(?:eh)?thumbs.*\.db.*|desktop\.ini|icon\r|\$recycle\.bin|recycle[dr]|"
                    r"system volume information|__macosx|@(?:eadir|tmp|recycled?|recently-snapshot|__thumb)|"
                    r"#(?:recycle|snapshot)|lost\+found|lost\.dir|found\.\d{3}|temporary items|"
                    r"network trash folder", re.IGNORECASE | re.DOTALL)


def composed(name):
    """A name in its usual form (NFC): a Mac stores é as e and an accent, which compares as another name."""
    return unicodedata.normalize("NFC", name)


def shortened(name, most=200):
    """A name of at most `most` bytes; the end of a longer one is replaced by a digest of the whole."""
    whole = name.encode("utf-8", "surrogateescape")
    if len(whole) <= most:
        return name
    return f"{whole[:most - 9].decode(errors='ignore')}~{hashlib.sha256(whole).hexdigest()[:8]}"


def temporary_name(path, who=None):
    """The hidden name beside `path` while it is written; the ending stays, because OpenCV and matplotlib
    choose the format by it. who: the writer (default: this process's number)."""
    return path.with_name(f".{path.stem}.{who or os.getpid()}.tmp{path.suffix}")


def output_folder(flag, path, films=None):
    """The folder of a flag as a Path, made if it is missing; UserError: it cannot be made, or lies in the
    folder `films`."""
    folder = Path(path).expanduser()
    if films and Path(films).is_dir() and folder.resolve().is_relative_to(Path(films).resolve()):
        raise UserError(f"--{flag} {path}: it lies in the folder of the films; choose a folder beside it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--{flag} {path}: cannot make this folder ({error.strerror})") from None
    return folder


def walk(top, flag, leave_out=None):
    """os.walk with sorted names and without those of SYSTEM. Links are followed, but not in circles, nor to
    the folder `leave_out`. UserError: a folder may not be listed."""
    def refuse(error):
        raise UserError(f"--{flag} {top}: cannot look into {error.filename} ({error.strerror}); make this "
                        f"folder readable, or move it away") from None

    for root, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        here = os.path.realpath(root)
        folders[:] = sorted(
            d for d in folders if not SYSTEM.fullmatch(d)
            and (real := Path(root, d).resolve()) != leave_out and not f"{here}/".startswith(f"{real}/"))
        yield root, folders, sorted(name for name in names if not SYSTEM.fullmatch(name))


@contextlib.contextmanager
def atomic(path, lasting=True, who=None):
    """with atomic(path) as temporary: write to `temporary`; it becomes `path` at the end, unless there was an
    error. lasting: it survives a power cut; False for many small files that are quickly made again."""
    path = Path(path)
    temporary = temporary_name(path, who)
    try:
        yield temporary
        if lasting:
            with open(temporary, "rb+") as f:
                os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if lasting:
        flush_folder(path.parent)


@contextlib.contextmanager
def _opened(folder, lock=False):
    """A handle of a folder, None on Windows. lock: wait until its lock is free, and hold it."""
    handle = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if lock and fcntl:
            with contextlib.suppress(OSError):      # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        if fcntl:
            os.close(handle)


def flush_folder(path):
    """Make the renames in a folder last through a power cut."""
    with _opened(path) as handle:
        if fcntl:
            os.fsync(handle)


def write_text(path, text):
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path):
    """The object in a JSON file; UserError: it holds anything else."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"cannot read {path}: it holds no JSON object")
    return value


def claim(folder, flag, settings, compared):
    """Begin a folder that is made with these `settings`, which its settings.json keeps; or go on with one.
    UserError: it was made with another value of a name in `compared`, or it holds other files; a
    settings.json without the first of these names is another program's."""
    path = Path(folder, "settings.json")
    before = read_json(path) if path.is_file() else {}
    if next(iter(compared)) not in before:
        if any(not entry.name.startswith(".") for entry in path.parent.iterdir()):
            raise UserError(f"--{flag} {folder}: this folder holds other files; choose a new or an empty one")
        write_json(path, settings)
        return
    for name in compared:
        if before.get(name) != settings[name]:
            raise UserError(f"--{flag} {folder}: it was made with {name} {before.get(name)}, not "
                            f"{settings[name]}; choose another folder or the same flags")


def append_lines(path, values):
    """Append JSON values to a journal, each a line with a check sum, and flush them to the disk."""
    lines = [json.dumps(value) for value in values]
    with open(path, "a", encoding="utf-8") as f:
        # A line that was cut off must not join the next one.
        f.write("\n" + "".join(f"{zlib.crc32(line.encode()):08x}\t{line}\n" for line in lines))
        f.flush()
        os.fsync(f.fileno())


def read_lines(path):
    """The values in a journal; damaged lines are left out, and older journals have no check sums."""
    values = []
    for line in Path(path).read_bytes().split(b"\n"):
        check, tab, text = line.partition(b"\t")
        with contextlib.suppress(ValueError, RecursionError):
            if not tab or int(check, 16) == zlib.crc32(text):
                values.append(json.loads(text if tab else line))
    return values


def write_csv(path, header, rows):
    """rows: sequences in the order of `header`."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_text(path):
    """The text of a file in UTF-8, UTF-16 or cp1252. OSError, UnicodeDecodeError: it is none."""
    whole = Path(path).read_bytes()
    if whole[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return whole.decode("utf-16")
    if whole[1:2] == b"\0":
        return whole.decode("utf-16-le")
    try:
        return whole.decode("utf-8-sig")
    except UnicodeDecodeError:
        return whole.decode("cp1252")


def read_table(path, columns):
    """(names of the columns, [(line, {column: text})]) of a table with commas, semicolons, tabs or bars
    between its cells: whatever stands between `columns` in the first line. UserError: no table."""
    try:
        text = read_text(path)
        first, _, rest = text.partition("\n")
        stated = re.fullmatch(r"sep=(.)\s*", first)     # Excel states its mark
        text, head = (rest, rest.partition("\n")[0]) if stated else (text, first)
        names = {mark: {name.strip(' "\r') for name in head.split(mark)} for mark in ",;\t|"}
        mark = stated[1] if stated else max(names, key=lambda mark: len(names[mark] & set(columns)))
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        names, more = [name.strip() for name in next(rows, [])], bool(stated)
        return names, [(rows.line_num + more, dict(zip(names, row, strict=False))) for row in rows if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def read_csv(path, columns):
    """[{column: text}] of a CSV file that has at least `columns`; else a UserError with file, line."""
    names, rows = read_table(path, columns)
    if missing := [c for c in columns if c not in names]:
        raise UserError(f"{path} line 1: column {', '.join(missing)} is missing; "
                        f"is this the file that the scripts wrote?")
    for line, row in rows:
        if any(c not in row for c in columns):
            raise UserError(f"{path} line {line}: {len(columns)} columns expected")
    return [row for _, row in rows]


@contextlib.contextmanager
def replaced_folder(folder, own=()):
    """with replaced_folder(folder) as new: write into `new`; it becomes `folder` at the end. Until then, and
    after an error or a kill, `folder` is as it was. Its other files are kept, but not an earlier run's, by
    the patterns `own` ("*.png"). UserError: it cannot be written, or another process is writing it."""
    folder = Path(folder).resolve()     # a link stays a link
    new, before = temporary_name(folder), folder.with_name(f".{folder.name}.before")

    def left(inside, names):    # names that are not carried over
        return [name for name in names if Path(inside) == folder
                and ((new / name).exists() or any(map(Path(name).match, own)))]

    def link(source, target):
        try:
            os.link(source, target, follow_symlinks=False)
        except (OSError, NotImplementedError):
            shutil.copy2(source, target, follow_symlinks=False)

    with contextlib.ExitStack() as held:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _opened(folder.parent, lock=True):     # of two that begin at once, one sees the other
                _clear_up(folder, before)
                if folder.exists() and not folder.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, "it is a file")
                new.mkdir()
                held.callback(shutil.rmtree, new, ignore_errors=True)
                held.enter_context(_opened(new, lock=True))
        except OSError as error:
            raise UserError(f"{folder}: cannot write there ({error.strerror})") from None
        yield new
        if folder.is_dir():
            shutil.copytree(folder, new, symlinks=True, ignore=left, copy_function=link, dirs_exist_ok=True)
        flush_folder(new)
        _exchange(new, folder, before)
        flush_folder(folder.parent)


def _clear_up(folder, before):
    """Undo what killed processes left beside `folder`. UserError: a living process is writing it."""
    for path in sorted(folder.parent.glob(temporary_name(Path(glob.escape(folder.name)), "*").name)):
        # Gone meanwhile, no locks, or not ours to delete
        with contextlib.suppress(OSError, AttributeError), _opened(path) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            except BlockingIOError:
                number = path.name.rpartition(".tmp")[0].rpartition(".")[2]
                raise UserError(f"{folder}: another process ({number}) is writing this folder; wait for it, "
                                f"then run this again") from None
    if before.is_dir() and not folder.exists():
        before.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def _exchange(new, folder, before):
    """Put `new` in the place of `folder`: in one step where the system can, else by two renames."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        at_cwd, exchange = -100, 2          # Linux: AT_FDCWD, RENAME_EXCHANGE
        if ctypes.CDLL(None).renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(folder), exchange) == 0:
            return
    if folder.exists():
        folder.rename(before)
    try:
        new.rename(folder)
    finally:
        if before.exists() and not folder.exists():
            before.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def remove_leftovers(folder):
    """Delete temporary files that a killed process left in `folder`."""
    for path in Path(folder).glob(".*.tmp*"):
        if not path.is_dir():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(folder, flag, what, shared=False, wait=False, name=".lock"):
    """Make `folder` and hold it for this process. UserError: another one holds it, or it cannot be written.
    shared: other sharing processes may hold it too. wait: for the other process; OSError: not writable."""
    while True:     # until the lock's file is the one at its path, which another process may delete
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            f = open(Path(folder, name), "a+")      # noqa: SIM115
        except OSError as error:
            if wait:
                raise
            raise UserError(f"--{flag} {folder}: cannot write there ({error.strerror}); choose another "
                            f"folder, or ask its owner") from None
        with f:
            if fcntl and wait:
                fcntl.flock(f, fcntl.LOCK_EX)
            elif fcntl and not _flock(f, shared):
                f.seek(0)
                holder = (f.read().split() or ["?"])[0]
                raise UserError(f"--{flag} {folder}: {what} (process {holder}) is at work in this folder; "
                                f"wait for it or choose another")
            if not fcntl or _leads_to(f.name, f.fileno()):
                if not wait:
                    f.truncate(0)
                    f.write(str(os.getpid()))
                    f.flush()
                yield
                return


def _flock(handle, shared=False):
    """Lock an open file without waiting; False: it is locked already, or there are no locks."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    except (OSError, AttributeError, TypeError):
        return False


def _leads_to(path, handle):
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def take(path):
    """The handle of a file, made if it is missing, which is locked while it is open; None: another process
    has it, it may not be written, or the file system has no locks."""
    with contextlib.suppress(PermissionError):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _flock(handle) and _leads_to(path, handle):
            return handle
        os.close(handle)
    return None


def gigabytes(size):
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def require_space(folder, needed, what):
    """UserError: the disk has not the `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{what} needs {gigabytes(needed)} in {folder}, and {gigabytes(free)} are "
                        f"free there; free some space or choose another folder")


@functools.lru_cache(maxsize=4096)
def stamp(path):
    """[bytes, time of change (ns)] of a file, as text, when it is first asked for; empty: it is missing."""
    try:
        known = os.stat(path)
    except OSError:
        return ["", ""]
    return [str(known.st_size), str(known.st_mtime_ns)]
