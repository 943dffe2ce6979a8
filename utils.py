"""What every script with a model needs: a device, a trained run, a training, and shared flags.

    device = choose_device("auto")
    trained = load_trained("20261121-110128")       # .model .classes .recipe .rate
    status = train(Recipe(...))                     # what train.py does
"""
import contextlib
import hashlib
import math
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import dataset
from lrcn import checkpoints
from lrcn.base import cli
from lrcn.base.cli import UserError
from lrcn.base.distributed import Rank, alone_environment, set_seed
from lrcn.base.lazy import Lazy
from lrcn.base.values import COUNT, POSITIVE, Number, number_or_all
from lrcn.data import fields
from lrcn.data.frames import CHUNK
from lrcn.data.learned import Learned
from lrcn.features import backbones, engines, store
from lrcn.features.engines import BACKENDS, PRECISIONS
from lrcn.features.features import Options
from lrcn.runs import RunFolder, checkpoint_path, new_run_folder
from lrcn.training import recipe as recipes
from lrcn.training import run as running
from lrcn.training.feeds import class_weights, make_feeds
from lrcn.training.loop import Learner
from lrcn.training.recipe import Recipe
from lrcn.training.run import STEPS, what_it_learned
from lrcn.video.flow import BACKENDS as FLOWS
from lrcn.video.flow import Flow
from lrcn.video.sampling import Rate
from lrcn.watching.recogniser import LEAST, Recogniser

torch = Lazy("torch")
models = Lazy("models")
surgery = Lazy("lrcn.features.surgery")

CHUNK_FLAGS = ("chunk_frames", "chunk_stride")
SAMPLING = Number(float, above=1e-6, high=1e6, none=True)
SPREAD = 1.5    # times the low one: with a higher high one, no one speed is that of the training


def choose_device(name="auto"):
    """torch.device of --device: auto takes CUDA, then Apple's mps, then the CPU."""
    if name == "auto":
        name = ("cuda" if torch.cuda.is_available() else
                "mps" if torch.backends.mps.is_available() else "cpu")
        if name == "cuda":
            name = f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not available on this machine ({str(error).splitlines()[0]}); try "
                        "auto or cpu") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32
        torch.backends.cudnn.allow_tf32 = True
    return device


# ---------------------------------------------------------------- a trained run

@dataclass
class Trained:
    """A model from a run folder, in eval mode, and what it was trained with."""
    model: "models.LRCN"
    classes: list
    settings: dict      # the recipe's, and how the clips were sampled
    recipe: Recipe
    checkpoint: Path
    folder: Path
    epoch: int
    learned: Learned = Learned()    # this training, and those before it

    @property
    def device(self):
        return next(self.model.parameters()).device

    @property
    def length(self):
        """Frames or chunks of a clip; where a video is read whole, as many as half of the training's had."""
        length = self.recipe.num_frames_video
        return self.settings["clip_frames"] if length == "all" else length

    @property
    def rate(self):
        """The sampling.Rate of the training clips' frames."""
        if not self.sees.chunk:
            return Rate.of(self.settings)
        rate = Rate.of({**self.settings, "frame_step": None})
        return rate if rate.sampling_rate else Rate(rate.FPS, rate.FPS / self.sees.rate)

    @property
    def sees(self):
        """The Transform that says what a step of a clip is: of several streams a video encoder's."""
        encoder = self.model.encoder
        return max((one.transform for one in getattr(encoder, "streams", [encoder])), key=lambda t: t.chunk)

    @property
    def chunk(self):
        """(frames of a step, from the first of one to that of the next); (1, 1) of an image encoder."""
        frames, stride, _ = self.recipe.chunk
        return (frames, self.settings.get("chunk_step") or stride) if frames else (1, 1)

    @property
    def step(self):
        """Seconds from one step of a clip to the next."""
        return self.rate.step * self.chunk[1]

    @property
    def frames(self):
        """How many sampled frames a clip spans."""
        return self.chunk[0] + (self.length - 1) * self.chunk[1]

    @property
    def flow(self):
        """The flow.Flow that the encoder sees, with as many fields; None where it sees none."""
        encoder = self.model.encoder
        lengths = [one.transform.flow_length for one in getattr(encoder, "streams", [encoder])
                   if "flow" in one.transform.parts]
        return replace(Flow.of(self.settings["flow"], "flow"), length=max(lengths)) if lengths else None


def build(state, source, stored=False):
    """(LRCN without weights, classes, settings, Recipe) of a checkpoint; UserError for something else.

    stored: its encoder is of weights alone, where those in the state tell enough (models.Encoder)."""
    checkpoints.check(state, source)
    settings = state.get("settings")
    recipe = Recipe.of(settings, source)
    for name in ("FPS", "sampling_rate", *STEPS):
        every = name == "sampling_rate" and settings.get(name) == 0     # frame of the source
        fault = not every and SAMPLING.fault(settings.get(name))
        if fault:
            raise UserError(f"{source}: settings: {name}: {fault}")
    fault = Number(int, low=1, high=100_000).fault(settings.get("clip_frames"))
    if fault and recipe.num_frames_video == "all":
        raise UserError(f"{source}: settings: clip_frames: {fault}")
    if "flow" in recipe.modality.split("+"):
        Flow.of(settings.get("flow"), f"{source}: settings: flow")
    checkpoints.check_weights(state.get("head"), f"{source}, head")
    with torch.device("meta"):      # one of other sizes than the weights is refused before it takes memory
        head = models.Head(**state["head_spec"])
    backbones.check_fit(head, state["head"], f"{source}, head,")
    encoder = models.encoder_from_spec(state["encoder_spec"], stored and state["encoder"],
                                       state["head_spec"]["feature_dim"])
    engines.keep(encoder, settings.get("engines"), source)
    head = models.Head(**state["head_spec"])
    if head.spec["feature_dim"] != encoder.feature_dim:
        raise UserError(f"{source}: its head reads {head.spec['feature_dim']} features and its encoder "
                        f"{encoder.name} gives {encoder.feature_dim}")
    for stream, own in zip(getattr(encoder, "streams", ()), getattr(encoder, "heads", ()), strict=True):
        if own.spec["feature_dim"] != stream.feature_dim:
            raise UserError(f"{source}: the head of a stream reads {own.spec['feature_dim']} features and "
                            f"its encoder {stream.name} gives {stream.feature_dim}")
    return models.LRCN(encoder, head), state["classes"], settings, recipe


def load_trained(model_dir, model_name=None, device="cpu", flag=None, stored=False):
    """The Trained of a run folder; UserError for a file that is no checkpoint or does not fit.

    stored: nothing but stored features is asked of its encoder, as long as there are."""
    path = checkpoint_path(model_dir, model_name, flag)     # before torch is loaded
    device = choose_device(device)
    flag = flag or ("model_name" if model_name else "model_dir")
    state, source = checkpoints.load_file(path, flag), f"--{flag} {path}"
    if stored:
        checkpoints.check(state, source)    # before it is told that its encoder is missing
        state["encoder"] = checkpoints.encoder_weights(state, path, flag)
    model, classes, settings, recipe = build(state, source, stored)
    checkpoints.restore(model, state, path, flag)
    epoch = state.get("epoch")
    return Trained(model.to(device).eval(), classes, settings, recipe, path, RunFolder.of(path).path,
                   epoch if isinstance(epoch, int) else 0, what_it_learned(state, path, flag))


def load_recogniser(run, checkpoint=None, device="auto", backend=None, precision=None, sampling_rate=None,
                    flow=None):
    """The Recogniser of a run, of films that are shown to it at the rate of its training clips, or as
    --sampling_rate says; on the run's own engine, unless a backend or precision is given; with fields of flow
    as in its training, or by --flow."""
    trained = load_trained(run, checkpoint, device)
    return Recogniser.of_run(trained, trained.device, backend, precision,
                             watching_rate(trained, sampling_rate), None, flow)


def watching_rate(trained, sampling_rate=None):
    """The Rate at which a film is shown to a run: that of its training clips, or --sampling_rate.

    Says the speed where the clips' own is not the one that they were sampled for, and warns where it differs
    from clip to clip.
    """
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
            cli.say(f"warning: the training clips' frames were {low:.3g} to {high:.3g} s apart, so no single "
                    f"speed matches them all; {rate.step:.3g} s is used (--sampling_rate "
                    f"{rate.sampling_rate:.3g})", file=sys.stderr)
    return rate


# ---------------------------------------------------------------- a network to train

def new_encoder(recipe, classes):
    """The encoder that a recipe names, with its weights.

    The feature store keeps one that stays as it is: from then on it is of weights alone (models.Encoder).
    """
    if recipe.streams:
        return joined_encoder(recipe, classes)
    set_seed(recipe.seed)
    if recipe.init_from:
        return begun_encoder(recipe)
    weights, path = recipe.encoder_weights, None
    if weights.lower() == "none":
        weights = None
    elif weights != "DEFAULT":
        path = cli.file("encoder_weights", weights, "give the path of a checkpoint file")
    kept = None
    if recipe.frozen and recipe.feature_cache and recipe.sampled_data_path:
        seen = {name: getattr(recipe, name) for name in (*recipes.OF_AN_ENCODER, "augment")}
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path else weights or recipe.seed
        kept = store.kept_encoder(recipe.sampled_data_path, [
            content, *(v for name, v in seen.items() if v is not None or name not in CHUNK_FLAGS)])
        if encoder := read_kept(kept):
            return encoder
    weights = checkpoints.load_file(path, "encoder_weights") if path else weights
    encoder = models.build_encoder(recipe.encoder, weights, recipe.img_dim, recipe.modality,
                                   recipe.flow_length, recipe.chunk_frames, recipe.chunk_stride,
                                   fit=recipe.resize, augment=recipe.augment)
    if kept:
        with contextlib.suppress(OSError):      # it is built again next time
            kept.parent.mkdir(parents=True, exist_ok=True)
            checkpoints.save_file(kept, {
                "encoder": encoder.state_dict(keep_vars=True), "encoder_spec": encoder.spec(),
                "feature_dim": encoder.feature_dim, "notes": encoder.notes, "name": kept.name})
    return encoder


def read_kept(path):
    """The encoder of weights alone in a file of the feature store; what building it said is said again. None
    where there is no whole one of this name."""
    with contextlib.suppress(UserError, LookupError, TypeError, ValueError, AttributeError):
        state = checkpoints.load_file(path, "sampled_data_path")
        checkpoints.check_spec(state["encoder_spec"], checkpoints.ENCODER, "")
        encoder = models.encoder_from_spec(state["encoder_spec"], state["encoder"], state["feature_dim"])
        if encoder.weights_alone and state["name"] == path.name:
            for line in state["notes"]:
                cli.say(line)
            return encoder
    return None


def begun_encoder(recipe):
    """The encoder of --init_from's run, which sees what the recipe says."""
    run = f"--init_from {recipe.init_from}"
    other = load_trained(recipe.init_from, flag="init_from").model.encoder
    if other.name != recipe.encoder:
        raise UserError(f"--encoder {recipe.encoder}: the weights are those of {run}, and it has "
                        f"{other.name}; leave the flag out")
    seen = other.transform
    seen = replace(seen.sized(recipe.img_dim), fit=recipe.resize, modality=recipe.modality,
                   flow_length=recipe.flow_length, augment=recipe.augment,
                   **dict(zip(CHUNK, recipe.chunk, strict=True)))
    encoder = models.encoder_from_spec({"name": other.name, **seen.spec()})
    backbones.check_fit(encoder, other.state_dict(), f"{run}: its encoder")
    encoder.load_state_dict(other.state_dict())
    chunk = f" --chunk_frames {seen.chunk} --chunk_stride {seen.chunk_stride}" if seen.chunk else ""
    cli.say(f"{run}: --encoder {other.name} --img_dim {seen.crop} --resize {seen.fit} --modality "
            f"{seen.modality} --flow_length {seen.flow_length}{chunk}")
    return encoder


def joined_encoder(recipe, classes):
    """models.Streams of the runs in --streams; UserError for runs that do not go together."""
    runs = [load_trained(run, flag="streams") for run in recipe.streams]
    if len(runs) < 2:
        raise UserError(f"--streams {recipe.streams[0]}: a fusion needs two or more runs")
    if not recipe.frozen:
        raise UserError(f"--train_encoder {recipe.train_encoder}: the encoders of --streams stay as they "
                        f"are; leave the flag out")
    if not recipe.feature_cache:
        raise UserError("--no-feature_cache: a head over --streams is trained on stored features; leave the "
                        "flag out")
    for run in runs:
        if isinstance(run.model.encoder, models.Streams):
            raise UserError(f"--streams {run.folder}: this is itself a fusion; give the runs that it "
                            f"is made of")
        if run.classes != classes:
            raise UserError(f"--streams {run.folder}: knows {len(run.classes)} classes, and the data has "
                            f"{len(classes)}, or others; train all on the same")
        if not math.isclose(run.step, runs[0].step, rel_tol=0.01):
            chunk = max(run.chunk[1], runs[0].chunk[1])
            how = f"one that reads frames with --stride {chunk}" if chunk > 1 else "with one --stride"
            raise UserError(f"--streams {run.folder}: its steps are {run.step:.3g} s apart, and those of "
                            f"{runs[0].folder} {runs[0].step:.3g} s; train both on one folder, {how}")
    names = " + ".join(run.model.encoder.name for run in runs)      # as fuse.py --train says it
    for name in (*recipes.OF_AN_ENCODER, "augment"):
        value = getattr(recipe, name)
        told = "modality", "flow_length", *CHUNK_FLAGS
        if name not in told and value not in (getattr(Recipe, name), names):
            raise UserError(f"--{name} {value}: --streams uses the encoders of its runs as they are; leave "
                            "the flag out")
    return models.Streams([run.model.encoder for run in runs], [run.model.head for run in runs])


def network_to_train(recipe, classes, device, encoder=None, model=None):
    """(LRCN, network that is trained, what encodes for its feature cache or None, optimiser groups).

    Frozen encoder: the head, on cached features. last:K: the blocks and the head, on cached
    activations of the part before them. Otherwise the whole network, on frames.
    encoder, model: new_encoder's of this recipe, or the LRCN, where it is there already; else they are new,
    with --init_from's weights where given.
    """
    if model is None:
        encoder = encoder or new_encoder(recipe, classes)
        set_seed(recipe.seed)  # the head's weights do not depend on how the encoder came to be
        model = models.LRCN(encoder, models.Head.of(recipe, encoder.feature_dim, len(classes)))
        if recipe.init_from:
            other = load_trained(recipe.init_from, flag="init_from").model
            for line in checkpoints.take_over(model, other):
                cli.say(line)
    model.to(device).encoder.requires_grad_(False)
    groups = [{"params": list(model.head.parameters()), "lr": recipe.lr}]
    if recipe.frozen:
        if recipe.train_batch_norm:
            raise UserError("--train_batch_norm: the encoder is frozen; train some of it with "
                            "--train_encoder last:K or all, or leave the flag out")
        return model, *((model.head, model.encoder) if recipe.feature_cache else (model, None)), groups
    last = recipe.last_blocks
    groups.append({"params": surgery.unfreeze(model.encoder, last), "lr": recipe.encoder_lr})
    if recipe.train_batch_norm:
        model.encoder.moving_statistics = surgery.last_units(model.encoder.backbone, last)
    if recipe.recompute:
        surgery.recompute_activations(model.encoder)
    parts = surgery.cut(model.encoder, last) if last and recipe.feature_cache else None
    if parts:
        return model, models.Tail(model.encoder, parts[1], model.head), parts[0], groups
    if last and recipe.feature_cache:
        cli.say(f"{recipe.encoder} cannot be cut before its last {last} blocks: every epoch encodes the "
                "frames again")
    return model, model, None, groups


def train(recipe, checkpoint=None, device=None, rank=None):
    """Train a run, new or from a checkpoint; its exit status, as of Run.go. Says the run folder last.

    recipe, checkpoint: those of recipe.parse. UserError: another training is at work in the folder.
    """
    device, rank = device or choose_device(recipe.device), rank or Rank()
    before = RunFolder.of(checkpoint) if checkpoint else None
    resumed = before if before and checkpoint.parent == before.checkpoints else None
    with contextlib.ExitStack() as held:
        if resumed and rank.first:  # before its checkpoint is read, which another training may go past
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
                    f"classes: {', '.join(classes[:8])}{' ...' * (len(classes) > 8)}")
        model = None
        if state:
            source = f"--checkpoint_path {checkpoint}"
            model, known, *_ = build(state, source)
            if known != classes:
                raise UserError(f"{source}: trained on {len(known)} classes, and the data has "
                                f"{len(classes)}; give the flags and folders of that run")
            checkpoints.restore(model, state, checkpoint, "checkpoint_path")
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
        if rank.first:  # after the encoding, lest one that was stopped leaves an empty run folder
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
            run.take_up(state, source)
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


def add_speed_flag(parser):
    """--sampling_rate of the scripts that show films to a run."""
    parser.add_argument("--sampling_rate", type=Number(float, above=0), default=None, metavar="X",
                        help="sample FPS / X frames a second (default: as in the training clips)")


def add_flow_flag(parser):
    """--flow of the scripts that show films to a run."""
    parser.add_argument("--flow", choices=FLOWS, default=None, help="method of optical flow, for a run that "
                                                                    "uses it (default: as in the training)")


def add_label_flags(parser):
    """What the scripts that label films make of a moment's probabilities."""
    parser.add_argument("--min_probability", type=Number(float, low=0, high=1), default=None,
                        help="a less probable label is shown as unsure (default: the lowest at which nine of "
                             f"ten answers on the validation part were right, {LEAST} where none is)")
    parser.add_argument("--min_segment", type=Number(float, low=0), default=1.0,
                        help="seconds; a shorter segment joins a neighbour")
    add_flow_flag(parser)
    add_time_limit(parser)


def say_least(args, recogniser):
    """Say what stands in the place of --min_probability, where it was not given."""
    if args.min_probability is None:
        cli.say(f"--min_probability {recogniser.least():.3g}: " + (
            "the lowest at which nine of ten answers on the validation part were right"
            if recogniser.min_probability is not None else "the default; this run's validation gives none"))


def add_time_limit(parser):
    parser.add_argument("--time_limit", type=Number(float, above=0), default=120, metavar="SECONDS",
                        help="give up a film whose decoder takes longer than this for one step")


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
