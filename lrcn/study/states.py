"""What happens inside the LSTM: its gates and cell states, and how long a past action stays there.

torch keeps the gates to itself, so the recurrence is written out here from the module's weights
(a test compares the outputs). Tensors in, tensors out: no files.

    i, f, o = sigmoid(W x + U h + b), g = tanh(...)      input, forget and output gate, candidate
    c = f * c + i * g,  h = o * tanh(c)
"""
import numpy as np
import torch

GATES = ("input", "forget", "output")


def weights_of(lstm, layer, reverse):
    """(W (4H, I), U (4H, H), b (4H,)) of one layer and direction; the gates' order is i, f, g, o."""
    end = f"l{layer}{'_reverse' if reverse else ''}"
    w, u = getattr(lstm, f"weight_ih_{end}"), getattr(lstm, f"weight_hh_{end}")
    bias = getattr(lstm, f"bias_ih_{end}") + getattr(lstm, f"bias_hh_{end}") if lstm.bias else 0
    return w, u, bias


def scan(x, weights):
    """One direction of one layer over x (B, T, I), in the order given -> {name: (B, T, H)}."""
    w, u, bias = weights
    fed = x @ w.T + bias
    h = x.new_zeros(len(x), u.shape[1])
    c, kept = h, {name: [] for name in (*GATES, "c", "h")}
    for t in range(x.shape[1]):
        i, f, g, o = (fed[:, t] + h @ u.T).chunk(4, 1)
        i, f, o = i.sigmoid(), f.sigmoid(), o.sigmoid()
        c = f * c + i * g.tanh()
        h = o * c.tanh()
        for name, value in zip(kept, (i, f, o, c, h), strict=True):
            kept[name].append(value)
    return {name: torch.stack(values, 1) for name, values in kept.items()}


def directions(lstm):
    """(False,) or (False, True): which of them are reversed."""
    return (False, True) if lstm.bidirectional else (False,)


def unroll(lstm, x):
    """x (B, T, I) -> [layer][direction] of {input, forget, output, c, h: (B, T, H)}, in time's order."""
    layers = []
    for layer in range(lstm.num_layers):
        states = []
        for reverse in directions(lstm):
            run = scan(x.flip(1) if reverse else x, weights_of(lstm, layer, reverse))
            states.append({k: v.flip(1) for k, v in run.items()} if reverse else run)
        layers.append(states)
        x = torch.cat([state["h"] for state in states], 2)
    return layers


@torch.inference_mode()
def gate_means(lstm, x, batch=512):
    """Every gate's mean over the units: x (B, T, I) -> float array (layers, directions, 3, B, T)."""
    parts = []
    for part in x.split(batch):
        layers = unroll(lstm, part)
        parts.append(torch.stack([torch.stack([torch.stack([state[g].mean(2) for g in GATES])
                                               for state in states]) for states in layers]).cpu())
    return torch.cat(parts, 3).numpy()


@torch.inference_mode()
def cell_memory(lstm, x, rows, cuts, frames):
    """How much of the past beyond a cut is left in the cell state, frame by frame after the cut.

    x: (B, F, I), whole movies run through without restart. The n cuts are before frame cuts[j] of
    movie rows[j]. Each is run a second time from the cut on with an empty state; the trace is
    the distance between the two cell states over the size of the state that crossed the cut.
    The backward half is treated alike, in its own order: what it carries over is the coming action.
    -> float array (layers, directions, n, frames + 1): 1 at the cut, NaN beyond the movie's end.
    """
    long = unroll(lstm, x)
    result = np.full((lstm.num_layers, len(long[0]), len(rows), frames + 1), np.nan, np.float32)
    for d, reverse in enumerate(directions(lstm)):
        places = _places(cuts, frames, x.shape[1], reverse)
        fresh = None
        for layer, states in enumerate(long):
            fed = x if layer == 0 else torch.cat([state["h"] for state in long[layer - 1]], 2)
            fed = fed[rows[:, None], np.clip(places[:, 1:], 0, x.shape[1] - 1)]
            if fresh is not None:   # this direction's half comes from the run that began at the cut
                width = lstm.hidden_size
                fed = torch.cat([fresh, fed[..., width:]] if d == 0 else [fed[..., :width], fresh], 2)
            run = scan(fed, weights_of(lstm, layer, reverse))
            fresh = run["h"]
            result[layer, d] = _trace(states[d]["c"], run["c"], rows, places)
    return result


def _places(cuts, frames, total, reverse):
    """(n, frames + 1) places in the movie: the last before the cut, then those after it, as read."""
    steps = np.arange(frames + 1)
    return cuts[:, None] - steps if reverse else cuts[:, None] - 1 + steps


def _trace(long, fresh, rows, places):
    """|c of the long run - c of the fresh run| / |c that crossed the cut|, (n, frames + 1)."""
    total = long.shape[1]
    there = long[rows[:, None], np.clip(places, 0, total - 1)]
    size = there[:, :1].norm(dim=2).clamp_min(1e-12)
    apart = (there[:, 1:] - fresh).norm(dim=2) / size
    trace = torch.cat([torch.ones_like(size), apart], 1).cpu().numpy()
    trace[(places < 0) | (places >= total)] = np.nan
    return trace


@torch.inference_mode()
def logits(head, features, video, frame, batch=512):
    """Logits of windows: features (V, L, D); video, frame int (N, T) -> float32 array (N, C).

    A window that occurs several times is computed once, and so is the projection of every frame.
    """
    unique, back = np.unique(video * features.shape[1] + frame, axis=0, return_inverse=True)
    flat = features.flatten(0, 1).float()
    if head.lstm is not None:
        flat = head.projection(flat)
    index = torch.from_numpy(unique).to(flat.device)
    answer = head if head.lstm is None else lambda frames: head.classify(head.lstm(frames)[0])
    found = torch.cat([answer(flat[part]).float() for part in index.split(batch)])
    return found.cpu().numpy()[back.reshape(-1)]


@torch.inference_mode()
def run_through(head, x, length):
    """Each movie in one go, never restarted: logits read from the latest `length` steps.

    x: features (B, F, D) -> (B, F, C), NaN for the first length - 1 frames. A bidirectional LSTM's
    backward half has seen the movie's end, so that only one direction is a fair stream.
    """
    latest = head.steps(x).unfold(1, length, 1).movedim(3, 2)     # (B, F-length+1, length, width)
    found = head.classify(latest.flatten(0, 1)).unflatten(0, latest.shape[:2])
    blank = found.new_full((len(x), length - 1, found.shape[2]), float("nan"))
    return torch.cat([blank, found], 1).float().cpu().numpy()


@torch.inference_mode()
def frame_influence(head, x, replacement, labels):
    """What each frame is worth: loss of the true class's logit when it alone is replaced.

    x: (V, T, D), replacement: (V, D) or (1, D), labels: int (V,) -> float32 array (V, T). Logits
    are taken above their mean over the classes, for the softmax sees no more of them.
    """
    def true_logit(x):
        logits = head(x).float()
        return (logits - logits.mean(1, keepdim=True))[torch.arange(len(x)), labels]

    whole, losses = true_logit(x), []
    for t in range(x.shape[1]):
        changed = x.clone()
        changed[:, t] = replacement
        losses.append(whole - true_logit(changed))
    return torch.stack(losses, 1).cpu().numpy()
