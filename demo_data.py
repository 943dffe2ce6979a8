"""Draw the embedded data set: videos whose single frames say nothing, only their order does.

    python demo_data.py --output_dir demo/data

Three pairs of classes: a disc that moves left or right, a target that grows or shrinks, a blade that turns
clockwise or counter-clockwise. The second class of a pair shows the first one's frames backwards, and every
motion is periodic with a random phase. So within a pair a single frame, or the mean of frames, is at
chance. The folder has UCF-101's layout and lists: UCF-101/<Class>/v_<Class>_gNN_cNN.avi (MPEG-4, 320x240,
25 frames a second, one group in six 29.97) and ucfTrainTestlist/, where groups 1-7, 8-14 and 15-21 are the
tests of splits 1 to 3. The clips of a group share a background.
"""
import itertools
import json
import os
from pathlib import Path

import numpy as np

from lrcn.base import Lazy, cli, files
from lrcn.base.values import COUNT, POSITIVE, Number
from lrcn.base.workers import pool
from lrcn.video.writer import Writer

cv2 = Lazy("cv2")

PAIRS = {"move": ("MoveRight", "MoveLeft"),
         "size": ("Grow", "Shrink"),
         "turn": ("TurnClockwise", "TurnCounterclockwise")}
CLASSES = sorted(itertools.chain(*PAIRS.values()))
WIDTH, HEIGHT = 320, 240
Y, X = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
CENTRE = np.array([WIDTH / 2, HEIGHT / 2])


def random_numbers(seed, *names):
    """A generator for this seed and these names alone, whatever is drawn before or beside it."""
    return np.random.default_rng([seed, *"/".join(map(str, names)).encode()])


def draw_clip(pair, place, clip, fps, seed):
    """The frames of one clip in the order of the pair's first class: list of uint8 (H, W, 3) RGB. place: the
    group's seed, of a dim room. A white object shows coloured light as it passes, and its hue follows the
    motion: an encoder without training averages over places, but colours tell it the phase of the motion."""
    rng = random_numbers(seed, place)
    slope = rng.uniform(-1, 1, 2)
    light = 50 + 20 * (slope[0] * (X / WIDTH - 0.5) + slope[1] * (Y / HEIGHT - 0.5))
    room = light[..., None] * rng.uniform(0.6, 1.2, 3)
    for _ in range(12):
        corner = rng.integers(0, (WIDTH, HEIGHT))
        x, y = np.minimum(corner + rng.integers(20, 120, 2), (WIDTH, HEIGHT))
        room[corner[1]:y, corner[0]:x] *= rng.uniform(0.6, 1.5, 3)
    room = cv2.GaussianBlur(np.clip(room, 0, 110).astype(np.uint8), (0, 0), 2)
    rng = random_numbers(seed, place, pair)
    across, up = X - CENTRE[0], Y - CENTRE[1]
    hue = {"move": X / WIDTH,
           "turn": np.arctan2(up, across) / (2 * np.pi) % 1,
           "size": np.hypot(across, up) / 160}[pair] + rng.uniform(-0.04, 0.04)
    hsv = np.stack([hue % 1 * 180, np.full_like(X, rng.uniform(170, 255)),
                    np.full_like(X, rng.uniform(200, 255))], -1)
    lamps, size = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), rng.uniform(0.9, 1.05)
    rng = random_numbers(seed, place, pair, clip)
    seconds, lap, start = rng.uniform(1.9, 2.6), rng.uniform(1.7, 2.4), rng.uniform()
    height = rng.uniform(-50, 50)       # pixels from the middle at which it moves
    frames = []
    for t in range(round(seconds * fps)):
        phase = (start + t / fps / lap) % 1
        mask, discs = np.zeros((HEIGHT, WIDTH), np.uint8), []       # where the object is
        if pair == "move":    # what leaves on the right comes in on the left
            discs = [(CENTRE + ((phase + turn - 0.5) * WIDTH, height), 52 * size) for turn in (-1, 0, 1)]
        elif pair == "size":
            discs = [(CENTRE, (15 + 100 * phase) * size)]
        else:
            angles = 2 * np.pi * (phase + np.linspace(-0.2, 0.2, 25))
            rim = 112 * size * np.stack([np.cos(angles), np.sin(angles)], -1)
            points = CENTRE + np.concatenate([[[0, 0]], rim])
            cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, shift=4)
        for centre, radius in discs:
            x, y = np.round(centre * 16).astype(int).tolist()
            cv2.circle(mask, (x, y), round(radius * 16), 255, cv2.FILLED, shift=4)
        frames.append(cv2.copyTo(lamps, mask, room.copy()))
    return frames


def write_group(job):
    """All clips of one group of a pair; returns how many videos it wrote."""
    folder, pair, group, clips, seed, twins = job
    cv2.setNumThreads(1)        # two processes share two cores without OpenCV's threads
    fps = 30000 / 1001 if group % 6 == 5 else 25
    for clip in range(1, clips + 1):
        for direction, name in zip((1, -1), PAIRS[pair], strict=True):
            if direction == 1 or not twins:
                place = f"g{group}" if twins else f"g{group} {name}"
                frames = draw_clip(pair, place, clip, fps, seed)
            path = folder / "UCF-101" / name / f"v_{name}_g{group:02}_c{clip:02}.avi"
            with Writer(path, fps, WIDTH, HEIGHT) as writer:
                for frame in frames[::direction]:
                    writer.write(frame)
    return 2 * clips


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument("--output_dir", default="demo/data", help="folder for the videos and lists")
    parser.add_argument("--groups", type=Number(int, low=8, high=99), default=25,
                        help="groups a class; 8 or more for split 1, 22 or more for all three splits")
    parser.add_argument("--clips", type=Number(int, low=1, high=99), default=2, help="clips a group")
    parser.add_argument("--seed", type=COUNT, default=42, help="another seed, other videos")
    parser.add_boolean("--twins", default=True,
                       help="the classes of a pair share their scenes, one backwards; False: every class "
                            "has scenes of its own, as in UCF-101, which a split by video gives away")
    parser.add_argument("--num_workers", type=POSITIVE, default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    folder = Path(args.output_dir).expanduser()
    settings = {name: getattr(args, name) for name in ("groups", "clips", "seed", "twins")}
    drawn = folder / "settings.json"
    if not drawn.exists():
        for name in CLASSES:
            (folder / "UCF-101" / name).mkdir(parents=True, exist_ok=True)
        (folder / "ucfTrainTestlist").mkdir(exist_ok=True)
        total = len(CLASSES) * args.groups * args.clips
        files.require_space(folder, total * 200e3, f"{total} videos")
        jobs = [(folder, pair, group, args.clips, args.seed, args.twins)
                for group in range(1, args.groups + 1) for pair in PAIRS]
        with pool(args.num_workers) as workers, \
                cli.progress(total=total, unit="video", desc="drawing") as bar:
            for count in workers.map(write_group, jobs):
                bar.update(count)
        lists = {"classInd": [f"{label} {name}" for label, name in enumerate(CLASSES, 1)]}
        for split in (1, 2, 3):     # as the data set's own: labels in the training lists only
            train, test = lists[f"trainlist{split:02}"], lists[f"testlist{split:02}"] = [], []
            for (label, name), group, clip in itertools.product(
                    enumerate(CLASSES, 1), range(1, args.groups + 1), range(1, args.clips + 1)):
                line = f"{name}/v_{name}_g{group:02}_c{clip:02}.avi"
                if 7 * split - 6 <= group <= 7 * split:
                    test.append(line)
                else:
                    train.append(f"{line} {label}")
        for name, lines in lists.items():
            files.write_text(folder / "ucfTrainTestlist" / f"{name}.txt",
                             "".join(f"{line}\r\n" for line in lines))
        files.write_json(drawn, settings)
    elif files.read_json(drawn) != settings:
        raise cli.UserError(f"--output_dir {folder}: it holds a data set drawn with other flags "
                            f"({json.dumps(files.read_json(drawn))}); delete it or choose another")
    cli.say(folder)


if __name__ == "__main__":
    cli.run(main)
