"""Small films of the test clips, beside the page that plays them.

    shown, missing = write_clips(run, sampled, 3)   # {number of the tested video: path below the run}
"""
import numpy as np

from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.data.frames import source_frames
from lrcn.data.manifest import read_sampled, sampling_settings
from lrcn.drawing.labels import fit_frame
from lrcn.video.reader import VideoError
from lrcn.video.sampling import Rate
from lrcn.video.writer import Writer

SIDE, FRAMES = 192, 60      # pixels of the longer side; frames of a long clip


def chosen(tested, most):
    """Numbers of the tested videos to draw: of every cell of the confusion matrix the `most` surest ones."""
    order = np.argsort(-tested.probabilities.max(1), kind="stable")
    cells, found = {}, []
    for i in order.tolist():
        cell = cells.setdefault((tested.labels[i], tested.predicted[i]), [])
        if len(cell) < most:
            cell.append(i)
            found.append(i)
    return sorted(found)


def write_clips(run, sampled, most):
    """{number of the tested video: path below the run folder}; where the sampled clips are gone, the films
    that test.py left. The sentence that says so comes second, or None."""
    tested, folder = run.tested, run.folder
    try:
        there = {(v.cls, v.name): v for v in read_sampled(sampled)} if sampled and most else {}
        fps = Rate.of(sampling_settings(sampled)).per_second if there else None
    except UserError as error:
        return left_by_test(run), (f"the sampled clips cannot be read ({error}): the page plays the films "
                                   f"that test.py left")
    if not there:
        return left_by_test(run), None
    found = {}
    with files.replaced_folder(folder.report_clips, own=("*",)) as new:
        for i in cli.progress(chosen(tested, most), desc="drawing clips", unit="clip"):
            video = there.get((tested.videos[i].cls, tested.videos[i].name))
            path = new / f"{i}.mp4"
            if video and _write(path, sampled, video, fps):
                found[i] = folder.report_clips.name + f"/{path.name}"
    return found, None


def _write(path, sampled, video, fps):
    """One clip as a small film; False where it cannot be read."""
    try:
        frames = source_frames(sampled, video, range(min(video.frames, FRAMES)))
    except (VideoError, OSError, UserError):
        return False
    high, wide = frames[0].shape[:2]
    scale = SIDE / max(high, wide)
    size = [max(2, round(side * scale / 2) * 2) for side in (wide, high)]
    with Writer(path, fps, *size) as writer:
        for frame in frames:
            writer.write(fit_frame(frame, *size))
    return True


def left_by_test(run):
    """{number of the tested video: path below the run folder} of the films that test.py drew."""
    found = {}
    for i, (cls, name) in enumerate(run.tested.names):
        path = run.folder.test.clip(cls, name, bool(run.tested.right[i]))
        if path.is_file():
            found[i] = path.relative_to(run.folder.path).as_posix()
    return found
