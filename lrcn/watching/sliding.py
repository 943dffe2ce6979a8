"""A window sliding over a video of any length: every sampled frame encoded once, in constant memory.

    slider = Slider(trained, device)
    history = History(slider.length)
    for known in analyse("film.mp4", slider, history, Rate()):
        ...                                     # history.windows[:known] are there
    segments = find_segments(history.times, history.end, history.smoothed(), 0.4, least=3)

Frames are sampled, cropped and encoded as in training. What a moment shows is told by all windows
that contain it: the probabilities of a sampled frame are the mean of theirs. Frame f lies in the
windows f - T + 1 to f, so that it is known once T - 1 more frames have been seen.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from lrcn.clips.frames import plain_box, to_input
from lrcn.clips.streams import as_modality, change_at, differences
from lrcn.encoding.engines import BLOCK, fastest
from lrcn.encoding.predictions import softmax
from lrcn.video.reader import Video, VideoError
from lrcn.video.sampling import read_clip, sample_video


class Slider:
    """The model on a stream of frames: each is encoded once, however many windows share it.

    `encoded` counts the frames that went through the encoder.
    """

    def __init__(self, trained, device, backend="torch", precision="auto"):
        self.length = trained.settings["num_frames_video"]
        self.transform, self.device = trained.model.encoder.transform, device
        self.encoder = fastest(trained.model.encoder, device, backend, precision)
        self.head = trained.model.head.eval()
        self.block = max(BLOCK[device.type], self.length)
        self.restart()
        self.push([np.zeros((self.transform.crop, self.transform.crop, 3), np.uint8)] * 2)      # warm up
        self.restart()

    def restart(self):
        """Forget the frames so far: the next ones are of another video."""
        self.tail, self.last, self.encoded, self.waiting = None, None, 0, []

    def crop(self, frame):
        """uint8 (H, W, 3) -> (S, S, 3), the encoder's size."""
        return to_input([frame], plain_box(*frame.shape[:2], self.transform), self.transform)[0]

    def inputs(self, crops):
        """Crops uint8 (n, S, S, 3) as the encoder takes them, see frames.clip_frames: (n, [2,] S, S, 3)."""
        if self.transform.modality == "rgb":
            return crops
        known = crops if self.last is None else np.concatenate([self.last, crops])
        pairs = np.array([change_at(i, len(known)) for i in range(len(known))][-len(crops):])
        self.last = crops[-1:]
        return as_modality(crops, differences(known[pairs[:, 1]], known[pairs[:, 0]]), self.transform)

    @torch.inference_mode()
    def push(self, crops):
        """Encode frames (S, S, 3); probabilities float32 (n, C) of the windows that end in them."""
        crops = [*self.waiting, *crops]
        if self.last is None and len(crops) == 1 and self.transform.modality != "rgb" and self.length > 1:
            self.waiting = crops    # its difference is that of the second, which has not come yet
            return np.empty((0, self.head.spec["classes"]), np.float32)
        self.waiting = []
        values = self.encoder(torch.from_numpy(self.inputs(np.stack(crops)))).float()
        self.encoded += len(values)
        if self.tail is not None:
            values = torch.cat([self.tail, values])
        self.tail = values[max(0, len(values) - self.length + 1):]
        if len(values) < self.length:
            return np.empty((0, self.head.spec["classes"]), np.float32)
        windows = values.unfold(0, self.length, 1).transpose(1, 2)
        logits = [self.head(part.contiguous()) for part in windows.split(256)]
        return softmax(torch.cat(logits).float()).cpu().numpy()


@dataclass
class History:
    """What has been seen of a video. Small: two bytes a class and sampled frame."""
    length: int
    times: list = field(default_factory=list)       # seconds of every sampled frame
    windows: list = field(default_factory=list)     # float16 (C,) of the window from frame i on
    end: float = 0.0                                # seconds at which the video ends

    def add(self, probabilities):
        self.windows += list(probabilities.astype(np.float16))
        return len(self.windows)

    def cut(self, known):
        """What the first `known` windows have seen, with its end where more was coming."""
        times = self.times[:known + self.length - 1]
        whole = self.end and len(times) == len(self.times)
        return History(self.length, times, self.windows[:known], self.end if whole else times[-1])

    def span(self, window):
        """(start, end) of a window: the times of its first and last frame, in seconds."""
        return self.times[window], self.times[window + self.length - 1]

    def at(self, frame):
        """Probabilities float32 (C,) of a sampled frame: the mean of the windows that contain it."""
        inside = self.windows[max(0, frame - self.length + 1):frame + 1]
        return np.mean(inside, 0, dtype=np.float32)

    def smoothed(self):
        """at() of every sampled frame that a window contains, float32 (frames, C)."""
        n = len(self.windows)
        total = np.zeros((n + self.length - 1, len(self.windows[0])), np.float32)
        count = np.zeros((len(total), 1), np.float32)
        windows = np.stack(self.windows)
        for place in range(self.length):
            total[place:place + n] += windows
            count[place:place + n] += 1
        return total / count


def analyse(path, slider, history, rate):
    """Fill `history` from a video file; yields how many windows are known, as they become known.

    A video shorter than a window is seen as in training: with a smaller stride, and the last frame
    repeated where there are too few. VideoError when the file cannot be read.
    """
    slider.restart()
    with Video(path) as source:
        crops = []
        for _, seconds, frame in sample_video(source, rate):
            history.times.append(seconds)
            crops.append(slider.crop(frame))
            if len(crops) == slider.block:  # a block is at least a window long
                yield history.add(slider.push(crops))
                crops = []
        if not history.times:
            raise VideoError("not one frame of it can be decoded")
        history.end = source.time + 1 / source.info.fps
    if len(history.times) < slider.length:
        frames, info, indices, _ = read_clip(path, slider.length, rate, fraction=0)
        history.times[:] = (indices / info.fps).tolist()
        crops = [slider.crop(frame) for frame in frames]
    if crops:
        yield history.add(slider.push(crops))
