"""The networks of runs: read from a checkpoint (load_trained), or made for a training (network_to_train)
with an encoder that is built, kept in the feature store, taken from another run, or joined from several."""
import contextlib
import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

from lrcn import checkpoints
from lrcn.base import Lazy, UserError, cli
from lrcn.base.distributed import choose_device, set_seed
from lrcn.base.values import Number
from lrcn.data.frames import CHUNK
from lrcn.data.learned import Learned
from lrcn.features import backbones, engines, store
from lrcn.runs import RunFolder, checkpoint_path
from lrcn.training import recipe as recipes
from lrcn.training.recipe import Recipe
from lrcn.training.run import STEPS, what_it_learned
from lrcn.video.flow import Flow
from lrcn.video.sampling import Rate

torch = Lazy("torch")
models = Lazy("models")
surgery = Lazy("lrcn.features.surgery")

SAMPLING = Number(float, above=1e-6, high=1e6, none=True)
CHUNK_FLAGS = ("chunk_frames", "chunk_stride")


@dataclass
class Trained:
    """A model from a run folder, in eval mode, with all that belongs to it."""
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
        """Frames or chunks of a clip; of a run on whole videos their median."""
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
    def transforms(self):
        """Those of the encoder, or of its streams."""
        encoder = self.model.encoder
        return [one.transform for one in getattr(encoder, "streams", [encoder])]

    @property
    def sees(self):
        """The Transform that says what a step of a clip is: of several streams a video encoder's."""
        return max(self.transforms, key=lambda transform: transform.chunk)

    @property
    def chunk(self):
        """(frames of a step, from the first of one to the first of the next); (1, 1) of an image encoder."""
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
        lengths = [transform.flow_length for transform in self.transforms if "flow" in transform.parts]
        return replace(Flow.of(self.settings["flow"], "flow"), length=max(lengths)) if lengths else None


def build(state, path, flag, stored=False):
    """(LRCN, classes, settings, Recipe) of the state of a checkpoint, which lies at `path` and was named by
    --flag; UserError for something else.

    stored: its encoder is of weights alone, where those in the file tell enough (models.Encoder)."""
    source = f"--{flag} {path}"
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
    weights = checkpoints.encoder_weights(state, path, flag)
    checkpoints.check_weights(state.get("head"), f"{source}, head")
    with torch.device("meta"):      # one of other sizes than the weights is refused before it takes memory
        head = models.Head(**state["head_spec"])
    backbones.check_fit(head, state["head"], f"{source}, head,")
    encoder = models.encoder_from_spec(state["encoder_spec"], stored and weights, head.spec["feature_dim"])
    engines.keep(encoder, settings.get("engines"), source)
    heads = getattr(encoder, "heads", ())
    for one, reader in ((encoder, head), *zip(getattr(encoder, "streams", ()), heads, strict=True)):
        if reader.spec["feature_dim"] != one.feature_dim:
            raise UserError(f"{source}: a head reads {reader.spec['feature_dim']} features and its encoder "
                            f"{one.name} gives {one.feature_dim}")
    backbones.check_fit(encoder, weights, f"{source}, encoder,")
    for one in (head, *heads):
        one.to_empty(device="cpu")
    encoder.load_state_dict(weights)
    head.load_state_dict(state["head"])
    if encoder.digest() != state.get("encoder_digest"):
        raise UserError(f"{source}: the encoder beside it is not the one that it was trained with")
    return models.LRCN(encoder, head), state["classes"], settings, recipe


def load_trained(model_dir, model_name=None, device="cpu", flag=None, stored=False):
    """The Trained of a run folder; UserError for a file that is no checkpoint or does not fit. stored: as of
    `build`."""
    path = checkpoint_path(model_dir, model_name, flag)     # before torch is loaded
    device = choose_device(device)
    flag = flag or ("model_name" if model_name else "model_dir")
    state = checkpoints.load_file(path, flag)
    model, classes, settings, recipe = build(state, path, flag, stored)
    epoch = state.get("epoch")
    return Trained(model.to(device).eval(), classes, settings, recipe, path, RunFolder.of(path).path,
                   epoch if isinstance(epoch, int) else 0, what_it_learned(state, path, flag))


def new_encoder(recipe, classes):
    """The encoder that a recipe names, with its weights. The feature store keeps a frozen one: the next time
    it is of weights alone (models.Encoder)."""
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
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path else weights or recipe.seed
        seen = (getattr(recipe, name) for name in (*recipes.OF_AN_ENCODER, "augment"))
        kept = store.kept_encoder(recipe.sampled_data_path, [content, *seen])
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
    """The encoder of weights alone in a file of the feature store, with the notes that building it gave; None
    where the file is not whole or not of this name."""
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
    """The encoder of --init_from's run, with the recipe's transform."""
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
    for name in ("train_encoder", *recipes.OF_AN_ENCODER, "augment"):
        value = getattr(recipe, name)
        told = "modality", "flow_length", *CHUNK_FLAGS
        if name not in told and value not in (getattr(Recipe, name), names):
            raise UserError(f"--{name} {value}: --streams uses the encoders of its runs as they are; leave "
                            "the flag out")
    return models.Streams([run.model.encoder for run in runs], [run.model.head for run in runs])


def network_to_train(recipe, classes, device, encoder=None, model=None):
    """(LRCN, network that is trained, what encodes for its feature cache or None, optimiser groups).

    Of a frozen encoder the head is trained, on cached features; of last:K the blocks and the head, on cached
    activations of the part before them; else the whole network, on frames.
    encoder: new_encoder's of this recipe, model: a resumed LRCN, where there is one.
    """
    if model is None:
        encoder = encoder or new_encoder(recipe, classes)
        set_seed(recipe.seed)  # the head's weights do not depend on how the encoder came to be
        model = models.LRCN(encoder, models.Head.of(recipe, encoder.feature_dim, len(classes)))
        if recipe.init_from:
            checkpoints.take_over(model, load_trained(recipe.init_from, flag="init_from").model)
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
