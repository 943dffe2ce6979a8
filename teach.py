"""From films to a recogniser by watching them and pressing keys.

    pip install -r requirements-app.txt
    python teach.py --video_path my_films                           # then press keys in the page that opens
    python teach.py --video_path my_films --classes jump,wave --output_dir my_labels
    python teach.py --video_path my_films --output_dir my_labels --finish

A moment of a film plays in a loop; a key says its class. After each key a network learns what was said, and
the next moment is one that it is unsure of. Leaves in --output_dir

    labels.csv      film,start,end,label,kind,moment: a row a key, on the disk at once
    classes.json    the classes, in the order of their keys
    frames/         what the films were sampled to, and features: safe to delete
    clips/ sampled/ runs/   of --finish, or the page's button: clips as find_clips.py cuts them, the data set,
                    and its runs

and prints the address of its page, which this machine alone can open; --finish prints the run folder as the
last line. Ctrl-C ends it; the same command goes on.
"""
import importlib
import webbrowser
from pathlib import Path

from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.base.values import Names, Number, Text
from lrcn.watching.films import find_films


def make_parser():
    parser = cli.Parser(__doc__)
    films, page, done = (parser.group(title) for title in ("films", "page", "what is made of the labels"))
    films.add_argument("--video_path", metavar="X", help="a film, or a folder of films")
    films.add_argument("--output_dir", default="my_labels", metavar="DIR", help="where labels and runs go")
    films.add_argument("--classes", type=Names(), default=None, metavar="A,B,...",
                       help="classes to begin with; the page takes new ones")
    films.add_argument("--background", type=Text(), default=None, metavar="NAME",
                       help="key 0's moments become clips of this class (default: they become none)")
    films.add_argument("--clip_seconds", type=Number(float, low=0.5, high=60), default=2.0,
                       help="length of a moment")
    page.add_argument("--port", type=Number(int, low=0, high=65535), default=0, help="0: any free one")
    page.add_boolean("--open", default=True, help="open the page in a browser")
    done.add_boolean("--finish", default=False, help="make clips, data set and run, without the page")
    return parser


def require_page():
    """UserError where what serves the page is not installed."""
    for name in ("starlette", "uvicorn"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError(f"teach.py needs {name}: pip install -r requirements-app.txt") from None


def main():
    args = make_parser().parse_args()
    if not args.video_path:
        raise UserError("--video_path is missing: give a film or a folder of films")
    films = find_films(args.video_path)
    require_page()
    out = Path(args.output_dir).expanduser()
    source = Path(args.video_path).expanduser().resolve()
    if source.is_dir() and out.resolve().is_relative_to(source):
        raise UserError(f"--output_dir {out}: it lies in the folder of the films; choose a folder beside it")
    out = files.output_folder("output_dir", out)
    with files.lock(out, "output_dir", "another teach.py"):
        from lrcn.teaching import server
        from lrcn.teaching.session import Choices, Session
        choices = {"teach": "films", "clip_seconds": args.clip_seconds}
        other = files.claim(out, "output_dir", choices, choices)
        if other:
            name, before = other
            raise UserError(f"--output_dir {out}: it was made with {name} {before}, not {choices[name]}; "
                            f"choose another folder or the same flags")
        session = Session(out, films, Choices(classes=args.classes or [], seconds=args.clip_seconds,
                                              background=args.background))

        def opened(address):
            cli.say(f"open {address}  (Ctrl-C ends it)")
            if args.open:
                webbrowser.open(address)
        server.serve(session, args.port, opened)


if __name__ == "__main__":
    cli.run(main)
