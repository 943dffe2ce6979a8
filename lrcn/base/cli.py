"""Flags, messages, errors and exit statuses, the same in every script.

    parser = cli.Parser(__doc__)
    parser.group("network").add_boolean("--bidirectional", default=True, help="read the frames both ways")
    if __name__ == "__main__":
        cli.run(main)

Names of files and classes reach the terminal through `printable` only: a stranger may have chosen them, and
a terminal obeys what it is sent. Nothing here imports torch: preprocessing starts at once.
"""
import argparse
import difflib
import errno
import functools
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from lrcn.base import signals

FULL = (errno.ENOSPC, errno.EDQUOT)                  # errors of a full disk
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)    # and of a folder that may not be written


class UserError(Exception):
    """The user's error: one line on stderr with the flag, its value and what to do; exit status 2."""


def true_or_false(text):
    """'True', 'yes', '1' or 'False', 'no', '0', in any case -> bool."""
    word = str(text).strip("'\"‘’").lower()
    if word in ("true", "yes", "1", "on"):
        return True
    if word in ("false", "no", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"expected True or False, not {text!r}")


class _Help(argparse.RawDescriptionHelpFormatter):
    """The module's docstring as it stands, and the default beside every flag."""

    def add_usage(self, usage, actions, groups, prefix=None):
        """What has to be given, and [flags] for all else."""
        needed = [a for a in actions if a.required]
        words = [*(w for w in needed if w.option_strings), *(w for w in needed if not w.option_strings)]
        line = self._format_usage(None, words, [], "").strip()
        super().add_usage(f"{line} [flags]".replace("%", "%%"), words, [], prefix)

    def _format_action_invocation(self, action):
        """--lr LR (also --learning_rate)"""
        first, *others = action.option_strings or [""]
        if not others or first == "-h":
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{first} {value}".strip() + f" (also {', '.join(others)})"

    def _get_help_string(self, action):
        text = action.help or ""
        if action.default in (argparse.SUPPRESS, None, "") or "default" in text:
            return text
        return f"{text} (default: %(default)s)"


class _Group(argparse._ArgumentGroup):
    def add_boolean(self, *names, default, help):
        """A switch for which --name, --no-name and --name True|False all work."""
        dest = names[0].lstrip("-")
        self.add_argument(*names, dest=dest, nargs="?", const=True, default=default,
                          type=true_or_false, metavar="True|False", help=help)
        self.add_argument(*(f"--no_{name.lstrip('-')}" for name in names), dest=dest,
                          action="store_const", const=False, default=argparse.SUPPRESS,
                          help=argparse.SUPPRESS)


class Parser(argparse.ArgumentParser):
    """argparse; flags may have underscores or dashes, and an error is one line. Typographic dashes
    (–-row_data_dir) and single ones (-num_workers) are read as two dashes."""

    add_boolean = _Group.add_boolean

    def __init__(self, description):
        help = functools.partial(_Help, max_help_position=34, width=100)
        super().__init__(description=(description or "").strip(), formatter_class=help, allow_abbrev=False)
        self.leading = None     # the flag whose name may be left out before the first word
        self._given = []

    def group(self, title):
        """The group of flags that --help shows under `title`, made when it is first asked for."""
        groups = {group.title: group for group in self._action_groups}
        if title not in groups:
            self._action_groups.append(_Group(self, title))
        return groups.get(title, self._action_groups[-1])

    def format_help(self):
        self._action_groups.sort(key=lambda group: group.title == "machine")    # last
        return super().format_help()

    def parse_known_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        if self.leading and args and args[0][:1] not in "-–—−":
            args.insert(0, self.leading)
        for i, token in enumerate(args[:args.index("--") if "--" in args else None]):
            match = re.match(r"([-–—−]{1,3})([A-Za-z][\w-]*)(=.*)?$", token, re.DOTALL)
            name = "--" + match[2].replace("-", "_") if match else ""
            if name in self._option_string_actions:
                args[i] = name + (match[3] or "")       # the flag as it was declared
            elif match and len(match[1]) > 1:   # before argparse asks for a flag that was meant by this one
                near = difflib.get_close_matches(name, self._option_string_actions, n=1)
                self.error(f"{token}: there is no such flag" + (f"; did you mean {near[0]}?" if near else ""))
        self._given = args
        return super().parse_known_args(args, namespace)

    def error(self, message):
        for flag, value in itertools.pairwise(self._given):     # a file called -x.mp4 is taken for a flag
            if f"{flag}: expected" in message and re.match(r"-[^-]", value) and \
                    value not in self._option_string_actions:
                message += f"; what begins with a dash is given as ./{value} or {flag}={value}"
        self.exit(2, f"{self.prog}: error: {printable(message)} (see --help)\n")


def folder(flag, value, hint):
    """The existing folder `value` as a Path, or a UserError that names the flag and says `hint`."""
    if not value:
        raise UserError(f"--{flag} is missing: {hint}")
    path = Path(value).expanduser()
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise UserError(f"--{flag} {value}: this folder {what}; {hint}")
    return path


def file(flag, value, hint):
    """The existing file `value` as a Path, or a UserError that names the flag and says `hint`."""
    path = Path(value).expanduser()
    if not path.is_file():
        what = ("is a folder, not a file" if path.is_dir() else
                "is a pipe or a device" if path.exists() else "does not exist")
        raise UserError(f"--{flag} {value}: this file {what}; {hint}")
    return path


def printable(text):
    """`text` on one line; characters that a terminal would obey become codes: \\x1b, \\n, \\u202e."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def say(*words, **options):
    """print `printable` words and flush, so that a log shows each line at once."""
    print(*map(printable, words), **options, flush=True)


@functools.cache
def say_once(*words, **options):
    """`say`, the first time that it gets these words."""
    say(*words, **options)


def warn(*words):
    """`say` on stderr."""
    say(*words, file=sys.stderr)


def progress(*iterable, desc="", show=True, **options):
    """A tqdm bar on a terminal, nothing in a log. show: False for all processes but the first."""
    from tqdm import tqdm
    return tqdm(*iterable, desc=printable(desc), disable=None if show else True, **options)


def first(names, most):
    """The first of some names: "a, b, c ..."."""
    names = list(names)
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def command():
    """This process's command line for a shell: "train.py --seed 1"."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def run_script(script, *words, **options):
    """Run `python script words ...` and wait for it: its exit status. options: of subprocess.Popen."""
    process = subprocess.Popen([sys.executable, *map(str, (script, *words))], **options)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # Ctrl-C reached it too, and it has something to save
        raise


def run(main):
    """Call main() and exit with its status; the user's errors are one line. 0: done, 1: failed, 2: a wrong
    flag, path or file, 130: Ctrl-C, 143: SIGTERM; a second signal ends the process at once."""
    def terminate(number, frame):
        raise signals.Terminated

    name, what = Path(sys.argv[0]).name, None
    signal.signal(signal.SIGTERM, terminate)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")   # for a terminal that lacks a letter
    try:
        status = main() or 0
        sys.stdout.flush()
    except UserError as error:
        status, what = 2, str(error).strip()
    except KeyboardInterrupt as stop:
        for number in signals.ASKED:
            signal.signal(number, signal.SIG_DFL)
        status = 128 + (signal.SIGTERM if isinstance(stop, signals.Terminated) else signal.SIGINT)
        if sys.stderr.isatty():
            print(file=sys.stderr)      # a bar may stand on this line
        warn(f"{name}: stopped; {str(stop) or 'run the same command again to go on'}")
    except BrokenPipeError:  # `script | head` stopped reading, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        if error.errno in FULL:
            status, what = 1, (f"the disk is full ({error.filename or error.strerror}); "
                               f"free some space and run the same command again")
        elif error.errno in CLOSED and error.filename:
            status, what = 2, (f"{error.filename}: no access ({error.strerror}); "
                               f"choose another folder, or ask its owner")
        else:
            raise
    if what:
        warn(f"{name}: error: {what}")
    sys.exit(status)
