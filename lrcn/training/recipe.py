"""A run's choices: one dataclass, from which train.py's flags are made, and which a checkpoint keeps."""
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path

from lrcn import checkpoints, runs
from lrcn.base import UserError, cli, files, values
from lrcn.base.values import COUNT, POSITIVE, POSITIVE_OR_NONE, Choice, Names, Number, Pattern, Switch, Text
from lrcn.checkpoints import ACTIVATIONS, PROJECTIONS, READOUTS, RNNS
from lrcn.data.chunks import LONGEST_CHUNK, chunk_of
from lrcn.data.frames import AUGMENT, FITS, MODALITIES
from lrcn.features.engines import BACKENDS, PRECISIONS
from lrcn.video.flow import LONGEST

SHARE, ABOVE_ZERO, FROM_ZERO = Number(float, above=0, below=1), Number(float, above=0), Number(float, low=0)
BELOW_ONE, CHUNK = Number(float, low=0, below=1), Number(int, low=1, high=LONGEST_CHUNK, none=True)


def flag(group, default, kind, help, metavar=None, names=(), decides=None):
    """A field of Recipe and its flag. names: of the flag, where the field's own is not enough.

    decides: the first of these that its value changes, from which every key and refusal follows:
      place     nothing: where data lie that are known by their content
      parts     which videos there are, and in which part
      encoder   the encoder, its weights, and the views and features that it gives
      clips     which clips of a video are seen
      head      the head, or the optimiser, whose state a checkpoint holds
      steps     how it is trained
      nothing   neither weights nor answers
    By default the earliest of its group, so that a new flag is in every key.
    """
    usual = {"data": "parts", "network": "encoder", "training": "encoder"}
    return field(default=default, metadata=dict(group=group, kind=kind, help=help, metavar=metavar,
                                                names=names, decides=decides or usual.get(group, "nothing")))


data, network, training, output, machine = (
    partial(flag, group) for group in ("data", "network", "training", "output", "machine"))
place, steps = partial(data, decides="place"), partial(training, decides="steps")
clips, head = partial(network, decides="clips"), partial(network, decides="head")
engine = partial(machine, decides="encoder")


@dataclass(frozen=True)
class Recipe:
    """Every choice of a training run, by the names of train.py's flags."""
    sampled_data_path: str = place(None, Text(none=True), "folder that preprocessing_data.py wrote", "DIR",
                                   names=("--sampled_data_path", "--sampled_data_dir", "--dataset_path",
                                          "--data_dir"))
    ucf_list_dir: str = place(None, Text(none=True), "folder of the split lists; without it the split is "
                              "drawn by group from the sampled data", "DIR",
                              names=("--ucf_list_dir", "--split_path", "--annots_dir"))
    split: str = data("1", Choice(("1", "2", "3", "all", "random")), "official split; all: train and test on "
                      "the three in turn; random: the leaky protocol, by video instead of group, for "
                      "comparison only", names=("--split", "--split_number"))
    split_size: float = data(0.2, BELOW_ONE, "share of every class's training videos held out for "
                             "validation, whole groups; 0: none, and the last epoch counts as the best")
    test_size: float = data(0.2, SHARE, "share held out for the test, without a test list")
    group_pattern: str = data(None, Text(none=True), "regular expression that finds a video's group in its "
                              "file name (default: gNN of UCF-101; else each file is a group)", "REGEX")
    groups: str = data(None, Text(none=True), "table of the groups, with the columns video,group", "CSV")
    chosen_classes: list = data(None, Names(none=True), "train on these classes only, names with commas "
                                "between (default: all)", "A,B,...", names=("--classes",))
    number_of_classes: int = data(None, POSITIVE_OR_NONE, "train on the first N classes (default: all)")
    background: str = data(None, Text(none=True), "class of everything else: films show it as nothing, and "
                           "test.py reports it apart", "CLASS", decides="nothing")
    parts: str = data(None, Text(none=True), "a table like a run's splits.csv that says which video is in "
                      "which part; others are drawn by group (default: all are drawn)", "CSV")
    allow_pictures: bool = place(False, Switch(), "train a network of several frames on single pictures too")
    smaller_dataset: bool = data(False, Switch(), "a tenth of every class, for a quick look")

    encoder: str = network("resnet152", Text(), "torchvision model, timm/NAME, or video/NAME, one of "
                           "torchvision.models.video, which reads chunks: each counts as a frame of the clip",
                           names=("--encoder", "--feature_extractor"))
    encoder_weights: str = network("DEFAULT", Text(), "the library's ImageNet weights, none, or a state dict "
                                   "file", "DEFAULT|none|PATH")
    img_dim: int = network(None, Number(int, low=1, high=4096, none=True), "side of the encoder's input in "
                           "pixels (default: as its weights were trained)")
    modality: str = network("rgb", Choice(MODALITIES), "what the encoder sees: rgb: frames; rgbdiff: their "
                            "differences from the frame before; flow: optical flow (see --flow of "
                            "preprocessing_data.py); several take as many times as long")
    flow_length: int = network(1, Number(int, low=1, high=LONGEST), "flow fields in an input: 1 gives a "
                               "picture (x, y, magnitude); 10 the 20 channels of two-stream networks, for an "
                               "encoder that is trained")
    resize: str = network("centre", Choice(FITS), "a frame's centre, or all of it squeezed into a square")
    chunk_frames: int = network(None, CHUNK, "frames that a video encoder reads at once (default: as its "
                                "weights were measured)", "K")
    chunk_stride: int = clips(None, CHUNK, "of a video encoder: frames from one chunk's start to the next "
                              "(default: --chunk_frames)", "N")
    streams: list = network(None, Names(none=True, longest=4096), "train a head over the encoders of these "
                            "runs, folders with commas between (fuse.py --train)", "RUN,RUN,...")
    num_frames_video: int = clips(5, Number(int, low=1, high=100_000, word="all"), "frames in a clip; all: "
                                  "every frame of a video, however many", "N|all",
                                  names=("--num_frames_video", "--sequence_length", "--frames_per_clip"))
    spread: bool = clips(False, Switch(), "spread the frames of a clip over the whole video, one in each of "
                         "as many equal parts: in the middle of it, or at random in --views")
    stride: str = clips("1", Pattern("random|[1-9][0-9]{0,4}", "a whole number, or random"), "sampled frames "
                        "from one frame of a clip to the next; random: 1 to the largest that fits, which the "
                        "test uses", "N|random")
    max_frames: int = clips(300, POSITIVE, "with --num_frames_video all: the most, spread over the video")
    mask_short: bool = clips(True, Switch(), "read a video with fewer frames than a clip at its own length, "
                             "not repeating its last frame")
    latent_dim: int = head(512, POSITIVE, "size of the projected frame feature")
    hidden_size: int = head(256, POSITIVE, "LSTM units a direction", names=("--hidden_size", "--rnn_units"))
    lstm_layers: int = head(2, Number(int, low=1, high=100), "LSTM layers")
    rnn: str = head("lstm", Choice(RNNS), "recurrent network that reads the frame features")
    projection: str = head("norm", Choice(PROJECTIONS), "layers between encoder and LSTM: layer norm, linear "
                           "and ReLU; linear only; linear and batch norm; or only dropout")
    classifier_hidden: int = head(None, POSITIVE_OR_NONE, "size of a hidden classifier layer (default: none)")
    classifier_activation: str = head("relu", Choice(ACTIVATIONS), "activation of that layer; relu comes "
                                      "with a batch norm, selu without")
    classifier_dropout: float = head(None, Number(float, low=0, below=1, none=True), "dropout before the "
                                     "classifier (default: --dropout)")
    bidirectional: bool = head(True, Switch(), "read the clip in both directions")
    readout: str = head("final", Choice(READOUTS), "how the LSTM's outputs become one vector; none: no LSTM, "
                        "the mean of the frames", names=("--readout", "--fusion_mode"))
    dropout: float = head(0.5, BELOW_ONE, "share of units dropped")
    loss_per_step: bool = head(False, Switch(), "predict at every time step and average (LRCN paper)")
    init_from: str = network(None, Text(none=True), "start from another run's encoder and, where it fits, "
                             "its projection; its img_dim, resize and modality are the defaults", "RUN")

    train_encoder: str = training("none", Pattern("none|all|last:[1-9][0-9]{0,4}", "none, all or last:K"),
                                  "encoder blocks that are fine-tuned; none: it stays frozen",
                                  "none|last:K|all")
    encoder_lr: float = steps(0.0001, ABOVE_ZERO, "peak learning rate of the encoder blocks that are trained")
    train_batch_norm: bool = steps(False, Switch(), "update the batch-norm statistics of the trained blocks")
    recompute: bool = training(False, Switch(), "gradient checkpointing in the encoder: less memory, slower",
                               decides="nothing")
    epochs: int = steps(100, POSITIVE, "epochs in all", names=("--epochs", "--num_epochs"))
    stop_after: int = training(None, POSITIVE_OR_NONE, "stop when this epoch is done; --resume goes on to "
                               "--epochs", "EPOCH", decides="nothing")
    batch_size: int = steps(32, POSITIVE, "clips in a mini-batch")
    accumulate: int = steps(1, POSITIVE, "mini-batches whose gradients are added up for one update",
                            names=("--accumulate", "--grad_accum_steps"))
    lr: float = steps(0.0005, ABOVE_ZERO, "peak learning rate", names=("--lr", "--learning_rate"))
    weight_decay: float = steps(0.01, FROM_ZERO, "weight decay: decoupled for AdamW, else in the gradient")
    optimizer: str = training("adamw", Choice(("adamw", "adam", "sgd")), "optimiser; sgd with momentum 0.9",
                              decides="head")
    scheduler: str = steps("cosine", Choice(("cosine", "step", "plateau", "constant", "onecycle")),
                           "learning-rate schedule after the warm-up; onecycle has its own warm-up")
    warmup_epochs: float = steps(2, FROM_ZERO, "epochs of linear warm-up")
    label_smoothing: float = steps(0.1, BELOW_ONE, "share of the target spread over all classes")
    mixup: float = steps(0, FROM_ZERO, "mix pairs of clips, shares from Beta(a, a); 0 is off")
    class_weights: str = steps("none", Text(), "weights of the classes in the loss; balanced: all classes "
                               "count the same; or a CSV file with the columns class and weight",
                               "none|balanced|CSV")
    sampler: str = steps("random", Choice(("random", "balanced")), "random: every clip once an epoch; "
                         "balanced: as many clips, drawn so that all classes are equally frequent")
    patience: int = steps(0, COUNT, "stop after this many validations in a row without a new best; 0 is off")
    clip_grad: float = steps(1.0, FROM_ZERO, "clip the gradient to this norm; 0 is off")
    ema: float = steps(0, BELOW_ONE, "decay per step of a moving average of the weights, which is then "
                       "validated and tested; 0 is off")
    views: int = training(1, POSITIVE, "views of a training clip: 1 plain, the others with a random crop, "
                          "flip and window", decides="clips")
    augment: str = training("crop", Choice(tuple(AUGMENT)), "change of all views but the plain one: crop (a "
                            "random crop and flip), none (only another moment), or light, medium, heavy "
                            "(crops of each side, flips, colours, blur; on flow crops and flips)")
    clips_per_video: int = training(1, POSITIVE, "clips of each training video in an epoch, at random "
                                    "places; fewer of a short one", decides="clips")
    amp: str = steps("bfloat16", Choice(("bfloat16", "float16", "none")), "precision of training on CUDA")
    seed: int = training(42, COUNT, "seed of the split, the views, the weights and the order")

    local_dir: str = output(".", Text(), "where run folders are made", "DIR")
    name: str = output(None, Text(none=True), "name of the new run folder (default: the time)")
    open_new_folder: str = output("True", Text(), "False: write into local_dir itself; debug: into "
                                  "local_dir/debug", "True|False|debug")
    checkpoint_interval: int = output(5, POSITIVE, "epochs between checkpoints")
    val_check_interval: int = output(5, POSITIVE, "epochs between validations")
    pictures: bool = output(True, Switch(), "draw curves, labelled clips and the class distribution")
    resume: str = output(None, Text(none=True), "go on with this run folder; auto: the newest in local_dir",
                         "RUN|auto", names=("--resume", "--checkpoint_model", "--resume_checkpoint"))
    load_checkpoint: bool = output(False, Switch(), "go on from --checkpoint_path")
    checkpoint_path: str = output("", Text(), "checkpoint to go on from", "FILE")
    save_checkpoint: str = output(None, Text(none=True), "copy the best checkpoint to this file", "FILE")

    feature_cache: bool = engine(True, Switch(), "encode every clip once and keep the features on disk")
    encoder_backend: str = engine("auto", Choice(BACKENDS), "library that runs a frozen encoder; auto: the "
                                  "fastest one here that agrees with PyTorch")
    encoder_precision: str = engine("auto", Choice(PRECISIONS), "precision of a frozen encoder; auto: "
                                    "bfloat16 where the CPU has instructions for it")
    device: str = machine("auto", Text(), "auto, cpu, cuda, cuda:1, mps")
    num_workers: int = machine(4, COUNT, "workers that decode frames")
    compile: bool = engine(False, Switch(), "torch.compile the encoder: slow start, then faster")

    @classmethod
    def of(cls, settings, source):
        """The recipe in a checkpoint's settings; what an older run did not know has its default. UserError
        names a wrong value."""
        values.check(settings, {}, f"{source}: settings")
        known = {f.name: f.metadata["kind"] for f in fields(cls) if f.name in settings}
        values.check(settings, known, f"{source}: settings")
        older = {} if "mask_short" in settings else {"mask_short": False}
        return cls(**older, **{name: settings[name] for name in known})

    @property
    def frozen(self):
        """Whether no block of the encoder is trained."""
        return self.train_encoder == "none"

    @property
    def validated(self):
        """The flag, with its value, by which the training follows its validation; "" where none does."""
        return ("--scheduler plateau" if self.scheduler == "plateau" else
                f"--patience {self.patience}" if self.patience else "")

    @property
    def last_blocks(self):
        """K of last:K; None where all blocks are trained, or none is."""
        return int(self.train_encoder[5:]) if self.train_encoder.startswith("last:") else None

    @property
    def chunk(self):
        """chunks.chunk_of the encoder; (0, 0, 0) of one that reads frames."""
        if self.streams:
            return self.chunk_frames or 0, self.chunk_stride or 0, 0
        return chunk_of(self.encoder, self.chunk_frames, self.chunk_stride, self.modality)

    def background_of(self, classes):
        """The label of --background among class names, None without one; UserError: no such class."""
        if self.background is None:
            return None
        name, names = files.composed(self.background), list(map(files.composed, classes))
        if name not in names:
            raise UserError(f"--background {name}: no such class; there are {cli.first(classes, 10)}")
        return names.index(name)

    def as_settings(self):
        """Names and values for a file, with absolute paths: a later script runs in another folder."""
        settings = asdict(self)
        settings |= {name: _absolute(settings[name]) for name in PLACES if settings[name]}
        return settings | {"streams": self.streams and [_absolute(run) for run in self.streams]}

    def words(self, always=()):
        """The command line of train.py for this recipe. always: flags to name with their defaults too."""
        settings = self.as_settings()
        always = (*always, *OF_AN_ENCODER) if self.init_from else always    # else that run's count
        named = [f for f in fields(self) if getattr(self, f.name) != f.default or f.name in always and not (
            settings[f.name] is None and isinstance(f.metadata["kind"], Text | Names))]
        return [f"{flag_names(f)[0]}={as_word(settings[f.name])}" for f in named]

    def choices(self):
        """{flag: value} of what makes a network: two runs that agree in it are seeds of one recipe."""
        aside = {"seed", "parts"}
        aside |= {"rnn", "hidden_size", "lstm_layers", "bidirectional"} if self.readout == "none" else set()
        aside |= set(OF_AN_ENCODER) if self.streams else set()
        decided = self.deciding("parts", "encoder", "clips", "head", "steps")
        return {name: value for name, value in decided.items()
                if DECIDED[name][0] != "machine" and name not in aside}

    def deciding(self, *stages):
        """{flag: value} of those that decide these, see `flag`."""
        return {name: getattr(self, name) for name, (_, decides) in DECIDED.items() if decides in stages}

    def compared(self):
        """choices() for a comparison of runs: streams by their own choices, not by their folders, so that
        fusions of other seeds are alike too."""
        choices = self.choices()
        if self.streams:
            usual, streams = Recipe().choices(), []
            for run in self.streams:    # the place of one that is gone
                settings = runs.RunFolder(run).settings
                own = Recipe.of(files.read_json(settings), settings).choices() if settings.is_file() else None
                streams.append(run if own is None else ", ".join(
                    f"{k} {as_word(v)}" for k, v in own.items() if v != usual.get(k)) or "as given")
            choices["streams"] = " | ".join(streams)
        return choices


def read_flags(run):
    """compared() of the recipe in a RunFolder; {} without a settings.json."""
    if not run.settings.is_file():
        return {}
    return Recipe.of(files.read_json(run.settings), run.settings).compared()


def flag_names(field):
    return field.metadata["names"] or (f"--{field.name}",)


def as_word(value):
    """A value of a Recipe as the command line says it."""
    return ",".join(value) if isinstance(value, list) else str(value)


def _absolute(path):
    """A path as an absolute one, where it exists."""
    path = Path(path).expanduser()
    return str(path.resolve() if path.exists() else path)


DECIDED = {f.name: (f.metadata["group"], f.metadata["decides"]) for f in fields(Recipe)}
# What a run has from its beginning, and what its checkpoint holds a state of: --resume goes on with that.
FIXED = tuple(name for name, (group, decides) in DECIDED.items() if group != "machine" and
              decides in ("parts", "encoder", "head", "clips" if group == "network" else None))
OF_AN_ENCODER = ("encoder", "encoder_weights", "img_dim", "modality", "flow_length", "resize", "chunk_frames",
                 "chunk_stride")
PLACES = ("sampled_data_path", "ucf_list_dir", "parts", "groups", "init_from", "encoder_weights", "local_dir",
          "save_checkpoint", "class_weights")
# What a resumed run does not take over from its checkpoint.
OF_THE_CALL = ("resume", "load_checkpoint", "checkpoint_path", "stop_after", "name")


# ---------------------------------------------------------------- command line

USED_MOST = ("sampled_data_path", "ucf_list_dir", "encoder", "modality", "num_frames_video", "train_encoder",
             "epochs", "lr", "name", "resume")


def add_flags(parser, leave_out=(), usual=None, group=None):
    """The flags of Recipe's fields but for some; a choice in any case, as in OneCycle or SGD.

    usual(name): whose value counts without the flag, where that is not the default. group: one for all.
    """
    flags = [f for f in fields(Recipe) if f.name not in leave_out]
    first = [f for f in flags if f.name in USED_MOST and not usual]
    for f in (*first, *(f for f in flags if f not in first)):
        m, names = f.metadata, flag_names(f)
        into = parser.group(group or ("the flags that are used most" if f in first else m["group"]))
        default, help = (None, f"{m['help']} (default: {usual(f.name)})") if usual else (f.default, m["help"])
        if isinstance(m["kind"], Switch):
            into.add_boolean(*names, default=default, help=help)
        else:
            choices = list(m["kind"].words) if isinstance(m["kind"], Choice) else None
            into.add_argument(*names, dest=f.name, default=default, help=help, metavar=m["metavar"],
                              choices=choices, type=str.lower if choices else m["kind"])


# The original's test scripts took all flags of its train.py; what a checkpoint knows is compared with it.
COMPARED = ("epochs", "lr", "split_size", "num_frames_video", "smaller_dataset", "latent_dim", "hidden_size",
            "lstm_layers", "bidirectional", "open_new_folder", "load_checkpoint", "checkpoint_path",
            "checkpoint_interval", "val_check_interval", "local_dir", "number_of_classes")


def add_compared_flags(parser):
    """Those flags for a script that tests: they change nothing, and `say_disagreement` speaks of them."""
    add_flags(parser, DECIDED.keys() - COMPARED, lambda name: "the run's",
              "flags of train.py, for old command lines: the run's values count, others give a warning")


def say_disagreement(args, trained):
    """Warn of the flags of add_compared_flags that are not those of a trained run, where there are any."""
    given = {name: getattr(args, name) for name in COMPARED if getattr(args, name) is not None}
    asked, known = replace(trained.recipe, **given).as_settings(), trained.recipe.as_settings()
    differ = [f"--{name} {known[name]} (not {given[name]})" for name in given if asked[name] != known[name]]
    if differ:
        cli.warn(f"warning: {trained.folder}: the run was trained with {', '.join(differ)}: "
                 f"the run's values count")


def parse_args(parser, argv=None):
    """The parser's flags; with --init_from that run's encoder, and what it sees, are the defaults."""
    args = parser.parse_args(argv)
    if args.init_from:
        path = runs.checkpoint_path(args.init_from, flag="init_from")
        state, source = checkpoints.load_file(path, "init_from"), f"--init_from {args.init_from}"
        checkpoints.check(state, source)
        usual = {"flow_length": 1, "fit": "centre", "chunk": None, "chunk_stride": None}
        spec = usual | state["encoder_spec"]
        if "streams" in spec:
            raise UserError(f"{source}: this is a fusion; give one of the runs that it is made of")
        parser.set_defaults(encoder=spec["name"], img_dim=spec["crop"], modality=spec["modality"],
                            flow_length=spec["flow_length"], resize=spec["fit"],
                            chunk_frames=spec["chunk"], chunk_stride=spec["chunk_stride"])
        args = parser.parse_args(argv)
    return args


def parse(description, argv=None):
    """(Recipe, checkpoint path or None). A resumed run's recipe is its checkpoint's, save for the flags
    on the command line."""
    parser = cli.Parser(description)
    add_flags(parser)
    recipe, path = Recipe(**vars(parse_args(parser, argv))), None
    if recipe.resume:
        run = runs.newest_run(recipe.local_dir) if recipe.resume == "auto" else recipe.resume
        path = runs.checkpoint_path(run, "last.pth.tar", flag="resume")
    elif recipe.load_checkpoint:
        path = cli.file("checkpoint_path", recipe.checkpoint_path or ".", "give the checkpoint to go on from")
    if path is not None:
        source = f"--checkpoint_path {path}"
        state = checkpoints.load_file(path, "checkpoint_path")
        if not isinstance(state.get("settings"), dict) or "learner" not in state:
            raise UserError(f"{source}: not a checkpoint that training can go on from")
        if state["settings"].get("cross_fit"):
            raise UserError(f"{source}: a cross-fitted fusion cannot be resumed; make a new one")
        saved = Recipe.of(state["settings"], source)
        parser.set_defaults(**{k: v for k, v in saved.as_settings().items() if k not in OF_THE_CALL})
        recipe = Recipe(**vars(parser.parse_args(argv)))
        wanted, before = recipe.as_settings(), saved.as_settings()
        for name in FIXED:
            if wanted[name] != before[name]:
                raise UserError(f"--{name} {wanted[name]}: the checkpoint {path} was trained with "
                                f"--{name} {before[name]}; leave the flag out, or start a new run")
    if recipe.name and path is None:
        runs.check_name(recipe.name, recipe.local_dir, recipe.open_new_folder)
    if recipe.spread and recipe.num_frames_video == "all":
        raise UserError("--spread: --num_frames_video all reads every frame of a video; give a number")
    if recipe.stride != "1" and (recipe.spread or recipe.num_frames_video == "all"):
        raise UserError(f"--stride {recipe.stride}: a clip of the whole video (--spread, --num_frames_video "
                        "all) has no stride; leave one of the flags out")
    stack = recipe.flow_length > 1 and not recipe.streams   # of --streams, each run's own encoder takes it
    if stack and recipe.modality != "flow":
        raise UserError(f"--flow_length {recipe.flow_length}: --modality {recipe.modality} shows one encoder "
                        f"pictures of three channels; give --modality flow, and join two runs with fuse.py")
    if stack and recipe.frozen:
        raise UserError(f"--flow_length {recipe.flow_length}: a first convolution over "
                        f"{2 * recipe.flow_length} channels is untrained; train it with --train_encoder all "
                        "or last:K, or take --flow_length 1, which any trained encoder reads")
    return recipe, path
