"""Networks written out by their equations, for the tests that compare."""
import torch


def one_direction(lstm, layer, x, suffix):
    """An LSTM layer's outputs in one direction, (T, hidden), of x (T, D). suffix: "" or "_reverse"."""
    w, u, b, c = (getattr(lstm, f"{name}_l{layer}{suffix}")
                  for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    state = cell = torch.zeros(lstm.hidden_size)
    outputs = []
    for step in x:
        i, f, g, o = (w @ step + b + u @ state + c).chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        state = o.sigmoid() * cell.tanh()
        outputs.append(state)
    return torch.stack(outputs)
