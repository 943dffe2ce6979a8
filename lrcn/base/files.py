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


# What is wrong with the name of one file, or with its rights, and not with the disk
OF_ONE_FILE = {errno.EFBIG, errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ,
               errno.ENOENT, errno.EISDIR, errno.ENOTDIR}
# Hidden files, and what systems and network disks leave in folders
SYSTEM = re.compile(r"\..*|(?:eh)?thumbs.*\.db.*|desktop\.ini|icon\r|\$recycle\.bin|recycle[dr]|"
                    r"system volume information|__macosx|@(?:eadir|tmp|recycled?|recently-snapshot|__thumb)|"
                    r"#(?:recycle|snapshot)|lost\+found|lost\.dir|found\.\d{3}|temporary items|"
                    r"network trash folder", re.IGNORECASE | re.DOTALL)


def composed(name):
    """A name as most write it: a Mac stores é as e and an accent, which compares as another name."""
    return unicodedata.normalize("NFC", name)


def shortened(name, most=200):
    """A name of at most `most` bytes: a longer one loses its end, for a mark that tells it from others."""
    whole = name.encode("utf-8", "surrogateescape")
    if len(whole) <= most:
        return name
    return f"{whole[:most - 9].decode(errors='ignore')}~{hashlib.sha256(whole).hexdigest()[:8]}"


def temporary_name(path, who=None):
    """The hidden name beside `path` that it has until it is whole; its ending stays, because OpenCV and
    matplotlib choose the format by it. who: writes it (default: this process)."""
    return path.with_name(f".{path.stem}.{who or os.getpid()}.tmp{path.suffix}")


def output_folder(flag, path):
    """The folder of a flag as a Path, made if need be; UserError: it cannot be."""
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--{flag} {path}: cannot make this folder ({error.strerror})") from None
    return folder


def walk(top, flag, leave_out=None):
    """(folder, its folders, its files) from `top` down, names sorted, what is SYSTEM's passed over. Links are
    followed, but not in circles, nor to the folder `leave_out`. UserError: a folder may not be listed."""
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
    """with atomic(path) as temporary: write to `temporary`; it becomes `path` when all went well. lasting:
    through a power cut too; False for many small files that are quickly made anew."""
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
def _opened(folder):
    """A handle of a folder, to be flushed or locked by; None on Windows, which has none."""
    handle = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
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
    """The object in a JSON file; a UserError names the file when it holds anything else."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"cannot read {path}: it holds no JSON object")
    return value


def claim(folder, flag, settings, compared):
    """Begin a folder for what is made with these `settings` alone, which its settings.json keeps, or go on.
    Returns the first (name of `compared`, value there) that a folder that was begun has otherwise, else None.
    UserError: the folder holds other files. Whose settings.json it is, the first of `compared` tells."""
    path = Path(folder, "settings.json")
    before = read_json(path) if path.is_file() else {}
    if next(iter(compared)) in before:
        return next(((name, before.get(name)) for name in compared
                     if before.get(name) != settings[name]), None)
    if any(not entry.name.startswith(".") for entry in path.parent.iterdir()):
        raise UserError(f"--{flag} {folder}: this folder holds other files; choose a new or an empty one")
    write_json(path, settings)
    return None


def append_lines(path, values):
    """Append JSON values to a journal, a line and a check sum each, and see them safe on the disk."""
    lines = [json.dumps(value) for value in values]
    with open(path, "a", encoding="utf-8") as f:
        # A line that a kill cut off must not swallow the next.
        f.write("\n" + "".join(f"{zlib.crc32(line.encode()):08x}\t{line}\n" for line in lines))
        f.flush()
        os.fsync(f.fileno())


def read_lines(path):
    """The values in a journal without lines that were cut off or altered; older ones have no check sum."""
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
    """The text of a file that a person wrote: UTF-8, else what Windows' programs write, UTF-16 or cp1252.
    OSError, UnicodeDecodeError: it cannot be read as any of these."""
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
    """(names of the columns, [(line, {column: text})]) of a table, divided by what its first line has between
    `columns`: commas, semicolons, tabs or bars. UserError: no table."""
    try:
        text = read_text(path)
        first, _, rest = text.partition("\n")
        stated = re.fullmatch(r"sep=(.)\s*", first)     # Excel's way to say it
        text, head = (rest, rest.partition("\n")[0]) if stated else (text, first)
        names = {mark: {name.strip(' "\r') for name in head.split(mark)} for mark in ",;\t|"}
        mark = stated[1] if stated else max(names, key=lambda mark: len(names[mark] & set(columns)))
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        names = [name.strip() for name in next(rows, [])]
        more = bool(stated)
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
    """with replaced_folder(folder) as new: write into `new`; it becomes `folder` when all went well.
    Until then, and after an error or a kill, `folder` is as it was. What else stood in it stays, but for what
    matches the patterns `own` ("*.png"): what an earlier run of the same script may have left. UserError: it
    cannot be written, or another process is writing it."""
    folder = Path(folder).resolve()     # the place that a link leads to, so that the link stays
    new, before = temporary_name(folder), folder.with_name(f".{folder.name}.before")

    def left(inside, names):    # what is not carried over
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
            with _held(folder.parent):      # of two that begin at once, one sees the other
                _clear_up(folder, before)
                if folder.exists() and not folder.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, "it is a file")
                new.mkdir()
                held.callback(shutil.rmtree, new, ignore_errors=True)
                held.enter_context(_held(new))
        except OSError as error:
            raise UserError(f"{folder}: cannot write there ({error.strerror})") from None
        yield new
        if folder.is_dir():
            shutil.copytree(folder, new, symlinks=True, ignore=left, copy_function=link, dirs_exist_ok=True)
        flush_folder(new)
        _exchange(new, folder, before)
        flush_folder(folder.parent)


@contextlib.contextmanager
def _held(folder):
    """Lock a folder itself, once it is free, while its process lives; without such locks, do without."""
    with _opened(folder) as handle:
        with contextlib.suppress(OSError, AttributeError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _clear_up(folder, before):
    """Remove what killed processes left beside `folder`; bring back what one was about to replace.
    UserError: a living process is writing it."""
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
    """Put `new` in the place of `folder`: at once where the system can, else by two renames."""
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
    """Hold `folder` for one process, while it lives; a second one gets a UserError, as who cannot write does.
    shared: others that share it may hold it too. wait: the second one waits its turn instead, and gets an
    OSError where it cannot write. name: that of the lock's file."""
    while True:
        try:
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
        if wait:    # its file was deleted meanwhile, and another process may have a new one
            Path(folder).mkdir(parents=True, exist_ok=True)


def _flock(handle, shared=False):
    """Lock an open file or folder without waiting; False where it is taken, or there are no locks."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    except (OSError, AttributeError, TypeError):
        return False


def _leads_to(path, handle):
    """Whether the file of an open handle is still the one at `path`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def take(path):
    """The handle of a file, made if need be, that is this process's alone while it is open; None where
    another process has it, it may not be written, or the file system has no locks."""
    with contextlib.suppress(PermissionError):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _flock(handle) and _leads_to(path, handle):
            return handle
        os.close(handle)
    return None


def gigabytes(size):
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def require_space(folder, needed, what):
    """Refuse a step whose files cannot fit. needed: bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{what} needs {gigabytes(needed)} in {folder}, and {gigabytes(free)} are "
                        f"free there; free some space or choose another folder")
