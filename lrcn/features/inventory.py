"""What is in the feature store of a folder of sampled clips, and how to make it smaller.

    python -m lrcn.features.inventory sampled               # one line a key: encoder, frames, size
    python -m lrcn.features.inventory sampled --prune       # removes what no sampled video needs
    python -m lrcn.features.inventory sampled --remove KEY  # removes all features of one encoder
    python -m lrcn.features.inventory sampled --export features.npz [--key KEY]

writes the features of all frames in the plain view for other programs: features (N, ...), and of each its
video (class/name.avi), its frame's number in the sampled video and its label, the name of a class.
"""
import contextlib
import shutil
import time
from pathlib import Path

import numpy as np

from lrcn.base import UserError, cli, files
from lrcn.data.fields import flow_path
from lrcn.data.frames import Clip
from lrcn.data.manifest import read_sampled
from lrcn.features.rows import contents, entries_of, unique_rows
from lrcn.features.store import CHUNK, ENTRY, Store, Writer, read_description, writable


def keys(folder):
    """{the folder of a key: its Store, opened, or None where its key.json cannot be read}, the user's own
    first. With a wrong shape or dtype --prune would take whole rows for damaged."""
    stores = {}
    for root in dict.fromkeys((writable(folder), folder / "features")):
        for path in (file.parent for file in sorted(root.glob("*/key.json"))):
            store = None
            with contextlib.suppress(UserError, KeyError, TypeError, ValueError):
                description = read_description(path / "key.json")
                one = Store(folder, description["key"], description)
                if path in one.places and "shape" in description:
                    one.path, one.places = path, [path]
                    store = one.open()
            if store or any(path.glob("*.rows")):
                stores[path] = store
    return stores


def needed_videos(folder):
    """Fingerprints of the sampled videos, with and without flow, and of the grey picture: {(int, int)}."""
    videos, needed = read_sampled(folder), {(0, 0)}
    moving = [video for video in videos if (folder / flow_path(video)).is_file()]
    for shown, parts in ((videos, ("rgb",)), (moving, ("rgb", "flow"))):
        needed |= set(map(tuple, contents(folder, shown, parts)[0].tolist()))
    return needed


def sort_out(store, videos):
    """(ENTRY of all rows, int64: of the whole ones of `videos`, one row an entry)."""
    entries = np.concatenate([s.entries for s in store.segments] or [np.zeros(0, ENTRY)])
    wanted = entries[np.array([tuple(video) in videos for video in entries["video"].tolist()], bool)]
    rows = np.unique(store.find(wanted))
    return entries, rows[rows >= 0]


def prune(store, videos):
    """Keep what `videos` need of a store; a kill leaves the old entries, the new ones or both."""
    with store.alone():
        store.segments = []
        entries, rows = sort_out(store.open(), videos)
        if len(rows) == len(entries):
            return
        old = [path for kind in ("*.index", "*.rows") for path in store.path.glob(kind)]
        step = max(1, CHUNK // store.row_bytes)
        with contextlib.closing(Writer(store.path / f"pruned-{time.time_ns()}", store.row_bytes)) as writer:
            for i in range(0, len(rows), step):
                writer.put(entries[rows[i:i + step]], store.read(rows[i:i + step]))
        for path in old:
            path.unlink()
        store.segments = []
        store.open()


def export(stores, folder, name, target):
    """Write the features of a folder's sampled videos into a .npz file, without pickles. name: of the key,
    None where there is only one. UserError: no such key, or it holds none of them."""
    keys = {path.name: store for path, store in stores.items() if store}
    if name not in keys and (name or len(keys) != 1):
        raise UserError(f"--key {name}: choose one of {', '.join(keys) or 'none: nothing is stored yet'}")
    name, store = (name, keys[name]) if name else next(iter(keys.items()))
    parts = store.key["encoder"]["modality"].split("+")
    shown, _, _ = unique_rows(Clip(video, tuple(range(video.frames))) for video in read_sampled(folder)
                              if "flow" not in parts or (folder / flow_path(video)).is_file())
    rows = store.find(entries_of(folder, shown, 0, parts)[0])
    there = rows >= 0
    videos = [shown.shots[i][0] for i in shown.owner[there]]
    if not there.any():
        raise UserError(f"--export {target}: {name} holds no frame of these videos in the plain view")
    with files.atomic(target) as temporary, open(temporary, "wb") as file:
        np.savez(file, features=store.read(rows[there]), frames=shown.frame[there],
                 videos=np.array([video.path for video in videos]),
                 labels=np.array([video.cls for video in videos]))
    cli.say(f"{target}: {there.sum()} frames of {len(set(videos))} videos, of the key {name} "
            f"({store.key['encoder']['name']}); {(~there).sum()} are not stored")


def size(path):
    """The size of all files in a folder, in words."""
    return files.gigabytes(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument("sampled_data_path", metavar="SAMPLED",
                        help="folder that preprocessing_data.py wrote")
    parser.add_boolean("--prune", default=False, help="remove what no sampled video needs, and "
                       "the kept encoders: the next run builds its own again")
    parser.add_argument("--remove", nargs="+", default=[], metavar="KEY", help="remove all of these keys")
    parser.add_argument("--export", metavar="NPZ", help="write the features into this file")
    parser.add_argument("--key", default=None, help="which ones (default: those of the only key)")
    args = parser.parse_args()
    folder = cli.folder("sampled_data_path", args.sampled_data_path, "make it with preprocessing_data.py")
    root, videos, stores = folder / "features", needed_videos(folder), keys(folder)
    if args.export:
        return export(stores, folder, args.key, Path(args.export).expanduser())
    unknown = set(args.remove) - {path.name for path in stores}
    if unknown:
        raise UserError(f"--remove {' '.join(sorted(unknown))}: no such key in {root}; "
                        f"take the first word of a line of the list")
    for path, store in stores.items():
        remove = path.name in args.remove
        try:
            if remove:
                with store.alone() if store else contextlib.nullcontext():
                    shutil.rmtree(path)
                continue
            if store and args.prune:
                prune(store, videos)
        except OSError as error:
            if error.errno not in cli.CLOSED:
                raise
            raise UserError(f"--{'remove' if remove else 'prune'}: {path} cannot be written "
                            f"({error.strerror}); ask its owner or leave it as it is") from None
        if not store:
            cli.say(f"{path.name}  key.json is damaged or old: a run that needs it writes it anew, its "
                    f"features stay until then; {size(path)}")
            continue
        entries, useful = sort_out(store, videos)
        key, spec = store.key, store.key["encoder"]
        part = f" up to {spec['up_to']}" if "up_to" in spec else ""
        unit = f"chunks of {spec['chunk']} frames" if "chunk" in spec else "frames"
        cli.say(f"{path.name}  {spec['name']}{part} {spec['modality']} {spec['crop']} pixels, "
                f"{key['backend']} {key['precision']} ({key['device']}), weights {key['weights'][:8]}: "
                f"{len(entries)} {unit}, {size(path)}, {len(entries) - len(useful)} not needed")
    if args.prune:
        shutil.rmtree(writable(folder, "encoders"), ignore_errors=True)
    cli.say(f"{root}: {size(root)}")


if __name__ == "__main__":
    cli.run(main)
