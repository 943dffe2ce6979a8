"""What every script with a model needs: a training, a run that watches films, and shared flags."""
import contextlib
from pathlib import Path

import dataset
from lrcn import checkpoints
from lrcn.base import Lazy, UserError, cli
from lrcn.base.distributed import Rank, alone_environment, choose_device
from lrcn.base.values import COUNT, POSITIVE, Number, number_or_all
from lrcn.data import fields
from lrcn.features.engines import BACKENDS, PRECISIONS
from lrcn.features.features import Options
from lrcn.runs import RunFolder, new_run_folder
from lrcn.training import run as running
from lrcn.training.feeds import class_weights, make_feeds
from lrcn.training.loop import Learner
from lrcn.training.run import STEPS
from lrcn.video.flow import BACKENDS as FLOWS
from lrcn.video.sampling import Rate
from lrcn.watching.recogniser import LEAST, Recogniser
from networks import build, load_trained, network_to_train

torch = Lazy("torch")

SPREAD = 1.5    # times the low one: with a higher high one, no one speed is that of the training


def load_recogniser(run, checkpoint=None, device="auto", backend=None, precision=None, sampling_rate=None,
                    flow=None):
    """The Recogniser of a run. Rate, engine and flow are those of its training, but for what is given."""
    trained = load_trained(run, checkpoint, device)
    return Recogniser.of_run(trained, trained.device, backend, precision,
                             watching_rate(trained, sampling_rate), None, flow)


def watching_rate(trained, sampling_rate=None):
    """The Rate at which a film is shown to a run: that of its training clips, or --sampling_rate. Says where
    the clips' rate is not the one asked for, and warns where it differs from clip to clip."""
    rate, asked = trained.rate, Rate.of({**trained.settings, "frame_step": None})
    if sampling_rate is not None:
        return Rate(rate.FPS, sampling_rate)
    step, low, high = map(trained.settings.get, STEPS)
    if trained.recipe.num_frames_video == "all":
        cli.say(f"this run reads whole videos; of a film it reads {trained.length} {trained.sees.unit} at a "
                f"time, the median of its training videos")
    if step and trained.length > 1 and not trained.sees.chunk:
        if rate != asked and asked.sampling_rate:
            why = ("which are spread over their videos" if trained.recipe.spread else
                   f"not {asked.step:.3g} s, for which they were too short")
            cli.say(f"frames are {rate.step:.3g} s apart, as in half of the training clips ({why})")
        if high and low and high > SPREAD * low:
            cli.warn(f"warning: the training clips' frames were {low:.3g} to {high:.3g} s apart, so no "
                     f"single speed matches them all; {rate.step:.3g} s is used (--sampling_rate "
                     f"{rate.sampling_rate:.3g})")
    return rate


def train(recipe, checkpoint=None, device=None, rank=None):
    """Train a run, new or from a checkpoint, both of recipe.parse; the exit status of Run.go. UserError:
    another training is at work in the folder."""
    device, rank = device or choose_device(recipe.device), rank or Rank()
    before = RunFolder.of(checkpoint) if checkpoint else None
    resumed = before if before and checkpoint.parent == before.checkpoints else None
    with contextlib.ExitStack() as held:
        if resumed and rank.first:  # first: another training may write the checkpoint
            held.enter_context(resumed.lock("resume"))
        state = checkpoints.load_file(checkpoint, "checkpoint_path") if checkpoint else None
        say = cli.say if rank.first else dataset.silent
        samples, classes = dataset.training_samples(recipe, before, say)
        recipe.background_of(classes)
        learned = dataset.before_training(recipe, state, checkpoint, samples, say)
        learned = learned.after([v for v in samples if v.part == "train"], recipe.frozen)
        fields.require(recipe.sampled_data_path, recipe, state and state["settings"].get("flow"))
        if rank.first:
            counts = [(sum(s.part == part for s in samples), word) for part, word in
                      (("train", "training"), ("val", "validation"), ("test", "test"))]
            cli.say(f"{', '.join(f'{n} {word}' for n, word in counts if n)} videos of {len(classes)} "
                    f"classes: {cli.first(classes, 8)}")
        model = None
        if state:
            model, known, *_ = build(state, checkpoint, "checkpoint_path")
            if known != classes:
                raise UserError(f"--checkpoint_path {checkpoint}: trained on {len(known)} classes, and the "
                                f"data has {len(classes)}; give the flags and folders of that run")
        model, network, encoder, groups = network_to_train(recipe, classes, device, model=model)
        feeds = make_feeds(recipe, model, encoder, samples, device, rank)
        if network is model.head:   # a head on cached features trains in seconds: rank 0 does it alone
            if not rank.first:
                return 0
            rank = Rank()
        elif rank.world > 1:
            network = torch.nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)
        weights = class_weights(recipe, feeds[0].labels, classes)
        learner = Learner(network, groups, recipe, feeds[0], device, rank, weights)
        settings, folder, album = running.saved_settings(recipe, samples, model.encoder), None, None
        if rank.first:  # after the encoding: stopped there, it leaves no empty run folder
            from lrcn.training.album import Album
            folder = resumed or RunFolder(new_run_folder(recipe.local_dir, recipe.open_new_folder, "",
                                                         recipe.name))
            if not resumed:
                held.enter_context(folder.lock("local_dir"))
            settings["device_used"] = str(device)
            running.fill_folder(folder, resumed, recipe, settings, classes, samples, model)
            album = Album(folder, recipe, classes, samples, state["progress"]["epoch"] if state else None)
        run = running.Run(model, learner, feeds, settings, classes, learned, folder, album)
        if state:
            run.take_up(state, f"--checkpoint_path {checkpoint}")
        return run.go()


def test(folder, device, *flags):
    """Test a run as a user does, by test.py in a process of its own; its exit status."""
    return cli.run_script(Path(__file__).with_name("test.py"), "--model_dir", folder, *flags, "--device",
                          device, env=alone_environment())


# ---------------------------------------------------------------- flags

def add_model_flags(parser, several=False, required=True,
                    batch_size="accepted for old command lines; result and speed do not depend on it"):
    """The flags that every script with a trained model shares. batch_size: what that flag is for."""
    network, machine = parser.group("network"), parser.group("machine")
    network.add_argument("--model_dir", "--checkpoint_model", dest="model_dir", required=required,
                         metavar="RUN", nargs="+" if several else None,
                         help="run folder of train.py, its Saved_model_checkpoint, or a checkpoint file; the "
                              "flag's name may be left out where it comes first")
    parser.leading = "--model_dir"
    network.add_argument("--model_name", default=None, metavar="FILE",
                         help="checkpoint in it (default: best.pth.tar)")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    machine.add_argument("--encoder_backend", choices=BACKENDS, default=None,
                         help="library that runs the encoder (default: as in the training)")
    machine.add_argument("--encoder_precision", choices=PRECISIONS, default=None,
                         help="precision of the encoder (default: as in the training)")
    machine.add_argument("--num_workers", type=COUNT, default=4, help="workers that decode frames")
    machine.add_argument("--batch_size", type=POSITIVE, default=32, help=batch_size)


def encoding_options(args, trained, **more):
    """features.Options of a script that encodes for a trained model. more: of Options."""
    return Options(trained.device, args.num_workers, trained.recipe.seed,
                   backend=args.encoder_backend or trained.recipe.encoder_backend,
                   precision=args.encoder_precision or trained.recipe.encoder_precision, **more)


def add_film_flags(parser, speed=True):
    """How the scripts that show films to a run read them. speed: with --sampling_rate."""
    if speed:
        parser.add_argument("--sampling_rate", type=Number(float, above=0), default=None, metavar="X",
                            help="sample FPS / X frames a second (default: as in the training clips)")
    parser.add_argument("--flow", choices=FLOWS, default=None, help="method of optical flow, for a run that "
                                                                    "uses it (default: as in the training)")
    parser.add_argument("--time_limit", type=Number(float, above=0), default=120, metavar="SECONDS",
                        help="give up a film whose decoder takes longer than this for one step")


def add_label_flags(parser):
    """When a film's label is shown as unsure, and which segments are too short."""
    parser.add_argument("--min_probability", type=Number(float, low=0, high=1), default=None,
                        help="a less probable label is shown as unsure (default: the lowest at which nine of "
                             f"ten answers on the validation part were right, {LEAST} where none is)")
    parser.add_argument("--min_segment", type=Number(float, low=0), default=1.0,
                        help="seconds; a shorter segment joins a neighbour")


def say_least(args, recogniser):
    """Say what stands in the place of --min_probability, where it was not given."""
    if args.min_probability is None:
        cli.say(f"--min_probability {recogniser.least():.3g}: " + (
            "the lowest at which nine of ten answers on the validation part were right"
            if recogniser.min_probability is not None else "the default; this run's validation gives none"))


def add_data_flags(parser):
    """Where the test clips are, and which of them count."""
    data = parser.group("data")
    data.add_argument("--sampled_data_path", "--sampled_data_dir", dest="sampled_data_path", metavar="DIR",
                      help="folder that preprocessing_data.py wrote (default: that of the training)")
    data.add_argument("--ucf_list_dir", metavar="DIR",
                      help="folder of the split lists (default: that of the training)")
    data.add_argument("--split", choices=["1", "2", "3"], default=None,
                      help="official split (default: that of the training)")
    parser.group("machine").add_boolean("--feature_cache", default=True,
                                        help="keep the features on disk, shared by all scripts")


def add_windows_flags(group):
    """How much of a test video is looked at."""
    group.add_argument("--test_windows", type=number_or_all, default=1, metavar="N|all",
                       help="windows of a video whose probabilities are averaged; more than one needs videos "
                            "sampled with --num_frames_to_extract all")
    group.add_boolean("--flip", default=False, help="average over every window and its mirror image")
