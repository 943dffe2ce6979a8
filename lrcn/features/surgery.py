"""Networks made fast and cut into a frozen and a trained part."""
import copy
import hashlib

import torch
from torch import fx, nn

from lrcn.base.cli import UserError


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


def weights_alone(state, prefix):
    """A module that computes nothing, with the tensors of a state dict under `prefix`: nn.Parameters, and
    others as buffers."""
    root = nn.Module()
    for key, value in state.items():
        *path, name = key.removeprefix(prefix).split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        if isinstance(value, nn.Parameter):
            module.register_parameter(name, value)
        else:
            module.register_buffer(name, value)
    return root


def move_statistics(module):
    """Let the batch norms of a module in eval mode update their statistics."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.train()


def for_inference(encoder):
    """A copy of a frozen encoder made for speed: batch norm folded into the convolutions, channels last.

    A random batch shows which batch norms read a convolution's output. Where the copy's features of it differ
    from the encoder's by more than rounding, nothing is folded.
    """
    fast = copy.deepcopy(encoder).requires_grad_(False)
    names = {module: name for name, module in fast.backbone.named_modules()}
    pairs, hooks = [], []
    for module in names:
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            hooks.append(module.register_forward_hook(
                lambda conv, inputs, output: setattr(output, "made_by", conv)))
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            hooks.append(module.register_forward_pre_hook(
                lambda norm, inputs: pairs.append((getattr(inputs[0], "made_by", None), norm))))
    chunk = encoder.transform.chunk
    probe = torch.randint(0, 256, (1 if chunk else 2, *encoder.transform.shape), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0)).to(encoder.scale.device).movedim(-1, -3)
    with torch.inference_mode():
        expected = fast(probe)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        if conv is None:
            continue
        conv.weight, conv.bias = nn.utils.fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        # timm's batch norms carry their activation with them
        rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
        fast.backbone.set_submodule(names[norm], nn.Sequential(*rest) if rest else nn.Identity())
    with torch.inference_mode():
        error = (fast(probe) - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    if not error < 1e-3:
        fast = copy.deepcopy(encoder).requires_grad_(False)
    if not chunk:
        return fast.to(memory_format=torch.channels_last)
    for module in fast.modules():
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
    return fast


def widen(backbone, channels, name):
    """Let a network take `channels` instead of three: each gets the mean of the first convolution's weights
    over its three inputs (Wang et al. 2015, arXiv:1507.02159, section 3.1)."""
    first = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.groups != 1:
        raise UserError(f"--encoder {name}: its first layer is not a convolution over three channels, so "
                        f"none over {channels} can be made of it; take --flow_length 1, or another encoder")
    weight = first.weight.detach().mean(1, keepdim=True).repeat(1, channels, 1, 1)
    first.weight, first.in_channels = nn.Parameter(weight), channels
    if getattr(backbone, "transform_input", False):     # of GoogLeNet and Inception: three channels
        backbone.transform_input = False


def units(backbone):
    """The blocks of a network in order, each a list of module names: `last:K` trains the last K. Containers,
    and modules with more than half of all parameters, are opened; a norm belongs to the block before it."""
    total, blocks = sum(p.numel() for p in backbone.parameters()), []

    def walk(module, prefix):
        for name, child in module.named_children():
            size = sum(p.numel() for p in child.parameters())
            if not size:
                continue
            if any(True for _ in child.children()) and (
                    isinstance(child, nn.Sequential | nn.ModuleList) or size > total / 2):
                walk(child, f"{prefix}{name}.")
            elif blocks and isinstance(child, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm):
                blocks[-1].append(prefix + name)
            else:
                blocks.append([prefix + name])

    walk(backbone, "")
    return blocks


def unfreeze(encoder, last):
    """Make the last `last` blocks of an encoder (None: all) trainable; their parameters."""
    blocks = units(encoder.backbone)
    if last is not None and last > len(blocks):
        raise UserError(f"--train_encoder last:{last}: {encoder.name} has {len(blocks)} blocks; "
                        f"give a smaller number, or all")
    encoder.requires_grad_(False)
    for name in last_units(encoder.backbone, last):
        encoder.backbone.get_submodule(name).requires_grad_()
    return [p for p in encoder.parameters() if p.requires_grad]


def last_units(backbone, last):
    """Names of the modules in the last `last` blocks; None: torch's name of the backbone itself, ""."""
    return sum(units(backbone)[-last:], []) if last else [""]


def recompute_activations(encoder):
    """Gradient checkpointing: the backward pass computes every block again instead of keeping it."""
    from torch.utils.checkpoint import checkpoint
    for name in sum(units(encoder.backbone), []):
        module = encoder.backbone.get_submodule(name)
        module.forward = lambda x, run=module.forward: checkpoint(run, x, use_reentrant=False)


def cut(encoder, last):
    """(frozen, tail) of an encoder whose last `last` blocks are trained: tail(frozen(x)) is its feature.

    frozen: the encoder up to its first trained block, uint8 (N, [M,] C, H, W) -> activations (N, [M,] ...).
    Both share the encoder's modules. None where the network cannot be traced, or where more than one value
    flows from the frozen part into the trained one.
    """
    names, trained = sum(units(encoder.backbone), []), last_units(encoder.backbone, last)
    tracer = fx.Tracer()
    tracer.is_leaf_module = lambda module, name: not any(unit.startswith(name + ".") for unit in names)
    try:
        nodes = list(tracer.trace(encoder.backbone).nodes)
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
    frozen = copy.copy(encoder)
    frozen._modules = {"backbone": _subgraph(encoder.backbone, early, None, value)}
    frozen.up_to, frozen.moving_statistics = trained[0], ()
    return frozen.eval(), _subgraph(encoder.backbone, late, value, None)


def _subgraph(backbone, nodes, entry, exit):
    """The nodes as a module, from the value `entry` (None: the input) to `exit` (None: the output)."""
    graph = fx.Graph()
    copies = {entry: graph.placeholder("x")} if entry is not None else {}
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda n: copies[n])
    if exit is not None:
        graph.output(copies[exit])
    return fx.GraphModule(backbone, graph)


class ChannelsLast(nn.Module):
    """The encoder on frames as they lie in memory, (N, [M,] S, S, C): the engine moves the channels."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, frames):
        axes = [*range(frames.dim() - 3), *(frames.dim() + i for i in (-1, -3, -2))]
        return self.encoder(frames.permute(axes))
