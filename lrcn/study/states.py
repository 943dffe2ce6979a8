"""What happens inside the LSTM: its gates and cell states, and how long a past action stays there.

torch keeps the gates to itself, so the recurrence is written out here from the module's weights
(a test compares the outputs). Tensors in, tensors out: no files.

    i, f, o = sigmoid(W x + U h + b), g = tanh(...)      input, forget and output gate, candidate
    c = f * c + i * g,  h = o * tanh(c)
"""
import numpy as np

from lrcn.base.lazy import Lazy, inference_mode

torch = Lazy("torch")

GATES = ("input", "forget", "output")


def scan(lstm, layer, reverse, x):
    """One direction of one layer over x (B, T, I), in the order given -> {name: (B, T, H)}."""
    w, u, *biases = lstm.all_weights[layer * (1 + lstm.bidirectional) + reverse]
    fed = x @ w.T + sum(biases)
    h = c = x.new_zeros(len(x), u.shape[1])
    kept = {name: [] for name in (*GATES, "c", "h")}
    for t in range(x.shape[1]):
        i, f, g, o = (fed[:, t] + h @ u.T).chunk(4, 1)
        i, f, o = i.sigmoid(), f.sigmoid(), o.sigmoid()
        c = f * c + i * g.tanh()
        h = o * c.tanh()
        for name, value in zip(kept, (i, f, o, c, h), strict=True):
            kept[name].append(value)
    return {name: torch.stack(values, 1) for name, values in kept.items()}


def unroll(lstm, x):
    """x (B, T, I) -> [layer][direction] of {input, forget, output, c, h: (B, T, H)}, in time's order."""
    layers = []
    for layer in range(lstm.num_layers):
        states = [scan(lstm, layer, 0, x)]
        if lstm.bidirectional:
            states.append({k: v.flip(1) for k, v in scan(lstm, layer, 1, x.flip(1)).items()})
        layers.append(states)
        x = torch.cat([state["h"] for state in states], 2)
    return layers


@inference_mode
def gate_means(lstm, x, batch=512):
    """Every gate's mean over the units: x (B, T, I) -> float array (layers, directions, 3, B, T)."""
    parts = []
    for part in x.split(batch):
        layers = unroll(lstm, part)
        parts.append(torch.stack([torch.stack([torch.stack([state[g].mean(2) for g in GATES])
                                               for state in states]) for states in layers]).cpu())
    return torch.cat(parts, 3).numpy()


@inference_mode
def cell_memory(lstm, x, rows, cuts, frames):
    """How much of the past beyond a cut is left in the cell state, frame by frame after the cut.

    x: (B, F, I), whole movies run through without restart. The n cuts are before frame cuts[j] of
    movie rows[j]. Each is run a second time from the cut on with an empty state; the trace is
    the distance between the two cell states over the size of the state that crossed the cut.
    The backward half is treated alike, in its own order: what it carries over is the coming action.
    -> float array (layers, directions, n, frames + 1): 1 at the cut, NaN beyond the movie's end.
    """
    long, total, steps = unroll(lstm, x), x.shape[1], np.arange(frames + 1)
    result = np.full((lstm.num_layers, len(long[0]), len(rows), frames + 1), np.nan, np.float32)
    for d in range(len(long[0])):
        # (n, frames + 1): the last place before the cut, then those after it, as this direction reads them
        places = cuts[:, None] - steps if d else cuts[:, None] - 1 + steps
        at, fresh = (rows[:, None], np.clip(places, 0, total - 1)), None
        for layer, states in enumerate(long):
            fed = x if layer == 0 else torch.cat([state["h"] for state in long[layer - 1]], 2)
            fed = fed[at[0], at[1][:, 1:]]
            if layer:       # this direction's half comes from the run that began at the cut
                fed[..., d * lstm.hidden_size:(d + 1) * lstm.hidden_size] = fresh["h"]
            fresh = scan(lstm, layer, d, fed)
            crossed, after = states[d]["c"][at].split([1, frames], 1)
            size = crossed.norm(dim=2).clamp_min(1e-12)
            apart = (after - fresh["c"]).norm(dim=2) / size
            trace = torch.cat([torch.ones_like(size), apart], 1).cpu().numpy()
            result[layer, d] = np.where((places < 0) | (places >= total), np.nan, trace)
    return result


@inference_mode
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


@inference_mode
def run_through(head, x, length):
    """Each movie in one go, never restarted: logits read from the latest `length` steps.

    x: features (B, F, D) -> (B, F, C), NaN for the first length - 1 frames. A bidirectional LSTM's
    backward half has seen the movie's end, so that only one direction is a fair stream.
    """
    latest = head.steps(x).unfold(1, length, 1).movedim(3, 2)     # (B, F-length+1, length, width)
    found = head.classify(latest.flatten(0, 1)).unflatten(0, latest.shape[:2])
    blank = found.new_full((len(x), length - 1, found.shape[2]), float("nan"))
    return torch.cat([blank, found], 1).float().cpu().numpy()


@inference_mode
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
