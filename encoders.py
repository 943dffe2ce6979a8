"""Image networks as encoders of frames: built by name, made fast, cut into a frozen and a trained part.

    encoder = build_encoder("resnet152")             # uint8 (N, 3, 224, 224) -> float (N, 2048)
    fast = for_inference(encoder)                     # the same features, batch norm folded
    frozen, tail = cut(encoder, 2)                    # tail: the last two blocks, to be trained
"""
import copy
import hashlib
import math
from dataclasses import asdict, dataclass, replace

import torch
from torch import fx, nn

from cli import UserError

MODALITIES = ("rgb", "rgbdiff", "rgb+rgbdiff")
# Second classifiers of GoogLeNet and Inception that help only to train them from scratch
AUXILIARY = {"aux1", "aux2", "AuxLogits"}


@dataclass(frozen=True)
class Transform:
    """How a frame becomes the encoder's input: short side to `resize`, then a centre crop, in pixels.

    modality: what the encoder looks at, "rgb" the frame itself, "rgbdiff" its difference from the frame
    before (Wang et al. 2016, Temporal Segment Networks, section 3.2), "rgb+rgbdiff" both, one after
    the other: the feature is then twice as long.
    """
    resize: int
    crop: int
    mean: tuple
    std: tuple
    interpolation: str = "bilinear"
    modality: str = "rgb"

    @property
    def modalities(self):
        """How many pictures the encoder sees of a frame."""
        return len(self.modality.split("+"))

    @property
    def shape(self):
        """One frame's input, channels last: (S, S, 3), or (2, S, S, 3) for two modalities."""
        return (*([self.modalities] if self.modalities > 1 else []), self.crop, self.crop, 3)


class Encoder(nn.Module):
    """An image network without its classifier: uint8 (N, 3, H, W), RGB -> float (N, feature_dim).

    With M > 1 modalities uint8 (N, M, 3, H, W), and the features of each after one another.
    It stays in eval mode for good, so that no step of training moves a batch-norm statistic;
    `moving_statistics` lifts that for the batch norms alone.
    """

    def __init__(self, name, backbone, transform):
        super().__init__()
        self.name, self.backbone, self.transform = name, backbone, transform
        self.moving_statistics = False
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (transform.mean, transform.std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)
        self.eval()
        with torch.inference_mode():
            blank = torch.zeros(1, *transform.shape, dtype=torch.uint8)
            self.feature_dim = self(blank.movedim(-1, -3)).shape[1]

    def forward(self, frames):
        return per_modality(self._features, frames, self.transform.modalities).flatten(1)

    def _features(self, frames):
        # uint8 -> float, mean 0 and deviation 1 by the statistics of the encoder's training set
        return self.backbone(torch.addcmul(self.shift, frames.float(), self.scale)).flatten(1)

    def train(self, mode=True):
        super().train(False)
        if mode and self.moving_statistics:
            move_statistics(self.backbone)
        return self

    def digest(self):
        """A fingerprint of the weights and statistics, 16 hex digits."""
        return weights_digest(self.backbone)

    def spec(self):
        """What `encoder_from_spec` needs to build it again, in plain containers."""
        return {"name": self.name, **asdict(self.transform)}


def per_modality(network, x, modalities):
    """network on x (N, ...), or on each part of x (N, M, ...) where there are several modalities."""
    if modalities == 1:
        return network(x)
    return network(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def weights_digest(module):
    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def move_statistics(module):
    """Let the batch norms of a module in eval mode follow the data again."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.train()


def build_encoder(name, weights="DEFAULT", img_dim=None, modality="rgb"):
    """The encoder `name`: a torchvision classification model, or `timm/NAME`.

    weights: "DEFAULT" (the library's best ImageNet weights, downloaded once), None, or a state dict.
    img_dim: side of the crop in pixels, instead of the one that the weights came with.
    modality: one of MODALITIES, see Transform.
    UserError: no such model, weights that cannot be had or do not fit.
    """
    try:
        backbone, transform = _backbone(name, weights == "DEFAULT", img_dim)
    except OSError as error:  # urllib and the hubs raise its children
        raise UserError(f"--encoder_weights DEFAULT: the weights of {name} could not be downloaded "
                        f"({error}); give a file with --encoder_weights PATH, or none") from None
    if isinstance(weights, dict):
        load_backbone(backbone, weights)
    try:
        return Encoder(name, backbone, replace(transform, modality=modality))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"--img_dim {transform.crop}: {name} cannot take this size ({error})") from None


def _backbone(name, download, img_dim):
    """(image network without its classifier, its Transform)."""
    if name.startswith("timm/"):
        return _timm_model(name.removeprefix("timm/"), download, img_dim)
    return _torchvision_model(name, download, img_dim)


def _torchvision_model(name, download, img_dim):
    import torchvision.models as zoo
    if name not in zoo.list_models(module=zoo):
        raise UserError(f"--encoder {name}: torchvision has no classification model of this name; "
                        f"try resnet152, or timm/{name}")
    best = zoo.get_model_weights(name).DEFAULT
    options = {"image_size": img_dim} if img_dim and name.startswith("vit_") and not download else {}
    if name in ("googlenet", "inception_v3"):
        options["transform_input"] = True  # as with weights: a checkpoint is built again without them
        if not download:
            options["init_weights"] = True  # the default, said aloud to spare the user its warning
    model = zoo.get_model(name, weights=best if download else None, **options)
    for extra in AUXILIARY & {child for child, _ in model.named_children()}:
        model.aux_logits = False
        setattr(model, extra, None)
    without_classifier(model, len(best.meta["categories"]))
    preset = best.transforms()
    crop = img_dim or preset.crop_size[0]
    resize = round(crop * preset.resize_size[0] / preset.crop_size[0])
    return model, Transform(resize, crop, tuple(preset.mean), tuple(preset.std), preset.interpolation.value)


def _timm_model(name, download, img_dim):
    try:
        import timm
    except ImportError:
        raise UserError(f"--encoder timm/{name}: timm is not installed; pip install timm") from None
    if name not in timm.list_models() and name.split(".")[0] not in timm.list_models():
        raise UserError(f"--encoder timm/{name}: timm has no model of this name")
    try:
        model = timm.create_model(name, pretrained=download, num_classes=0,
                                  **({"img_size": img_dim} if img_dim else {}))
    except TypeError:  # a convolutional network takes any size and knows no such option
        model = timm.create_model(name, pretrained=download, num_classes=0)
    config = timm.data.resolve_data_config({}, model=model)
    crop = img_dim or config["input_size"][-1]
    return model, Transform(math.floor(crop / config["crop_pct"]), crop, tuple(config["mean"]),
                            tuple(config["std"]), config["interpolation"])


def without_classifier(model, outputs):
    """Put an identity in the place of the last layer with `outputs` outputs: what it read comes out.

    True of linear classifiers and of the 1x1 convolution of SqueezeNet alike.
    """
    name = [name for name, module in model.named_modules()
            if getattr(module, "out_features", getattr(module, "out_channels", None)) == outputs][-1]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())


def load_backbone(backbone, state):
    """Take a file's state dict into the backbone; the classifier's entries in it are left out."""
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), dict):
            state = state[key]
    state = {k.removeprefix("module."): v for k, v in state.items()
             if isinstance(v, torch.Tensor) and k.removeprefix("module.").split(".")[0] not in AUXILIARY}
    own = backbone.state_dict()
    extra = [k for k in state if k not in own]
    # What a classifier leaves behind is one weight and one bias; anything more is another network.
    load_state(backbone, {k: v for k, v in state.items() if k in own or len(extra) > 2},
               "the file of --encoder_weights")


def load_state(module, state, source):
    """load_state_dict, strict, with an error that names the keys and shapes that do not fit."""
    own = module.state_dict()
    faults = [f"{label} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
              for label, keys in (
                  ("missing", [k for k in own if k not in state]),
                  ("not of this network", [k for k in state if k not in own]),
                  ("of another shape", [k for k in own if k in state and own[k].shape != state[k].shape]))
              if keys]
    if faults:
        raise UserError(f"{source} does not fit the network: {'; '.join(faults)}")
    module.load_state_dict(state)


def encoder_from_spec(spec):
    """The encoder, without weights, that `Encoder.spec()` described."""
    transform = Transform(**{k: tuple(v) if isinstance(v, (list, tuple)) else v
                             for k, v in spec.items() if k != "name"})
    backbone, usual = _backbone(spec["name"], False, None)
    if usual.crop != transform.crop:
        backbone, _ = _backbone(spec["name"], False, transform.crop)
    return Encoder(spec["name"], backbone, transform)


# ---------------------------------------------------------------- faster encoding

def for_inference(encoder):
    """A copy of a frozen encoder made for speed: batch norm folded into the convolutions, channels last.

    Same features up to rounding. Only convolutions whose output goes to one batch norm are
    folded; the copy is compared with the original on a random batch and given up if it differs.
    """
    fast = copy.deepcopy(encoder).requires_grad_(False)
    probe = torch.randint(0, 256, (2, *encoder.transform.shape), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0)).to(encoder.scale.device).movedim(-1, -3)
    with torch.inference_mode():
        expected = fast(probe)
    for conv, name in _conv_norm_pairs(fast, probe):
        _fold(fast.backbone, conv, name)
    with torch.inference_mode():
        error = (fast(probe) - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    if not error < 1e-3:
        fast = copy.deepcopy(encoder).requires_grad_(False)
    return fast.to(memory_format=torch.channels_last)


def _conv_norm_pairs(encoder, probe):
    """[(convolution, name of the batch norm that reads its output)], seen in one forward pass."""
    names = {module: name for name, module in encoder.backbone.named_modules()}
    producer, pairs, hooks = {}, [], []

    def after_conv(conv, inputs, output):
        producer[id(output)] = (conv, output)  # the output is kept alive, or its id might come back

    def before_norm(norm, inputs):
        conv, _ = producer.get(id(inputs[0]), (None, None))
        if conv is not None:
            pairs.append((conv, names[norm]))

    for module in names:
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    with torch.inference_mode():
        encoder(probe[:1])
    for hook in hooks:
        hook.remove()
    return pairs


def _fold(backbone, conv, name):
    norm = backbone.get_submodule(name)
    weight, bias = nn.utils.fuse_conv_bn_weights(conv.weight, conv.bias, norm.running_mean, norm.running_var,
                                                 norm.eps, norm.weight, norm.bias)
    conv.weight, conv.bias = weight, bias
    # timm's batch norms carry their activation with them
    rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, nn.Sequential(*rest) if rest else nn.Identity())


# ---------------------------------------------------------------- partly trained encoders

def units(backbone):
    """The blocks of a network in order, each a list of module names: `last:K` trains the last K.

    Containers, and modules that hold more than half of all parameters, are opened; a norm belongs
    to the block before it.
    """
    total = sum(p.numel() for p in backbone.parameters())
    found = []

    def walk(module, prefix):
        for name, child in module.named_children():
            size = sum(p.numel() for p in child.parameters())
            if not size:
                continue
            if any(True for _ in child.children()) and (
                    isinstance(child, nn.Sequential | nn.ModuleList) or size > total / 2):
                walk(child, f"{prefix}{name}.")
            elif found and isinstance(child, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm):
                found[-1].append(prefix + name)
            else:
                found.append([prefix + name])

    walk(backbone, "")
    return found


def unfreeze(encoder, last):
    """Let the last `last` blocks of an encoder be trained (None: all); returns their parameters."""
    blocks = units(encoder.backbone)
    if last is not None and last > len(blocks):
        raise UserError(f"--train_encoder last:{last}: {encoder.name} has {len(blocks)} blocks; "
                        f"give a smaller number, or all")
    encoder.requires_grad_(last is None)
    for name in [name for block in blocks[-last:] for name in block] if last else []:
        encoder.backbone.get_submodule(name).requires_grad_()
    return [p for p in encoder.parameters() if p.requires_grad]


def recompute_activations(encoder):
    """Gradient checkpointing: every block is run again in the backward pass instead of kept in memory."""
    from torch.utils.checkpoint import checkpoint
    for name in [name for block in units(encoder.backbone) for name in block]:
        module = encoder.backbone.get_submodule(name)
        module.forward = lambda x, run=module.forward: checkpoint(run, x, use_reentrant=False)


class FrozenPart(nn.Module):
    """What lies before the first trained block: uint8 (N, [M,] 3, H, W) -> activations (N, [M,] ...)."""

    def __init__(self, encoder, backbone, where):
        super().__init__()
        self.backbone, self.where, self.name = backbone, where, encoder.name
        self.transform, self._spec = encoder.transform, encoder.spec()
        self.register_buffer("scale", encoder.scale, persistent=False)
        self.register_buffer("shift", encoder.shift, persistent=False)
        self.eval()

    def forward(self, frames):
        return per_modality(self._activations, frames, self.transform.modalities)

    def _activations(self, frames):
        return self.backbone(torch.addcmul(self.shift, frames.float(), self.scale))

    def digest(self):
        return weights_digest(self.backbone)

    def spec(self):
        return {**self._spec, "up_to": self.where}


def cut(encoder, last):
    """(FrozenPart, tail) of an encoder whose last `last` blocks are trained: tail(frozen(x)) is its feature.

    Both share the encoder's modules. None where the network cannot be traced, or where more than
    one value flows from the frozen part into the trained one.
    """
    blocks = units(encoder.backbone)
    names = [name for block in blocks for name in block]
    trained = [name for block in blocks[-last:] for name in block]

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module, name):
            return not any(unit.startswith(name + ".") for unit in names)

    try:
        nodes = list(Tracer().trace(encoder.backbone).nodes)
    except Exception:  # tracing fails in as many ways as there are networks
        return None
    first = next((i for i, n in enumerate(nodes) if n.op == "call_module" and n.target in trained), None)
    if first is None:
        return None
    early, late = nodes[:first], nodes[first:]
    crossing = {n for node in late for n in node.all_input_nodes if n in set(early)}
    if len(crossing) != 1:
        return None
    value = crossing.pop()
    return (FrozenPart(encoder, _subgraph(encoder.backbone, early, None, value), trained[0]),
            _subgraph(encoder.backbone, late, value, None))


def _subgraph(backbone, nodes, entry, exit):
    """The nodes as a module: from the value `entry` (or the input) to `exit` (or the output)."""
    graph = fx.Graph()
    copies = {entry: graph.placeholder("x")} if entry is not None else {}
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda n: copies[n])
    if exit is not None:
        graph.output(copies[exit])
    return fx.GraphModule(backbone, graph)
