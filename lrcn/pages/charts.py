"""The charts of a report page, as plotly's own figures in plain containers: colours come with the page. Every
name of the data passes `plain`, for plotly reads some markup in its texts."""
import html
from collections import Counter

import numpy as np

from lrcn.base.lazy import Lazy
from lrcn.drawing import plots, style
from lrcn.evaluation import intervals

go = Lazy("plotly.graph_objects")

rgb = "rgb({},{},{})".format
SERIES = [rgb(*color) for color in style.SERIES[:6]]
DASHES = ("solid", "dash", "dot", "dashdot")
SHORT = 28      # letters of a name on an axis


def plain(text, limit=None):
    """A name as plotly shows it letter by letter, shortened in its middle."""
    text = "".join(c if c.isprintable() else "�" for c in str(text))
    if limit and len(text) > limit:
        text = f"{text[:limit // 2]}…{text[-(limit - limit // 2 - 1):]}"
    return html.escape(text, quote=False)


def chart(traces, **layout):
    """{data, layout}: a plotly figure, checked by plotly and without its template."""
    layout = {"margin": {"l": 60, "r": 16, "t": 34, "b": 50}, "hovermode": "closest", "dragmode": False,
              "legend": {"orientation": "h", "y": -0.22}, **layout}
    figure = go.Figure(traces, layout).to_plotly_json()
    figure["layout"].pop("template", None)
    return figure


SHARES = [-0.03, 1.05]      # the range of an axis of shares


def line(x, y, name, i=0, mode="lines+markers", **more):
    y = [None if v is None or not np.isfinite(v) else float(v) for v in y]
    return go.Scatter(x=list(x), y=y, name=name, mode=mode, connectgaps=True, marker={"size": 5},
                      line={"color": SERIES[i % len(SERIES)], "dash": DASHES[i % len(DASHES)]}, **more)


def curves(history):
    """{name: chart}: training and validation in one chart each for loss and accuracy; the learning rate."""
    epochs = [row["epoch"] for row in history]
    drawn = {}
    for name, title, axis in (("loss", "Cross-entropy", "loss, mean over clips"),
                              ("top1", "Accuracy", "accuracy")):
        traces = [line(epochs, plots.column(history, f"{part}_{name}"), word, i,
                       hovertemplate=f"epoch %{{x}}: %{{y:.3f}}<extra>{word}</extra>")
                  for i, (part, word, *_) in enumerate(plots.PARTS)]
        drawn[name] = chart(traces, title=title, xaxis_title="epoch", yaxis_title=axis,
                            yaxis_rangemode="tozero", height=330)
    rate = line(epochs, plots.column(history, "lr"), "learning rate", 2,
                hovertemplate="epoch %{x}: %{y:.3g}<extra></extra>")
    drawn["lr"] = chart([rate], title="Learning rate", xaxis_title="epoch", yaxis_rangemode="tozero",
                        yaxis_exponentformat="power", height=330)
    return drawn


def confusion(matrix, classes):
    """The matrix as shares of each row; customdata: videos, the row's videos."""
    cells = [[None if np.isnan(v) else round(float(v), 4) for v in row] for row in plots.row_shares(matrix)]
    places, names = list(range(len(classes))), [plain(cls, SHORT) for cls in classes]
    cell = 44 if len(classes) <= 20 else 26 if len(classes) <= 40 else 13
    axis = {"tickmode": "array", "tickvals": places, "ticktext": names, "showgrid": False, "zeroline": False,
            "tickfont": {"size": 12 if len(classes) <= 40 else 9}, "fixedrange": True}
    room = 20 + (7 if len(classes) <= 40 else 5.5) * max(map(len, names))
    counts = [[[int(n), int(row.sum())] for n in row] for row in matrix]
    heat = go.Heatmap(z=cells, customdata=counts, zmin=0, zmax=1, xgap=1, ygap=1,
                      hovertemplate="true %{y}<br>predicted %{x}<br>%{customdata[0]} of %{customdata[1]} "
                                    "(%{z:.0%})<extra></extra>",
                      colorbar={"title": {"text": "share of row"}, "thickness": 12, "tickformat": ".0%",
                                "lenmode": "pixels", "len": 220, "y": 1, "yanchor": "top"})
    if len(classes) <= 20:
        heat.update(text=[[str(n) if n else "" for n in row] for row in matrix], texttemplate="%{text}")
    side = cell * len(classes)
    return chart([heat], width=int(side + room + 130), height=int(side + room + 60),
                 margin={"l": int(room), "r": 110, "t": 16, "b": int(room)},
                 xaxis={**axis, "title": {"text": "predicted class", "standoff": 12}, "tickangle": -90},
                 yaxis={**axis, "title": {"text": "true class", "standoff": 12}, "autorange": "reversed"})


def accuracy_by_training(classes, counts, accuracy, n, few, correlation):
    """Does a class with few training videos do worse? A point a class; correlation: as text."""
    traces = [go.Scatter(
        x=counts[where].tolist(), y=accuracy[where].round(4).tolist(), mode="markers", name=name,
        marker={"size": 10, "symbol": {"o": "circle", "D": "diamond"}[marker], "color": rgb(*color),
                "line": {"width": 1}}, hoverinfo="text",
        hovertext=[f"{plain(classes[k])}: {accuracy[k]:.1%} of {n[k]}, {counts[k]} training videos"
                   for k in where]) for color, marker, name, where in plots.fewer_and_others(n, few)]
    return chart(traces, title=correlation, height=380, xaxis_title="training videos",
                 yaxis_title="accuracy of the class", yaxis_range=SHARES, yaxis_tickformat=".0%")


def points(x, estimates, name, i):
    """Figures of the study's metrics.json with their intervals; what has no value is left out."""
    known = [(at, e["value"], e.get("ci95"), e.get("n")) for at, e in zip(x, estimates, strict=True)
             if isinstance(e, dict) and e.get("value") is not None]
    texts = [f"{plain(name)}: {intervals.with_interval(value, ends) if ends else f'{value:.3f}'}, n = {n}"
             for _, value, ends, n in known]
    bars = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3,
            "array": [max(ends[1] - value, 0) if ends else 0 for _, value, ends, _ in known],
            "arrayminus": [max(value - ends[0], 0) if ends else 0 for _, value, ends, _ in known]}
    return line([row[0] for row in known], [row[1] for row in known], plain(name), i, error_y=bars,
                hoverinfo="text", hovertext=texts)


def switching(study):
    """The switching curves: share of the later action against its frames in the window."""
    traces = []
    for i, (name, curve) in enumerate(study["switching"].items()):
        ks = sorted(curve["curve"], key=int)
        trace = points([int(k) for k in ks], [curve["curve"][k] for k in ks], name, i)
        trace.visible = True if name in ("hard", "both ways") else "legendonly"
        traces.append(trace)
    return chart(traces, title="When does the later action win?", height=430, xaxis_dtick=1,
                 xaxis_title="frames of the later action in the window",
                 yaxis_title="p(later) / p(both), mean", yaxis_range=SHARES)


def shares(study):
    """Which action wins a window of two, by how many of its frames are the second's."""
    rows = sorted((tuple(map(int, mix.split("+"))), row) for mix, row in study["shares_by_mix"].items()
                  if mix.count("+") == 1)
    if not rows:
        return None
    return chart([points([counts[1] for counts, _ in rows], [row[who] for _, row in rows], who, i)
                  for i, who in enumerate(("first", "second", "neither"))],
                 title="Which action wins a mixed window", height=430, xaxis_dtick=1, yaxis_range=SHARES,
                 xaxis_title="frames of the second action", yaxis_title="share of windows won")


def gates(study):
    """{frames of the later action: chart} of the LSTM's mean gates by step, every layer and direction."""
    drawn = {}
    for k, by_gate in (study.get("lstm", {}).get("gates_by_step") or {}).items():
        gates = {f"{name}, layer {layer}, {way}": values for name, layers in by_gate.items()
                 for layer, directions in enumerate(layers or (), 1)
                 for way, values in zip(("forward", "backward"), directions, strict=False)}
        traces = [line(range(1, len(values) + 1), values, gate, i,
                       hovertemplate=f"step %{{x}}: %{{y:.3f}}<extra>{gate}</extra>")
                  for i, (gate, values) in enumerate(gates.items())]
        if traces:
            drawn[k] = chart(traces, title="The LSTM's gates, step by step", height=430, yaxis_range=SHARES,
                             xaxis_title="frame in the window", xaxis_dtick=1, yaxis_title="mean of the gate")
    return drawn


def timeline(film):
    """Probability of a film's six leading classes at the middle of every window; its segments underneath."""
    total = Counter()
    for _, _, best in film.windows:
        total.update({label: p or 0 for label, p in best.items()})
    leading = [label for label, _ in total.most_common(6)]
    middles = [round((a + b) / 2, 3) for a, b, _ in film.windows]
    traces = [line(middles, [best.get(label, 0) for _, _, best in film.windows], plain(label, SHORT), i,
                   "lines", hovertemplate=f"%{{x:.1f}} s: %{{y:.2f}}<extra>{plain(label, SHORT)}</extra>")
              for i, label in enumerate(leading)]
    color = dict(zip(leading, SERIES, strict=False))
    end = max([b for _, b, *_ in film.segments] + [b for _, b, _ in film.windows] + [1e-3])
    traces.append(go.Bar(
        orientation="h", base=[a for a, *_ in film.segments], x=[b - a for a, b, *_ in film.segments],
        y=[0] * len(film.segments), width=1, yaxis="y2", showlegend=False, hoverinfo="text",
        marker={"color": [color.get(label, "rgb(140,140,140)") for _, _, label, _ in film.segments]},
        hovertext=[f"{a:.1f} to {b:.1f} s: {plain(label)}" + (f" {p:.2f}" if p is not None else "")
                   for a, b, label, p in film.segments]))
    return chart(traces, height=300, hovermode="x", margin={"l": 50, "r": 16, "t": 10, "b": 40},
                 xaxis={"title": {"text": "seconds"}, "range": [0, end], "fixedrange": True, "anchor": "y2"},
                 yaxis={"range": SHARES, "domain": [0.2, 1], "fixedrange": True},
                 yaxis2={"domain": [0, 0.12], "showticklabels": False, "showgrid": False, "zeroline": False,
                         "fixedrange": True, "range": [-0.5, 0.5]})
