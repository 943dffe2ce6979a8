"""Which video is in train, validation and test: splits that are drawn by group, and the table of a run's."""
import hashlib
import itertools
import json
from collections import Counter, defaultdict
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np

from lrcn.base import UserError, files
from lrcn.data.manifest import SampledVideo
from lrcn.data.split_lists import whole_number

PARTS = ("train", "val", "test")
SPLIT_COLUMNS = ("video", "class", "label", "group", "part")


def _order(items, *seed):
    """The items shuffled by `seed` alone, alike on every machine and in every release."""
    return sorted(items, key=lambda x: hashlib.sha256(repr((*seed, x)).encode()).digest())


def known_parts(rows, videos, by_video=False):
    """{group: part} of the rows of read_splits, by their groups and by those that `videos` have now. Of a
    group that is in several parts, by another --group_pattern, the most held out one."""
    group, parts = attrgetter("key" if by_video else "group"), {row.key: row.part for row in rows}
    now = [replace(v, part=part) for v in videos if (part := v.in_table(parts))]
    return {group(v): v.part for v in sorted([*now, *rows], key=lambda v: PARTS.index(v.part))}


def _members(videos, group):
    """({group: Counter of its videos' classes}, {class: its groups})."""
    members, groups_of = defaultdict(Counter), defaultdict(set)
    for v in videos:
        members[group(v)][v.cls] += 1
        groups_of[v.cls].add(group(v))
    return members, groups_of


def hold_out(videos, fraction, seed, by_video=False, known=None):
    """(kept, held out): about `fraction` of every class's videos, whole groups, drawn by `seed`. No class
    loses its last group. by_video: every video is a group, which leaks, for comparison only. known: {group:
    is it held out?} of groups that are not drawn."""
    known, group = known or {}, attrgetter("key" if by_video else "group")
    left, total = Counter(v.cls for v in videos), Counter(v.cls for v in videos)
    members, groups_of = _members(videos, group)
    chosen = {g for g in members if known.get(g)}
    for g in chosen:
        left.subtract(members[g])
    for cls in sorted(total):
        for g in _order(groups_of[cls] - chosen - known.keys(), seed, cls):
            wanted = fraction * total[cls] - (total[cls] - left[cls])
            nearer = abs(wanted - members[g][cls]) < abs(wanted)
            if wanted > 0 and nearer and all(left[c] > n for c, n in members[g].items()):
                chosen.add(g)
                left.subtract(members[g])
    return [v for v in videos if group(v) not in chosen], [v for v in videos if group(v) in chosen]


def folds(videos, count, seed):
    """int array (videos,): the fold 0 to count - 1 of each video, whole groups, every class spread evenly,
    drawn by `seed`. UserError: too few groups, or a class of one, which no network could have learned."""
    members, groups_of = _members(videos, attrgetter("group"))
    if len(members) < count:
        raise UserError(f"--folds {count}: there are {len(members)} groups of clips; take fewer folds")
    fold, held = {}, [Counter() for _ in range(count)]
    for cls in sorted(groups_of):
        drawn = _order([g for g in groups_of[cls] if g not in fold], seed, cls)
        for g in sorted(drawn, key=lambda g: -members[g].total()):     # the large ones first: evener folds
            fold[g] = min(range(count), key=lambda k: (held[k][cls], held[k].total(), k))
            held[fold[g]].update(members[g])
    if alone := [cls for cls, groups in groups_of.items() if len({fold[g] for g in groups}) < 2]:
        raise UserError(f"--folds {count}: all clips of {alone[0]} would be held out at once, as one group; "
                        f"leave the class out with --classes")
    return np.array([fold[v.group] for v in videos])


def smaller(videos, fraction=0.1, least=4):
    """The first tenth of every class's videos, `least` at the least, in the order given."""
    counts, place = Counter(v.cls for v in videos), defaultdict(itertools.count)
    return [v for v in videos if next(place[v.cls]) < max(least, round(fraction * counts[v.cls]))]


def make_samples(parts, classes):
    """[SampledVideo] with label and part of {part: [SampledVideo]}, in that order; without other classes."""
    label = {cls: i for i, cls in enumerate(classes)}
    return [replace(v, label=label[v.cls], part=part) for part, videos in parts.items() for v in videos
            if v.cls in label]


def write_splits(path, samples):
    files.write_csv(path, SPLIT_COLUMNS, [(v.name, v.cls, v.label, v.group, v.part) for v in samples])


def splits_seal(path):
    """{"rows", "digest"} of a run's splits.csv, which its settings.json keeps as "splits"."""
    rows = files.read_csv(path, SPLIT_COLUMNS)
    content = json.dumps([[row[name] for name in SPLIT_COLUMNS] for row in rows])
    return {"rows": len(rows), "digest": hashlib.sha256(content.encode()).hexdigest()}


def read_splits(path):
    """[SampledVideo] with label and part of a splits.csv; UserError: not as the run's settings.json says."""
    rows = files.read_csv(path, SPLIT_COLUMNS)
    settings = Path(path).with_name("settings.json")
    if Path(path).name == "splits.csv" and settings.is_file():
        seal, now = files.read_json(settings).get("splits"), splits_seal(path)
        if seal and seal != now:
            before = seal.get("rows") if isinstance(seal, dict) else seal
            fault = "other rows than" if before == now["rows"] else f"{now['rows']} of the {before} rows"
            raise UserError(f"{path}: it holds {fault} the run wrote; put back a whole copy, or, where "
                            f"the change was meant, take \"splits\" out of {settings}")
    videos = []
    for number, row in enumerate(rows, 2):
        if row["part"] not in PARTS:
            raise UserError(f"{path} line {number}: {row['part']!r} is not one of {', '.join(PARTS)}")
        label = whole_number(row["label"], f"{path} line {number}")
        videos.append(SampledVideo(row["video"], row["class"], row["group"], part=row["part"], label=label))
    return videos


def counted(parts):
    """["3 train", "1 test"] of the parts of videos."""
    return [f"{n} {part}" for part in PARTS if (n := list(parts).count(part))]
