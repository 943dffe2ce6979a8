"""What the films of session.py and the clips of review.py have in common: an open page waits for their news,
and gets small films and pictures, which are made when they are asked for."""
import contextlib
import threading
from pathlib import Path

from lrcn.base import UserError, cli
from lrcn.drawing import style
from lrcn.video.cut import cut
from lrcn.video.reader import VideoError

SHOWN = 480         # pixels of the long side of a film in the page, at most


class Page:
    """What an open page waits for. `changed` guards what it shows; `version` grows with every change. folder:
    where labels or decisions lie; small: where what it plays does."""

    def __init__(self, folder, small):
        self.folder, self.small, self.note, self.training = Path(folder), Path(folder, small), "", False
        self.version, self.changed, self.making = 1, threading.Condition(threading.RLock()), threading.Lock()

    def touch(self, **news):
        """Set what changed: who waits for news gets it."""
        with self.changed:
            vars(self).update(news)
            self.version += 1
            self.changed.notify_all()

    def wait(self, version, seconds):
        """Return when there is news since `version`, or after so many seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.version != version, seconds)

    def tell(self, note):
        """Show a note in the page, and print it."""
        self.touch(note=note)
        cli.say(note)

    def shown(self, names, counts):
        """[{name, key, count, color, background}] of classes in the order of their keys."""
        return [{"name": name, "key": str(i) if i < 10 else "", "count": counts[name],
                 "color": "#" + bytes(color).hex(), "background": False}
                for i, (name, color) in enumerate(zip(names, style.class_colors(names), strict=True), 1)]

    def made(self, name, what, make, alike="*", kept=1):
        """The Path of a small film or picture, made by make(path) if need be. Of the files that match `alike`
        the newest ones are kept. UserError: `what` cannot be read."""
        path = self.small / name
        with self.making if not path.is_file() else contextlib.nullcontext():
            if not path.is_file():
                self.small.mkdir(exist_ok=True)
                try:
                    make(path)
                except VideoError as error:
                    raise UserError(f"{what}: {error}") from None
                for old in sorted(self.small.glob(alike), key=lambda path: path.stat().st_mtime_ns)[:-kept]:
                    with contextlib.suppress(OSError):      # it may be on its way to the page
                        old.unlink()
        return path


def play(source, target, start, end):
    """Write a stretch of a film as a small H.264 film for the page, without its sound."""
    for _ in cut(source, target, start, end, SHOWN):
        pass
