"""A trained model in the browser: drop a film or record one, and see what happens in it, and when.

    pip install -r requirements-app.txt
    python app.py RUN       # then open the address that it prints

It shows what test_on_video.py makes of a film. Visitors wait in a queue. Only this machine reaches the page,
unless --host says otherwise. Ctrl-C ends it. Everything else is described in docs/report.md.
"""
import contextlib
import html
import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import utils
from lrcn.base import UserError, cli
from lrcn.base.values import Number
from lrcn.runs import FilmFolder
from lrcn.video.reader import VideoError, probe
from lrcn.watching.films import Labeller

MB = 2 ** 20        # as gradio counts them
WAITING = 20        # visitors in the queue
HIGH = 420          # pixels of a film on the page: a portrait one does not fill it
KEPT, SWEEP = 3600, 600     # seconds that a visitor's files are kept, and between two looks at their age
POLICY = ("default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; "
          "frame-ancestors 'self'; base-uri 'self'; form-action 'self'")
SCRIPT = Path(__file__).with_name("lrcn") / "pages/app.js"      # takes films of all kinds


def make_parser():
    parser = cli.Parser(__doc__)
    utils.add_model_flags(parser)
    utils.add_label_flags(parser)
    utils.add_film_flags(parser, speed=False)
    add = parser.add_argument
    add("--host", default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets every machine of the network in")
    add("--port", type=Number(int, low=0, high=65535), default=7860, help="0: any free one")
    add("--max_megabytes", type=Number(float, above=0), default=500, metavar="MB",
        help="a larger film is refused")
    add("--max_seconds", type=Number(float, above=0), default=600, metavar="SECONDS",
        help="a longer film is refused; where its length is not known, it is labelled up to this")
    return parser


class Desk:
    """Labels films one after another (concurrency_limit). folder: of the outputs, which gradio copies."""

    def __init__(self, recogniser, args, folder):
        self.recogniser, self.args, self.folder = recogniser, args, folder
        self.stop = SimpleNamespace(signal=None)

    def label(self, film, report):
        """(labelled film, timeline, rows of segments, files, sentence). VideoError, UserError: refused."""
        if not film:
            raise UserError("Drop a film, or record one, first.")
        path, args = Path(film), self.args
        if path.stat().st_size > args.max_megabytes * MB:
            raise UserError(f"The film has more than {args.max_megabytes:g} MB.")
        info = probe(path)
        if info.seconds > args.max_seconds:
            raise UserError(f"The film is longer than {args.max_seconds:g} s.")
        left = FilmFolder(Path(tempfile.mkdtemp(dir=self.folder), "film"))
        self.stop = stop = SimpleNamespace(signal=None)
        labeller = Labeller(self.recogniser, SimpleNamespace(**vars(args), video=True, gif=False), stop,
                            lambda **bar: contextlib.nullcontext(
                                Bar(report, stop, args.max_seconds * info.fps, bar["total"])))
        done = labeller.film(path, path.stem, left.path)
        rows = [[round(a, 2), round(b, 2), label, round(p, 3)] for a, b, label, p in done.segments]
        sentence = f"{len(rows)} segments in {done.seconds:.1f} s of film."
        if stop.signal:
            sentence += f" Labelled up to {args.max_seconds:g} s, the limit here."
        return (str(left.film), str(left.timeline), rows,
                [str(left.segments), str(left.predictions), str(left.subtitles)], sentence)

    def forget(self):
        """Delete outputs that are more than an hour old."""
        for old in self.folder.iterdir():
            if old.stat().st_mtime < time.time() - KEPT:
                shutil.rmtree(old, ignore_errors=True)


class Bar:
    """The progress of a film on the page; it stops the film after `most` frames."""

    def __init__(self, report, stop, most, total):
        self.report, self.stop, self.most, self.total, self.n = report, stop, most, total, 0

    def update(self, n=1):
        self.n += n
        if self.n > self.most:
            self.stop.signal = "length"
        if self.total and self.n % 5 == 0:
            self.report(min(self.n / self.total, 1), desc=f"frame {self.n} of {self.total}")


def make_page(gradio, desk, args):
    """The gradio.Blocks of the app."""
    classes = desk.recogniser.known
    with gradio.Blocks(title="What happens in this film?", delete_cache=(SWEEP, KEPT),
                       analytics_enabled=False) as page:
        gradio.HTML(f"<h1>What happens in this film, and when?</h1><p>At most {args.max_megabytes:g} MB and "
                    f"{args.max_seconds:g} s. The network knows these {len(classes)} classes only, and gives "
                    f"one of them for whatever it sees: {html.escape(cli.first(classes, 120))}.</p><p>A film "
                    "that the browser cannot play can still be labelled.</p>")
        film = gradio.Video(label="Film", sources=["upload", "webcam"], elem_id="film", height=HIGH,
                            webcam_options=gradio.WebcamOptions(mirror=False))
        button = gradio.Button("Label it", variant="primary", elem_id="label")
        sentence = gradio.Textbox(placeholder="Drop a film above, or record one, and press the button.",
                                  show_label=False, interactive=False, elem_id="said")
        with gradio.Column(visible=False) as results:       # no empty boxes before there is something in them
            labelled = gradio.Video(show_label=False, interactive=False, elem_id="labelled", height=HIGH,
                                    buttons=["download"])
            timeline = gradio.Image(show_label=False, interactive=False, elem_id="timeline",
                                    buttons=["download", "fullscreen"])
            table = gradio.Dataframe(headers=["from (s)", "to (s)", "label", "probability"], datatype="str",
                                     interactive=False, label="Segments", elem_id="segments")
            tables = gradio.Files(label="Tables to download", interactive=False, elem_id="files")
        progress = gradio.Progress()

        def label(film, report=progress):       # gradio looks for its Progress among the defaults
            try:
                return *desk.label(film, report), gradio.update(visible=True)
            except (VideoError, UserError) as error:
                reason = f"Cannot read this film ({error}). Try another, or convert it."
                reason = reason if isinstance(error, VideoError) else str(error)
                return None, None, [], [], reason, gradio.update(visible=False)
        button.click(label, film, [labelled, timeline, table, tables, sentence, results], concurrency_limit=1,
                     api_visibility="private", show_progress_on=sentence)
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def policy(app):
    """The ASGI app with POLICY in its answers; it fetches no addresses elsewhere."""
    async def call(scope, receive, send):
        async def headed(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)
        if "file=http" in scope.get("path", ""):
            scope = {**scope, "path": "/none", "raw_path": b"/none"}
        await app(scope, receive, headed)
    return call


def serve(gradio, page, args):
    """Start the server; its address. UserError: it cannot listen there."""
    from starlette.middleware import Middleware
    try:
        return page.launch(
            server_name=args.host, server_port=args.port or None, share=False, quiet=True,
            prevent_thread_lock=True, max_file_size=round(args.max_megabytes * MB), ssr_mode=False,
            pwa=False, footer_links=[], head=f"<script>\n{SCRIPT.read_text('utf-8')}</script>",
            app_kwargs={"middleware": [Middleware(policy)]},
            theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]))[1]
    except OSError as error:
        raise UserError(f"--port {args.port}: cannot listen at {args.host} ({str(error).splitlines()[0]}); "
                        f"try another --port") from None


def main():
    args = make_parser().parse_args()
    recogniser = utils.load_recogniser(args.model_dir, args.model_name, args.device, args.encoder_backend,
                                       args.encoder_precision, flow=args.flow)
    utils.say_least(args, recogniser)
    # Visitors' films are deleted when the terminal is closed too, unless nohup keeps the app running
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="lrcn-app-", ignore_cleanup_errors=True) as folder:
        written = Path(folder, "written")
        written.mkdir()
        # gradio sends nothing to anybody
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1",
                          GRADIO_TEMP_DIR=str(Path(folder, "served")))
        try:
            import gradio
        except ImportError:
            raise UserError("app.py needs gradio: pip install -r requirements-app.txt") from None
        desk = Desk(recogniser, args, written)
        page = make_page(gradio, desk, args)
        if args.host not in ("127.0.0.1", "localhost", "::1"):
            cli.warn(f"--host {args.host}: other machines can reach this page, and there is no password")
        cli.say(f"open {serve(gradio, page, args)}  (Ctrl-C ends it)")
        try:
            while not threading.Event().wait(SWEEP):
                desk.forget()
        except KeyboardInterrupt:
            cli.say("the app has ended; uploaded films are deleted")
        finally:
            desk.stop.signal = "end"
            page.close(verbose=False)


if __name__ == "__main__":
    cli.run(main)
