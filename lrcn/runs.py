"""The run folder: every file name in it, once."""
import contextlib
import importlib.metadata
import itertools
import platform
import time
from pathlib import Path

from lrcn.base import UserError, cli, files

ENDING = ".pth.tar"


def _named(name):
    """A property: the path of this name in the folder."""
    return property(lambda folder: folder.path / name)


class _Folder:
    def __init__(self, path):
        self.path = Path(path)

    def __str__(self):
        return str(self.path)


class TestFolder(_Folder):
    """What test.py leaves (and fuse.py, of several runs)."""
    __test__ = False    # for pytest: this is no test
    metrics, predictions = _named("metrics.json"), _named("predictions.csv")
    mistakes, command = _named("mistakes.csv"), _named("command.txt")
    confusion, confusion_picture = _named("confusion_matrix.csv"), _named("confusion_matrix.png")
    accuracy, accuracy_picture = _named("accuracy_per_class.csv"), _named("accuracy_per_class.png")
    figures, videos, reliability = _named("figures"), _named("videos"), _named("reliability.png")

    def clip(self, cls, name, right):
        """The labelled clip of a video; two classes may have a video of one name."""
        return self.videos / cls / f"{name}_{'right' if right else 'wrong'}.mp4"


class StudyFolder(_Folder):
    """What test_continues_movie.py leaves, of one run or of several."""
    metrics, windows, movie = _named("metrics.json"), _named("windows.csv"), _named("movie.mp4")
    movie_gif, window_gif = _named("movie.gif"), _named("sliding_window.gif")
    command = _named("command.txt")
    comparison, comparison_table = _named("comparison.json"), _named("comparison.csv")


class FilmFolder(_Folder):
    """What test_on_video.py leaves of one film."""
    predictions, segments = _named("predictions.csv"), _named("segments.csv")
    film, gif, timeline = _named("labelled.mp4"), _named("labelled.gif"), _named("timeline.png")
    subtitles = _named("segments.srt")
    truth, wrong = _named("truth.json"), _named("wrong.csv")


class ExportFolder(_Folder):
    """What export.py leaves."""

    def part(self, name, format):
        """The file of the whole model, the encoder or the head, of the format onnx or torch."""
        return self.path / f"{name}.{({'onnx': 'onnx', 'torch': 'pt2'})[format]}"


class RunFolder(_Folder):
    """What train.py leaves, with the places of what other scripts add."""
    settings, splits, metrics = _named("settings.json"), _named("splits.csv"), _named("metrics.csv")
    figures, report, report_clips = _named("figures"), _named("report.html"), _named("report_clips")
    checkpoints = _named("Saved_model_checkpoint")
    study = property(lambda run: StudyFolder(run.path / "test_continues_movie"))
    test = property(lambda run: TestFolder(run.path / "test"))
    films, clips = _named("test_on_video"), _named("find_clips")
    export = property(lambda run: ExportFolder(run.path / "export"))

    def test_on(self, name):
        """What test.py leaves of another folder of classes."""
        return TestFolder(self.path / "test_on_folder" / name)

    def film(self, name):
        return FilmFolder(self.films / name)

    def checkpoint(self, name):
        """The file of the checkpoint `name`: best, last, epoch_5, or encoder for the frozen one."""
        return self.checkpoints / f"{name}{ENDING}"

    def lock(self, flag):
        """Hold this folder for one training; UserError names another that holds it."""
        return files.lock(self.path, flag, "another training")

    @classmethod
    def of(cls, file):
        """The run folder of a checkpoint or exported file, or the folder that it was copied to."""
        folder, own = Path(file).parent, cls("")
        return cls(folder.parent if folder.name in (own.checkpoints.name, own.export.path.name) else folder)


class TuningFolder(_Folder):
    """What tune.py leaves."""
    table, text, picture = _named("tune.csv"), _named("tune.md"), _named("tune.png")
    settings, folds, journal = _named("settings.json"), _named("folds.csv"), _named("trainings.jsonl")

    def refit(self, seed):
        """The run of the best setting on the whole training list, with this seed."""
        return RunFolder(self.path / "refit" / f"seed_{seed}")


def check_name(name, local_dir, open_new_folder="True"):
    """UserError where a new run folder cannot have this --name."""
    if name in (".", "..") or Path(name).name != name:
        raise UserError(f"--name {name}: expected a name without slashes; --local_dir says where it is made")
    if str(open_new_folder).strip("'\"‘’").lower() != "true":
        raise UserError(f"--name {name}: --open_new_folder {open_new_folder} says where the run goes; leave "
                        f"one of the two flags out")
    if Path(local_dir).expanduser().joinpath(name).exists():
        raise UserError(f"--name {name}: there is a run of this name in --local_dir {local_dir}; choose "
                        f"another name, or go on with it: --resume {Path(local_dir) / name}")


def new_run_folder(local_dir, open_new_folder, ending="", name=None):
    """Make the run folder by --open_new_folder: True a new one called `name`, or the time and `ending`; debug
    <local_dir>/debug; False local_dir itself."""
    local_dir = Path(local_dir).expanduser()
    mode = str(open_new_folder).strip("'\"‘’").lower()
    if mode not in ("true", "debug", "false"):
        raise UserError(f"--open_new_folder {open_new_folder}: expected True, False or debug")
    try:
        local_dir.mkdir(parents=True, exist_ok=True)
        if mode != "true":
            folder = local_dir / "debug" if mode == "debug" else local_dir
            folder.mkdir(exist_ok=True)
            return folder
        name = name or time.strftime("%Y%m%d-%H%M%S") + ending
        for number in itertools.count(1):  # another run may have started in the same second
            folder = local_dir / (name if number == 1 else f"{name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise UserError(f"--local_dir {local_dir}: cannot make the run folder ({error.strerror})") from None


def newest_run(local_dir):
    """The newest run folder below local_dir that has a last.pth.tar; UserError when there is none."""
    local_dir = Path(local_dir).expanduser()
    started = [run for path in local_dir.glob("*") if (run := RunFolder(path)).checkpoint("last").is_file()]
    if not started:
        raise UserError(f"--resume auto: no run folder with a last{ENDING} below --local_dir {local_dir}")
    return max(started, key=lambda run: run.checkpoint("last").stat().st_mtime_ns).path


def checkpoint_path(model_dir, model_name=None, flag=None):
    """The checkpoint of --model_dir (a run folder, its checkpoint folder, or a checkpoint) and --model_name
    (default: best.pth.tar, else last.pth.tar). flag: the one that named the folder (default: --model_dir)."""
    named = flag or "model_dir"
    if not model_name and Path(model_dir).expanduser().is_file():
        return Path(model_dir).expanduser()
    folder = cli.folder(named, model_dir, "give the run folder that train.py printed")
    inside = RunFolder(folder).checkpoints
    folder = inside if inside.is_dir() else folder
    names = [model_name, f"{model_name}{ENDING}"] if model_name else [f"best{ENDING}", f"last{ENDING}"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    have = sorted(p.name for p in folder.glob(f"*{ENDING}") if p.name != f"encoder{ENDING}")
    if not have and not model_name:
        raise UserError(f"--{named} {model_dir}: this is no run folder (no checkpoint in it); give the "
                        f"folder that train.py printed")
    fault = f"--{flag} {model_dir}: no {names[0]}" if flag else f"--model_name {names[0]}: no such checkpoint"
    raise UserError(f"{fault} in {folder}; there: {', '.join(have) or 'none'}")


def versions():
    """Versions, machine and command line, for settings.json."""
    import cv2
    import torch
    return {"python": platform.python_version(), "torch": torch.__version__,
            "torchvision": importlib.metadata.version("torchvision"), "opencv": cv2.__version__,
            "machine": f"{platform.system()} {platform.machine()}", "command": cli.command()}


def loss_words(settings):
    """A sentence on what the training loss of a run with these settings holds and its validation loss does
    not; "" where they are the same."""
    held = [f"{word} ({settings[name]:g})" for name, word in (("label_smoothing", "label smoothing"),
                                                              ("mixup", "mixup"))
            if isinstance(settings.get(name), int | float) and settings[name] > 0]
    return f"The training loss holds {' and '.join(held)}; the validation loss does not." if held else ""
