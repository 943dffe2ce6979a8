"""Label films, or review clips, by pressing keys in a page; films become a trained network.

    pip install -r requirements-app.txt
    python teach.py --video_path my_films                           # then press keys in the page that opens
    python teach.py --video_path my_films --classes jump,wave --output_dir my_labels
    python teach.py --video_path my_films --output_dir my_labels --finish
    python teach.py --sampled_data_path my_clips                    # review the clips of a data set
    python teach.py --candidates my_candidates/candidates.csv       # or the candidates of find_clips.py

Films: a moment plays in a loop, and a key gives its class; a network is trained again after each key, and
asks next where its confidence is low. --output_dir holds labels.csv, and after --finish clips, a data set
and runs; --finish prints the run folder as the last line (docs/teaching.md). Clips: the most suspicious
come first, and decisions go to review.csv, which preprocessing_data.py and find_clips.py --from follow
(docs/reviewing.md). Only this machine can open the page. Ctrl-C ends it; the same command goes on.
"""
import importlib
import importlib.util
import subprocess
import sys
import webbrowser
from pathlib import Path

import networks
import utils
from lrcn.base import Lazy, UserError, cli, files, inference_mode
from lrcn.base.distributed import alone_environment
from lrcn.base.values import Names, Number, Text
from lrcn.data.manifest import sampling_settings
from lrcn.features.features import Options, softmax
from lrcn.teaching import server
from lrcn.teaching.labels import Labels
from lrcn.teaching.review import of_candidates, of_clips
from lrcn.teaching.session import Session
from lrcn.training.recipe import Recipe
from lrcn.video.sampling import Rate
from lrcn.watching.candidates import Stretch, check_class, write_stretches
from lrcn.watching.films import find_films

torch = Lazy("torch")

ROOT = Path(__file__).parent
MODALITIES = ("rgb", "rgbdiff", "rgb+rgbdiff")


def make_parser():
    parser = cli.Parser(__doc__)
    films, page, done = (parser.group(title) for title in ("films", "page", "from labels to a run"))
    films.add_argument("--video_path", metavar="X", help="a film, or a folder of films")
    films.add_argument("--sampled_data_path", "--sampled_data_dir", metavar="DIR",
                       help="look through the clips of this folder of preprocessing_data.py")
    films.add_argument("--candidates", metavar="CSV",
                       help="look through these of find_clips.py; their ends can be moved where their films "
                            "are there (default of --video_path: where find_clips.py found them)")
    films.add_argument("--output_dir", default="my_labels", metavar="DIR", help="where labels and runs go")
    films.add_argument("--classes", type=Names(), default=None, metavar="A,B,...",
                       help="classes to begin with; the page takes new ones")
    films.add_argument("--background", type=Text(), default=None, metavar="NAME",
                       help="key 0's moments become clips of this class (default: they become none)")
    films.add_argument("--clip_seconds", type=Number(float, low=0.5, high=60), default=2.0,
                       help="length of a moment")
    utils.add_model_flags(parser, required=False)
    parser.leading = None
    network = parser.group("network")
    network.add_argument("--encoder", default=None, help="torchvision model, or timm/NAME (default: "
                         "timm/tf_efficientnet_lite0 where timm is installed, else resnet18)")
    network.add_argument("--encoder_weights", default="DEFAULT", metavar="DEFAULT|none|PATH",
                         help="the library's ImageNet weights, none, or a state dict file")
    network.add_argument("--modality", choices=MODALITIES, default="rgb",
                         help="what the encoder sees: frames, their differences, or both")
    page.add_argument("--port", type=Number(int, low=0, high=65535), default=0, help="0: any free one")
    page.add_boolean("--open", default=True, help="open the page in a browser")
    done.add_boolean("--finish", default=False, help="make clips, data set and run, without the page")
    return parser


def check(args):
    """{name: Path} of the films; UserError: a flag is wrong."""
    if not args.video_path:
        raise UserError("--video_path is missing: give a film or a folder of films")
    films = find_films(args.video_path)
    if args.background:
        check_class(args.background, f"--background {args.background}")
    for name in args.classes or ():
        check_class(name, f"--classes {name}")
        if name == args.background:
            raise UserError(f"--background {name}: it is also in --classes; remove it there")
    if args.model_dir and (args.encoder or args.encoder_weights != "DEFAULT" or args.modality != "rgb"):
        raise UserError("--model_dir: the encoder is that of the run; leave --encoder, --encoder_weights and "
                        "--modality out")
    if args.finish and not Path(args.output_dir, "labels.csv").expanduser().is_file():
        raise UserError(f"--output_dir {args.output_dir}: no labels.csv in this folder; label moments first, "
                        f"without --finish")
    return films


def encoder_name(args):
    return args.encoder or ("timm/tf_efficientnet_lite0" if importlib.util.find_spec("timm") else "resnet18")


def make_encoder(args, sampled):
    """(encoder, features.Options, classes of the run, Rate, prior as of Session) as the flags say. sampled:
    folder of the frames."""
    device = utils.choose_device(args.device)
    options = Options(device, args.num_workers, backend=args.encoder_backend or "auto",
                      precision=args.encoder_precision or "auto")
    if not args.model_dir:
        recipe = Recipe(sampled_data_path=str(sampled), encoder=encoder_name(args),
                        encoder_weights=args.encoder_weights, modality=args.modality)
        if recipe.chunk[0]:
            raise UserError(f"--encoder {args.encoder}: it reads chunks of frames; give one of single frames")
        return networks.new_encoder(recipe, []), options, [], Rate(), None
    trained = utils.load_trained(args.model_dir, args.model_name, args.device)
    if trained.flow or trained.sees.chunk:
        raise UserError(f"--model_dir {args.model_dir}: it sees "
                        f"{'optical flow' if trained.flow else 'chunks of frames'}; "
                        f"give a run of single frames or their differences")

    @inference_mode
    def prior(values):
        times = [round(i * (len(values) - 1) / max(1, trained.length - 1)) for i in range(trained.length)]
        window = torch.from_numpy(values[times])[None].to(device)
        return softmax(trained.model.head.eval()(window).float())[0].cpu().numpy()
    options = utils.encoding_options(args, trained)
    return trained.model.encoder, options, trained.classes, utils.watching_rate(trained), prior


def finisher(args, films, out):
    """What makes a run of labels: ([Label], say(line)) -> its folder. UserError: it cannot be made."""
    def run(say, script, *words):
        """Run a script of this folder; its last line."""
        say(f"--- {script}")
        process = subprocess.Popen([sys.executable, str(ROOT / script), *map(str, words)], text=True,
                                   env=alone_environment(), stdout=subprocess.PIPE, errors="replace",
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        last = ""
        for line in process.stdout:
            last = line.rstrip("\n") or last
            say(line.rstrip("\n"))
        if process.wait():
            raise UserError(f"{script} ended with exit status {process.returncode}: {last}")
        return last

    def finish(labels, say):
        rows = [label for label in labels if label.label or label.kind == "none" and args.background]
        table = [Stretch(row.film, row.label or args.background, row.start, row.end) for row in rows
                 if row.film in films]
        if len({row.cls for row in table}) < 2:
            raise UserError(f"--output_dir {out}: the {len(table)} labels are not of two classes or more; "
                            f"label moments of another class first")
        if len(rows) > len(table):
            say(f"{len(rows) - len(table)} labels are of films that are not in {args.video_path}")
        write_stretches(out / "clips.csv", table)
        clips, sampled = out / "clips", out / "sampled"
        run(say, "find_clips.py", "--from", out / "clips.csv", "--video_path", args.video_path,
            "--output_dir", clips)
        run(say, "preprocessing_data.py", "--row_data_dir", clips, "--sampled_data_dir", sampled)
        machine = ["--device", args.device, "--num_workers", args.num_workers]
        chosen = {"init_from": args.model_dir} if args.model_dir else {
            "encoder": encoder_name(args), "encoder_weights": args.encoder_weights, "modality": args.modality}
        chosen |= {"encoder_backend": args.encoder_backend, "encoder_precision": args.encoder_precision,
                   "background": args.background in {row.cls for row in table} and args.background}
        folder = run(say, "train.py", "--sampled_data_path", sampled, "--local_dir", out / "runs", *machine,
                     *(word for name, value in chosen.items() if value for word in (f"--{name}", value)))
        run(say, "test.py", "--model_dir", folder, *machine)
        return folder
    return finish


def look_through(args):
    """The page for clips that are there already."""
    flag = "sampled_data_path" if args.sampled_data_path else "candidates"
    if args.sampled_data_path and args.candidates:
        raise UserError("--candidates: --sampled_data_path shows other clips; give one of them")
    if args.model_dir:
        raise UserError("--model_dir: networks that have not seen the clips judge them; choose what they see "
                        "with --encoder")
    if args.candidates:
        table = cli.file(flag, args.candidates, "give the candidates.csv of find_clips.py")
        folder = table.parent
    else:
        folder = cli.folder(flag, args.sampled_data_path, "give the folder that preprocessing_data.py wrote")
    with files.lock(folder, flag, "another teach.py", name=".review.lock"):
        if args.candidates:
            known = sampling_settings(folder).get("video_path")
            films = args.video_path or known and Path(known).exists() and known
            serve(args, of_candidates(table, find_films(films) if films else None), lambda: None)
        else:
            review = of_clips(folder)
            serve(args, review, lambda: review.start(lambda: make_encoder(args, folder)[:2]))


def serve(args, page, begin):
    """Serve a page until Ctrl-C. begin: is called when it can be opened."""
    def opened(address):
        begin()
        cli.say(f"open {address}  (Ctrl-C ends it)")
        if args.open:
            webbrowser.open(address)
    server.serve(page, args.port, opened)


def main():
    args = make_parser().parse_args()
    if args.encoder_weights not in ("DEFAULT", "none"):
        cli.file("encoder_weights", args.encoder_weights, "give the path of a checkpoint file")
    looks = args.sampled_data_path or args.candidates
    films = None if looks else check(args)
    for name in ("starlette", "uvicorn") if looks or not args.finish else ():
        if not importlib.util.find_spec(name):
            raise UserError(f"teach.py needs {name}: pip install -r requirements-app.txt")
    if looks:
        return look_through(args)
    out = files.output_folder("output_dir", args.output_dir, Path(args.video_path).expanduser())
    with files.lock(out, "output_dir", "another teach.py"):
        choices = {"teach": "films", "clip_seconds": args.clip_seconds}
        files.claim(out, "output_dir", choices, choices)
        finish = finisher(args, films, out)
        if args.finish:
            cli.say(finish(list(Labels(out).now.values()), cli.say))
            return
        encoder, options, known, rate, prior = make_encoder(args, out / "frames")
        session = Session(out, films, args.classes or (), args.clip_seconds, rate, args.background, finish,
                          known, prior)
        try:
            serve(args, session, lambda: session.start(encoder, options))
        finally:
            session.close()


if __name__ == "__main__":
    cli.run(main)
