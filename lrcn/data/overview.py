"""The data report: what the sampled clips are, before a network learns them."""
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lrcn.base.cli import UserError
from lrcn.data import likeness, splits
from lrcn.data.journal import digest, read_tables
from lrcn.data.manifest import SampledVideo, clip_path, read_sampled, sampling_settings
from lrcn.data.review import numbered, read_review
from lrcn.data.sampler import is_picture
from lrcn.video.sampling import Rate

FOLDER = "data_report"


@dataclass(frozen=True)
class Clip(SampledVideo):
    """What the tables tell of a sampled video. seconds: of its source; marks: what is odd about it; number:
    in review.csv, or its place in the manifest."""
    source: str = ""
    rate: float = 0
    seconds: float = 0
    bytes: str = ""
    size: tuple = ()
    hashes: list = field(default=(), compare=False)
    marks: list = field(default=(), compare=False)
    number: int = 0


def make_report(out, lists=None, left_out=(), tiles=60):
    """The report on sampled clips: (lines, tables {file name: (columns, rows)}, sheets {class: (title, [(path
    of a clip, number of its frame, caption, what is odd or "")])}). lists: {split: (training [Listed], test
    [Listed])}; left_out: [(file of the source, reason)]; tiles: clips on a sheet, or "all"."""
    out = Path(out)
    clips, failed, doubles = look_over(out)
    # (title, {(class, video): part}) of every split of the lists, or of the one that the folders make
    by_folder = {c.key: c.part for c in clips if c.part}
    divisions = [("part", by_folder)] if by_folder and not lists else []
    for n, pair in (lists or {}).items():
        table = {row.key: part for part, rows in zip(("train", "test"), pair, strict=True) for row in rows}
        divisions.append((f"split {n}", {c.key: part for c in clips if (part := c.in_table(table))}))
    sizes = Counter((c.size, c.rate) for c in clips).most_common()
    columns = "set", "number", "class", "video", "source", "group", *(title for title, _ in divisions)
    tables = {
        "classes.csv": _classes(clips, divisions),
        "sizes.csv": (("width", "height", "source_fps", "videos"),
                      [(*size, f"{rate:g}", n) for (size, rate), n in sizes]),
        "odd.csv": (("number", "class", "video", "source", "what"),
                    [(c.number, *c.key, c.source, mark) for c in clips for mark in c.marks]),
        "left_out.csv": (("source", "reason"), [*left_out, *failed.items()]),
        "near_doubles.csv": (columns, [
            (place, c.number, *c.key, c.source, c.group, *(d.get(c.key, "") for _, d in divisions))
            for place, cluster in enumerate(doubles, 1) for c in cluster]),
        "groups.csv": (("video", "group"), _mended(clips, doubles))}
    lines = [*_about_clips(clips, divisions), *_about_faults(clips, divisions, left_out, failed, doubles),
             f"tables, and a contact sheet of every class: {FOLDER}/"]
    return lines, tables, _sheets(clips, doubles, out, len(clips) if tiles == "all" else tiles)


def look_over(out):
    """([Clip], {source that could not be read: reason}, [[Clip] that share a nearly equal frame]) of a folder
    of sampled clips. Equal source files share a hash of the file too: their clips may show other frames."""
    rows, failed = read_tables(out)
    settings, videos, same = sampling_settings(out), read_sampled(out), defaultdict(list)
    numbers = numbered([video.origin for video in videos], read_review(out))
    clips = [_read_clip(video, row, Rate.of(settings), numbers[video.origin], out)
             for video, row in zip(videos, rows, strict=True)]
    for clip in clips:
        same[clip.bytes, clip.rate, clip.seconds].append(clip)
    raw = settings.get("row_data_dir")
    for (size, *_), members in same.items():
        for clip in members if size and raw and len(members) > 1 else ():   # reads only files of one length
            if whole := digest(Path(raw, clip.source)):
                clip.hashes.append(whole[:8].hex())
    doubles = [[clips[i] for i in cluster] for cluster in likeness.clusters([c.hashes for c in clips])]
    return clips, failed, doubles


def _read_clip(video, row, rate, number, out):
    """The Clip of a SampledVideo and its row of the tables; UserError: there are no numbers in it."""
    try:
        fps, frames = float(row["source_fps"]), int(row["source_frames"])
        marks, hashes = [], row["hashes"].split()
        if float(row["light"]) < likeness.BLACK and float(row["contrast"]) < likeness.FLAT:
            marks.append("black")
        elif video.frames > 1 and float(row["change"]) < likeness.FROZEN:
            marks.append("frozen")
        if frames < video.frames:
            marks.append("its last frame is repeated")
        elif int(row["stride"]) < rate.stride(fps):
            marks.append("short: its frames are closer in time")
        if any(len(bytes.fromhex(text)) != 8 for text in hashes):
            raise ValueError("no hash")
        return Clip(**vars(video), source=row["source"], rate=fps, seconds=frames / fps, bytes=row["bytes"],
                    size=(row["width"], row["height"]), hashes=hashes, marks=marks, number=number)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{out}: manifest.csv and clips.csv hold no numbers for {'/'.join(video.key)}; "
                        f"restore manifest.csv, or delete clips.csv and run preprocessing_data.py again, "
                        f"which makes the clips anew") from None


def _classes(clips, divisions):
    rows, by_class = [], defaultdict(list)
    for clip in clips:
        by_class[clip.cls].append(clip)
    for cls, members in sorted(by_class.items()):
        seconds = [c.seconds for c in members]
        counts = [sum(parts.get(c.key) == part for c in members)
                  for _, parts in divisions for part in splits.PARTS]
        rows.append((cls, len(members), len({c.group for c in members}), f"{sum(seconds):.1f}",
                     f"{min(seconds):.2f}", f"{max(seconds):.2f}", *counts))
    columns = [f"{title} {part}" for title, _ in divisions for part in splits.PARTS]
    return ("class", "videos", "groups", "seconds", "shortest", "longest", *columns), rows


def _mended(clips, doubles):
    """[(class/video, group)] in which near doubles, and all that share a group with them, are one group."""
    names = sorted({c.group for c in clips})
    number = {name: i for i, name in enumerate(names)}
    links = [(number[c.group], number[cluster[0].group]) for cluster in doubles for c in cluster]
    label = likeness.components(len(names), *np.array(links, int).reshape(-1, 2).T).tolist()
    first = {component: name for name, component in zip(names[::-1], label[::-1], strict=True)}
    return [("/".join(c.origin), first[label[number[c.group]]]) for c in clips]


def _sheets(clips, doubles, out, most):
    """The sheets of make_report, at most `most` clips each: odd ones first, then some from all over."""
    double = {c.key for cluster in doubles for c in cluster if len({d.group for d in cluster}) > 1}
    sheets, by_class = {}, defaultdict(list)
    for clip in clips:
        mark = ", ".join([*clip.marks[:1], *["near double"] * (clip.key in double)])
        by_class[clip.cls].append((clip, mark))
    for cls, members in by_class.items():
        odd, plain = [m for m in members if m[1]], [m for m in members if not m[1]]
        odd = odd[:max(-(-most // 2), most - len(plain))]
        room = min(len(plain), most - len(odd))
        picked = odd + [plain[i] for i in np.linspace(0, len(plain) - 1, room).astype(int)]
        title = (f"{cls}: {len(picked)} of {len(members)} clips"
                 + (" (--report --sheet_clips all shows all)" if len(picked) < len(members) else ""))
        sheets[cls] = title, [(clip_path(out, *c.key), c.frames // 2, f"{c.number} {c.name}", mark)
                              for c, mark in picked]
    return sheets


def _shown(counts, most=4, form="{}"):
    """'A (5), B (3) and 2 more' of a Counter."""
    pieces = [f"{form.format(name)} ({n})" for name, n in counts.most_common(most)]
    more = len(counts) - len(pieces)
    return ", ".join(pieces) + (f" and {more} more" if more else "")


def _about_clips(clips, divisions):
    """Yields the lines on classes, groups, parts, sizes and lengths."""
    counts = Counter(c.cls for c in clips)
    (most, n), (least, m) = counts.most_common(1)[0], counts.most_common()[-1]
    groups, seconds = len({c.group for c in clips}), [c.seconds for c in clips]
    hours, pictures = sum(seconds) / 3600, all(is_picture(c.source) for c in clips)
    length = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    yield (f"data: {len(clips)} {'pictures' if pictures else 'videos'} of {len(counts)} classes, from {n} "
           f"of {most} to {m} of {least}; {groups} groups" + ("" if pictures else f"; {length} of film"))
    pieces = []
    for title, parts in divisions:
        there = [parts[c.key] for c in clips if c.key in parts]
        lacking = ", ".join(f"{n} classes have none in {part}" for part in splits.PARTS if part in there and (
            n := len(counts.keys() - {c.cls for c in clips if parts.get(c.key) == part})))
        pieces.append(f"{title}: {', '.join(splits.counted(there))}" + (f" ({lacking})" if lacking else ""))
    yield "; ".join(pieces) or "parts: none given; train.py draws them by group"
    rates = "" if pictures else f"; frames a second: {_shown(Counter(c.rate for c in clips), form='{:g}')}"
    yield f"pixels: {_shown(Counter('x'.join(c.size) for c in clips))}{rates}"
    if not pictures:
        short = Counter(mark for c in clips for mark in c.marks if mark not in ("black", "frozen"))
        yield (f"seconds: {min(seconds):.2g} to {max(seconds):.4g}, median {np.median(seconds):.3g}"
               + "".join(f"; {n} {what}" for what, n in short.items()))


def _about_faults(clips, divisions, left_out, failed, doubles):
    """Yields the lines on what was left out, black and frozen clips, near doubles and leaks."""
    pieces = [_shown(Counter(why for _, why in left_out))] if left_out else []
    if failed:
        pieces.append(f"cannot be read ({len(failed)})")
    yield (f"left out: {len(left_out) + len(failed)} files: {'; '.join(pieces)}: left_out.csv" if pieces else
           "left out: nothing")
    for what in ("black", "frozen"):
        if odd := ["/".join(c.key) for c in clips if what in c.marks]:
            yield f"{what}: {len(odd)} clips, such as {', '.join(odd[:3])}: odd.csv"
    line = "near doubles: none" if not doubles else (
        f"near doubles: {sum(map(len, doubles))} clips in {len(doubles)} sets: near_doubles.csv")
    leaks = [f"{n} in {title}" for title, parts in divisions if (n := sum(
        len({parts[c.key] for c in cluster if c.key in parts}) > 1 for cluster in doubles))]
    if leaks:
        line += f"; LEAK: sets across train and test: {', '.join(leaks)}"
    if across := [cluster for cluster in doubles if len({c.group for c in cluster}) > 1]:
        one = across[0]
        line += (f"; {len(across)} across groups ({'/'.join(one[0].key)}, {'/'.join(one[1].key)}): a split "
                 f"that is drawn keeps them together with --groups {FOLDER}/groups.csv")
    yield line
