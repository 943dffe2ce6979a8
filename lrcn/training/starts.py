"""What a training starts from, and what the weights that it takes over have learned.

    for flag, learned in starts(recipe): ...                    # of --init_from and --streams
    what_it_learned(load_file(path, "resume"), path, "resume")  # of a checkpoint
"""
from dataclasses import replace
from pathlib import Path

from lrcn import checkpoints
from lrcn.base.cli import UserError
from lrcn.data import splits
from lrcn.data.learned import Learned
from lrcn.data.manifest import SampledVideo
from lrcn.runs import RunFolder, checkpoint_path
from lrcn.training.recipe import Recipe


def what_it_learned(state, path, flag, later=()):
    """The Learned of a checkpoint. Of an older one, which says nothing of it, by the splits.csv beside it and
    by the runs that it started from, as far as they are still there. later: checkpoints that started from it.
    """
    source = f"--{flag} {path}"
    if "learned" in state:
        return Learned.of(state["learned"], source)
    recipe, table = Recipe.of(state.get("settings"), source), RunFolder.of(path).splits
    learned = Learned()
    for _, before in starts(recipe, (*later, Path(path).resolve())):
        learned |= before
    if not table.is_file():
        return replace(learned, known=False)
    rows = [row for row in splits.read_splits(table) if row["part"] == "train"]
    videos = [SampledVideo(row["video"], row["class"], row["group"], 1) for row in rows]
    return learned.after(videos, recipe.frozen)


def starts(recipe, later=None):
    """[(flag and run, Learned of what is taken over from it)] of --init_from and --streams.

    later: None for a new training; else the checkpoints that started from this recipe's, and a run that is
    gone, or that is one of them, is one of which nothing is known.
    """
    taken = [("init_from", recipe.init_from)] if recipe.init_from else []
    begun = []
    for flag, run in [*taken, *(("streams", run) for run in recipe.streams or ())]:
        try:
            path = checkpoint_path(run, flag=flag)
            if path.resolve() in (later or ()):
                raise UserError("it began with itself, or lies in the place of what it began with")
            learned = what_it_learned(checkpoints.load_file(path, flag), path, flag, later or ())
        except UserError:
            if later is None:
                raise
            learned = Learned(known=False)
        # of a stream the encoder alone is used; of the other one the projection too
        if flag == "streams":
            learned = replace(learned, network=learned.encoder)
        begun.append((f"--{flag} {run}", learned))
    return begun
