"""Networks by name, of torchvision or timm, without their classifier; and the weights of files for them."""
import math
import os
import socket
from collections import OrderedDict
from dataclasses import replace
from urllib.parse import urlsplit
from urllib.request import getproxies

from lrcn.base import Lazy, UserError
from lrcn.data.chunks import PREFIX
from lrcn.data.frames import CHUNK, Transform

torch = Lazy("torch")
nn = Lazy("torch.nn")

# vgg16.features: the convolutions of vgg16 alone, their mean over the picture
CONVOLUTIONS = ".features"
# Second classifiers of GoogLeNet and Inception that help only to train them from scratch
AUXILIARY = {"aux1", "aux2", "AuxLogits"}


def build(name, download, img_dim, chunk=(0, 0, 0)):
    """(network without its classifier, its Transform). chunk: as of chunks.chunk_of."""
    if name.endswith(CONVOLUTIONS):
        whole = name.removesuffix(CONVOLUTIONS)
        if not whole.startswith(("vgg", "alexnet")) or whole.endswith(CONVOLUTIONS):
            raise UserError(f"--encoder {name}: only VGG and AlexNet can be used by their convolutions alone")
        model, transform = build(whole, download, img_dim)
        return nn.Sequential(OrderedDict(features=model.features, pool=nn.AdaptiveAvgPool2d(1))), transform
    if name.startswith("timm/"):
        return _timm_model(name.removeprefix("timm/"), download, img_dim)
    return _torchvision_model(name, download, img_dim, chunk)


def _torchvision_model(name, download, img_dim, chunk):
    import torchvision.models as zoo
    video, name = name.startswith(PREFIX), name.removeprefix(PREFIX)
    if not video and name not in zoo.list_models(module=zoo):
        raise UserError(f"--encoder {name}: torchvision has no classification model of this name; "
                        f"try resnet152, or timm/{name}")
    best = zoo.get_model_weights(name).DEFAULT
    preset = best.transforms()
    vit = name.startswith("vit_") and not download      # downloaded weights bring their own size
    options = {"image_size": img_dim or preset.crop_size[0]} if vit else {}
    if name in ("googlenet", "inception_v3"):
        options["transform_input"] = True  # as with weights, which a checkpoint is built without
        if not download:
            options["init_weights"] = True  # the default, without its warning
    model = zoo.get_model(name, weights=best if download else None, **options)
    for extra in AUXILIARY & {child for child, _ in model.named_children()}:
        model.aux_logits = False
        setattr(model, extra, None)
    # An identity instead of the classifier, linear or the 1x1 convolution of SqueezeNet.
    classifier = [name for name, module in model.named_modules() if len(best.meta["categories"]) == getattr(
        module, "out_features", getattr(module, "out_channels", None))][-1]
    model.set_submodule(classifier, nn.Identity())
    resize = tuple(preset.resize_size) if len(preset.resize_size) == 2 else preset.resize_size[0]
    transform = Transform(resize, preset.crop_size[0], tuple(preset.mean), tuple(preset.std),
                          preset.interpolation.value)
    return model, replace(transform.sized(img_dim), **dict(zip(CHUNK, chunk, strict=True)))


def _timm_model(name, download, img_dim):
    if download and not getproxies():   # a proxy hides whether the hub answers
        address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
        try:
            socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
        except OSError:     # else its library tries for half a minute
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import timm
    except ImportError:
        raise UserError(f"--encoder timm/{name}: timm is not installed; pip install timm") from None
    if name.split(".")[0] not in timm.list_models():
        today = timm.models.get_deprecated_models().get(name)
        raise UserError(f"--encoder timm/{name}: " + (
            f"timm calls it {today} today; take --encoder timm/{today}" if today else
            "timm has no model of this name"))
    try:
        model = timm.create_model(name, pretrained=download, num_classes=0,
                                  **({"img_size": img_dim} if img_dim else {}))
    except TypeError:  # a convolutional network takes any size and has no such option
        model = timm.create_model(name, pretrained=download, num_classes=0)
    config = timm.data.resolve_data_config({}, model=model)
    crop = img_dim or config["input_size"][-1]
    return model, Transform(math.floor(crop / config["crop_pct"]), crop, tuple(config["mean"]),
                            tuple(config["std"]), config["interpolation"])


def load_backbone(backbone, state):
    """Load a file's state dict into the backbone; the names of what was left out, a classifier's entries."""
    everything = state_of(state, backbone)
    state = {k: v for k, v in everything.items() if k.split(".")[0] not in AUXILIARY}
    own = backbone.state_dict()
    extra = [k for k in state if k not in own]
    # A classifier is one weight and one bias; anything more is another network.
    state = {k: v for k, v in state.items() if k in own or len(extra) > 2}
    check_fit(backbone, state, "the file of --encoder_weights")
    backbone.load_state_dict(state)
    return [k for k in everything if k not in own]


def state_of(state, backbone):
    """The tensors of a file by the backbone's own names: without a wrapper, DataParallel's prefix, and
    nn.Sequential's numbers for the layers of its `features` or for its children."""
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), dict):
            state = state[key]
    state = {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not all(k.split(".")[0].isdecimal() for k in state):
        return state
    own, children = backbone.state_dict(), {str(i): n for i, (n, _) in enumerate(backbone.named_children())}
    spellings = [{name(*k.partition(".")): v for k, v in state.items()} for name in (
        "{}{}{}".format, "features.{}{}{}".format, lambda n, dot, rest: children.get(n, n) + dot + rest)]
    return max(spellings, key=lambda names: sum(k in own and own[k].shape == v.shape
                                                for k, v in names.items()))


def convolutions_alone(name, backbone, state):
    """Whether a file for VGG or AlexNet holds all of its `features` and nothing else."""
    own = {k for k in backbone.state_dict() if k.startswith("features.")}
    return (name.startswith(("vgg", "alexnet")) and not name.endswith(CONVOLUTIONS)
            and own == state_of(state, backbone).keys())


def check_fit(module, state, source):
    """UserError that names the keys, shapes and dtypes of a state dict that are not the module's, or else the
    weights that are not finite."""
    own = module.state_dict()
    both = [k for k in own if k in state]
    floats = [k for k in both if own[k].is_floating_point() and state[k].is_floating_point()]
    faults = {"missing": [k for k in own if k not in state],
              "not of this network": [k for k in state if k not in own],
              "of another shape": [k for k in both if own[k].shape != state[k].shape],
              "of another kind of number": [k for k in both if k not in floats
                                            and own[k].dtype != state[k].dtype]}
    if not any(faults.values()):
        faults = {"not finite": [k for k in both if not torch.isfinite(state[k]).all()]}
    listed = [f"{label} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
              for label, keys in faults.items() if keys]
    if listed:
        raise UserError(f"{source} does not fit the network: {'; '.join(listed)}")
