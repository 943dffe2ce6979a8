"""Which frames of a sampled video a network sees, how each is cut to its input's size, and what the encoder
sees of a moment: the frame, its difference from the frame before, the optical flow behind it, or several.

    sampler = ClipSampler(5)
    clip = sampler.windows(video)[0]                        # the one in the middle
    [clip] = sampler.training(video, view=1, seed=42)       # one random place, crop and flip
    frames = clip_frames("sampled", clip, transform, 42)    # uint8 (T, [M,] S, S, C)

Flow comes as 8-bit planes (video/flow.py): uint8 (H, W, 2L), u1 ... uL and v1 ... vL of L fields in a row.
"""
import hashlib
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from lrcn.base import Lazy, UserError
from lrcn.data.fields import flow_of, source_fields
from lrcn.data.manifest import SampledVideo
from lrcn.video.reader import VideoError, read_frames

cv2 = Lazy("cv2")

MODALITIES = ("rgb", "rgbdiff", "flow", "rgb+rgbdiff", "rgb+flow", "rgbdiff+flow", "rgb+rgbdiff+flow")


@dataclass(frozen=True)
class Transform:
    """How a frame becomes the encoder's input: short side to `resize`, then a centre crop, in pixels.

    resize: for some video encoders (height, width), to which a frame is squeezed before its crop.
    modality: what the encoder sees: "rgb" the frame, "rgbdiff" its difference from the frame before (Wang et
    al. 2016, Temporal Segment Networks, section 3.2), "flow" the optical flow to the next frame, or several,
    as "rgb+rgbdiff", whose features are joined.
    flow_length: fields of flow in one input of "flow". fit: "centre", or "squeeze" for the whole frame.
    augment: what random views do to a clip, see AUGMENT.
    chunk, chunk_stride, rate: of a video encoder, see chunks.chunk_of; 0 for an image encoder.
    """
    resize: int | tuple
    crop: int
    mean: tuple
    std: tuple
    interpolation: str = "bilinear"
    modality: str = "rgb"
    flow_length: int = 1
    fit: str = "centre"
    augment: str = "crop"
    chunk: int = 0
    chunk_stride: int = 0
    rate: float = 0

    def spec(self):
        """Names and values for a file. Newer ones are left out at their defaults: older features fit."""
        usual = {"flow_length": self.channels == 3, "fit": self.fit == "centre",
                 "augment": self.augment == "crop"} | dict.fromkeys(CHUNK, not self.chunk)
        return {name: value for name, value in asdict(self).items() if not usual.get(name)}

    parts = property(lambda transform: transform.modality.split("+"))
    modalities = property(lambda transform: len(transform.parts))
    # What one moment is, in words
    unit = property(lambda transform: "chunks" if transform.chunk else "frames")

    @property
    def channels(self):
        """Channels of one part: 3, or 2L of a stack of L > 1 fields."""
        return 2 * self.flow_length if self.modality == "flow" and self.flow_length > 1 else 3

    @property
    def shape(self):
        """One moment's input: (S, S, C), (M, S, S, 3) for M > 1 modalities, (K, S, S, 3) for a chunk."""
        several = self.chunk or (self.modalities if self.modalities > 1 else 0)
        return (*([several] if several else []), self.crop, self.crop, self.channels)

    def sized(self, crop):
        """The same Transform with another side of the crop (None: this one), and `resize` in proportion."""
        if crop in (None, self.crop):
            return self
        sides = self.resize if isinstance(self.resize, tuple) else (self.resize,)
        sides = tuple(round(crop * side / self.crop) for side in sides)
        return replace(self, crop=crop, resize=sides if len(sides) > 1 else sides[0])


CHUNK = ("chunk", "chunk_stride", "rate")   # of a Transform, for a video encoder alone
# Of a random crop, as in torchvision's RandomResizedCrop: its part of the frame's area, and width to height;
# narrower than for photographs, because the action fills the frame.
CROP_AREA, CROP_RATIO = (0.4, 1.0), (3 / 4, 4 / 3)
FITS = ("centre", "squeeze")
_alone = threading.Lock()   # OpenCV's flow is one for all threads


@dataclass(frozen=True)
class Augment:
    """What happens to a clip, all its frames alike: with probability `chance` each side is cropped by up to
    `most` of it (normal: by a normal deviate), half of the clips are flipped, and frames, not flow, change
    their colours by `jitter` and are blurred by up to `blur` pixels."""
    chance: float
    most: float
    jitter: float
    blur: float
    normal: bool = False


# crop: a random crop (CROP_AREA) and flip; none: only the moment is random; the others: docs/flow.md
AUGMENT = {"crop": None, "none": None, "light": Augment(0.6, 0.1, 0.03, 0.3),
           "medium": Augment(0.9, 0.15, 0.04, 0.5), "heavy": Augment(0.9, 0.6, 0.05, 0.8, normal=True)}
LEFT = 0.4      # of each side, at the least
PART = 8        # frames that are resized at once for a video encoder
INTERPOLATION = {"nearest": "NEAREST", "bilinear": "LINEAR", "bicubic": "CUBIC", "lanczos": "LANCZOS4"}


@dataclass(frozen=True)
class Clip:
    """Frames of a sampled video, ascending, in a view: 0 plain, -1 flipped, 1 and up random, or a Cut."""
    video: SampledVideo
    frames: tuple
    view: int = 0


@dataclass(frozen=True)
class Cut:
    """The plain view of frames after which a movie goes on with another's `frame`: their flow leads to it."""
    video: SampledVideo
    frame: int


def _random(seed, video, view):
    """numpy's generator of what a view of a video draws: it depends on these three alone."""
    digest = hashlib.sha256(f"{seed}/{video.cls}/{video.name}/{view}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


@dataclass(frozen=True)
class ClipSampler:
    """Which frames of a sampled video make a clip.

    length: so many neighbouring frames or, with spread, one frame of each of so many equal parts of the video
    (Wang et al. 2016, Temporal Segment Networks, section 3.1). None: every frame of the video, or max_frames
    spread ones.
    stride: from one frame of a clip to the next, less where the video is too short; "random": in training
    from 1 to the largest that fits, in a test that largest one.
    repeat: a video that is too short repeats its last frame; else its clip is shorter.
    plain: every view shows the pictures of view 0, at its own frames.
    chunk, chunk_stride: of a video encoder, whose chunks count as frames do; a clip names each of them by its
    first frame.
    """
    length: int | None
    spread: bool = False
    stride: int | str = 1
    repeat: bool = True
    max_frames: int = 300
    plain: bool = False
    chunk: int = 0
    chunk_stride: int = 0

    @classmethod
    def of(cls, recipe):
        """The ClipSampler of a training.recipe.Recipe."""
        length = None if recipe.num_frames_video == "all" else recipe.num_frames_video
        stride = recipe.stride if recipe.stride == "random" else int(recipe.stride)
        return cls(length, recipe.spread, stride, not recipe.mask_short, recipe.max_frames,
                   recipe.augment == "none", *recipe.chunk[:2])

    @property
    def whole(self):
        """Whether a clip shows the whole video: there are no windows to choose from."""
        return self.spread or self.length is None

    def moments(self, video):
        """How many frames, or chunks, of a video there are to choose from."""
        return max(0, video.frames - self.chunk) // self.chunk_stride + 1 if self.chunk else video.frames

    def count(self, video):
        """How many frames a clip of this video has."""
        most = self.length or self.max_frames
        return most if self.repeat and self.length else min(most, self.moments(video))

    def _clip(self, video, moments, view=0):
        """The Clip of an array of moments of a video; past the end the last one repeats."""
        frames = np.minimum(moments, self.moments(video) - 1) * (self.chunk_stride if self.chunk else 1)
        return Clip(video, tuple(frames.tolist()), view)

    def _spread(self, video, where, view=0):
        """The Clip of a moment of each of T equal parts of a video; where (T,): in its part, in [0, 1)."""
        ends = np.arange(len(where) + 1) * self.moments(video) // len(where)
        return self._clip(video, ends[:-1] + (where * np.diff(ends)).astype(int), view)

    def _places(self, video, random=None):
        """(stride, number of different clips of a video)."""
        if self.whole:      # as many as the largest part has moments
            return 0, -(-self.moments(video) // self.count(video))
        last = self.moments(video) - 1
        fits = max(1, last // max(1, self.length - 1))
        stride = min(fits, self.stride) if self.stride != "random" else (
            int(random.integers(fits)) + 1 if random else fits)
        return stride, max(0, last - (self.length - 1) * stride) + 1

    def spacing(self, video):
        """How many sampled frames apart those of a test clip are."""
        return self.moments(video) / self.count(video) if self.whole else self._places(video)[0]

    def windows(self, video, number=1):
        """[Clip]: `number` windows of a video, evenly over it, or "all". Of the whole video: `number` sets of
        frames, each at its own place in the parts, the middle for one."""
        count, (stride, places) = self.count(video), self._places(video)
        number = places if number == "all" else min(number, places)
        if self.whole:
            return [self._spread(video, np.full(count, (k + 0.5) / number)) for k in range(number)]
        starts = ((np.arange(number) + 0.5) * places / number).astype(int)
        return [self._clip(video, start + stride * np.arange(count)) for start in starts]

    def training(self, video, view, seed, number=1):
        """[Clip]: what view number `view` shows of a video: one clip, or `number` at different random places,
        in order; where there are not so many, all."""
        if number == 1 and view == 0:
            return self.windows(video)
        random = _random(seed, video, view if number == 1 else f"{view}, {number} clips")
        view = 0 if self.plain else view
        count, (stride, places) = self.count(video), self._places(video, random)
        if self.whole:
            return [self._spread(video, random.random(count), view) for _ in range(min(number, places))]
        starts = ([random.integers(places)] if number == 1 else
                  sorted(random.choice(places, min(number, places), replace=False)))
        return [self._clip(video, start + stride * np.arange(count), view) for start in starts]


def plain_box(height, width, transform):
    """(x, y, width, height, flipped) of the plain view in the source's pixels: the centre, or all."""
    if transform.fit == "squeeze":
        return 0, 0, width, height, False
    if isinstance(transform.resize, tuple):
        h, w = (round(side * transform.crop / to) for side, to in
                zip((height, width), transform.resize, strict=True))
    else:
        h = w = round(min(height, width) * transform.crop / transform.resize)
    return (width - w) // 2, (height - h) // 2, w, h, False


def crop_box(height, width, transform, clip, seed):
    """(x, y, width, height, flipped) of a clip's crop in the source's pixels."""
    if clip.view <= 0 or transform.augment == "none":
        return *plain_box(height, width, transform)[:4], clip.view == -1
    random = _random(seed, clip.video, clip.view)
    random.random()  # the window's draw comes first
    how = AUGMENT[transform.augment]
    if how:     # the plain view with each of its sides cut
        x, y, w, h, _ = plain_box(height, width, transform)
        cut = random.normal(0, 0.5, 4).clip(0, how.most) if how.normal else random.uniform(0, how.most, 4)
        cut = cut.reshape(2, 2) * (random.random() < how.chance)         # left, right; top, bottom
        cut *= np.minimum(1, (1 - LEFT) / np.maximum(cut.sum(1, keepdims=True), 1e-9))
        (left, _), (top, _) = cut
        wide, high = np.maximum(1, (1 - cut.sum(1)) * (w, h))
        return int(x + left * w), int(y + top * h), int(wide), int(high), bool(random.integers(2))
    area, ratio = random.uniform(*CROP_AREA), np.exp(random.uniform(*np.log(CROP_RATIO)))
    w = min(width, round((area * ratio * height * width) ** 0.5))
    h = min(height, round((area / ratio * height * width) ** 0.5))
    x, y = random.integers(width - w + 1), random.integers(height - h + 1)
    return int(x), int(y), w, h, bool(random.integers(2))


def _coloured(crops, transform, clip, seed):
    """Crops uint8 (T, S, S, 3) of an augmented view with other colours, and blurred: by torchvision."""
    how = AUGMENT[transform.augment]
    if clip.view <= 0 or not how:
        return crops
    import torch
    from torchvision.transforms.v2 import functional
    # A generator of its own: the training draws from torch's usual one at the same time.
    generator = torch.Generator().manual_seed(
        int(_random(seed, clip.video, f"{clip.view}, colours").integers(2**62)))

    def draw(low, high):
        return torch.empty(1).uniform_(low, high, generator=generator).item()

    order, colours = torch.randperm(4, generator=generator).tolist(), 4 * how.jitter
    amounts = [draw(1 - colours, 1 + colours) for _ in range(3)] + [draw(-how.jitter, how.jitter)]
    frames = torch.from_numpy(crops).movedim(-1, 1)
    for i in order:
        name = ("brightness", "contrast", "saturation", "hue")[i]
        frames = getattr(functional, f"adjust_{name}")(frames, amounts[i])
    frames = functional.gaussian_blur(frames, [5, 5], [draw(0.1, how.blur)] * 2)
    return frames.movedim(1, -1).contiguous().numpy()


def to_input(frames, box, transform):
    """uint8 (T, H, W, C) -> (T, S, S, C): the box cut out, resized to the encoder's size."""
    if transform.chunk:
        return _as_the_preset(frames, box, transform)
    x, y, w, h, flipped = box
    size = transform.crop
    how = getattr(cv2, f"INTER_{'AREA' if min(w, h) > size else INTERPOLATION[transform.interpolation]}")
    out = np.empty((len(frames), size, size, frames[0].shape[2]), np.uint8)
    for i, frame in enumerate(frames):
        box = frame[y:y + h, x:x + w]
        if box.shape[2] == 3:
            cv2.resize(box, (size, size), dst=out[i], interpolation=how)
            continue
        for c in range(0, box.shape[2], 3):     # OpenCV takes four channels at the most
            out[i, ..., c:c + 3] = cv2.resize(np.ascontiguousarray(box[..., c:c + 3]), (size, size),
                                              interpolation=how).reshape(size, size, -1)
    return np.ascontiguousarray(out[:, :, ::-1]) if flipped else out


def _as_the_preset(frames, box, transform):
    """to_input as torchvision's VideoClassification does it: bilinear, not antialiased, cropped last."""
    import torch
    from torchvision.transforms import functional
    (x, y, w, h, flipped), size, out = box, transform.crop, []
    height, width = frames[0].shape[:2]
    centre = transform.fit == "centre" and box[:4] == plain_box(height, width, transform)[:4]
    for i in range(0, len(frames), PART):
        part = torch.from_numpy(np.stack(frames[i:i + PART])).movedim(-1, 1)
        if centre:
            part = functional.center_crop(functional.resize(part, transform.resize, antialias=False), size)
        else:
            part = functional.resize(part[..., y:y + h, x:x + w], [size, size], antialias=False)
        out.append((part.flip(-1) if flipped else part).movedim(1, -1))
    return torch.cat(out).contiguous().numpy()


def differences(frames, earlier):
    """What changed from `earlier` to `frames`, both uint8 (T, S, S, 3): 128 where nothing did."""
    after, before = (one.reshape(len(one), -1) for one in (frames, earlier))
    return cv2.addWeighted(after, 1, before, -1, 128).reshape(frames.shape)


def change_at(i, frames):
    """(before, after): the two of `frames` frames whose difference is that of frame i; frame 0 has 1's."""
    after = min(max(i, 1), frames - 1)
    return max(after - 1, 0), after


def to_flow_input(planes, box, transform):
    """Fields uint8 (T, H, W, 2L) -> (T, S, S, C): for L = 1 x, y and magnitude (LRCN paper, section 4), else
    2L channels (Simonyan and Zisserman 2014, section 3); in pixels of the source, as in the papers."""
    there, length = planes.shape[-1] // 2, transform.flow_length
    if there > length:
        planes = np.concatenate([planes[..., :length], planes[..., there:there + length]], -1)
    crops = to_input(planes, box, transform)
    if box[4]:      # what went to the right goes to the left
        crops[..., :length] = 255 - crops[..., :length]
    if crops.shape[-1] > 2:
        return crops
    away = crops.astype(np.float32) - 127.5
    magnitude = np.minimum(np.hypot(away[..., 0], away[..., 1]) * 2, 255)
    return np.concatenate([crops, magnitude.astype(np.uint8)[..., None]], -1)


def as_modality(seen, transform):
    """{part: uint8 (T, S, S, C)} of the transform's parts as its encoder takes them: (T, [M,] S, S, C)."""
    parts = [seen[name] for name in transform.parts]
    return parts[0] if len(parts) == 1 else np.stack(parts, 1)


def source_frames(folder, video, indices):
    """uint8 (N, H, W, 3) of a sampled video; UserError names the file when it cannot be read."""
    try:
        return read_frames(Path(folder) / video.path, indices)
    except VideoError as error:
        raise UserError(f"--sampled_data_path {folder}: cannot read {video.path} ({error}); "
                        f"run preprocessing_data.py again") from None


def clip_frames(folder, clip, transform, seed):
    """A clip as its encoder takes it, uint8 (T, *transform.shape). UserError names an unreadable file."""
    cv2.setNumThreads(1)    # clips are decoded side by side, by threads
    if transform.chunk:
        behind = np.array(clip.frames)[:, None] + np.arange(transform.chunk)
        wanted, places = np.unique(behind.clip(max=clip.video.frames - 1), return_inverse=True)
        return _crops(folder, clip, wanted.tolist(), transform, seed)[places.reshape(behind.shape)]
    seen, cut = {}, None
    if isinstance(clip.view, Cut):
        cut, clip = clip.view, Clip(clip.video, clip.frames)
    if "rgbdiff" in transform.parts:
        pairs = np.array([change_at(i, clip.video.frames) for i in clip.frames])
        wanted = sorted({*clip.frames, *pairs.flat})
        crops = _crops(folder, clip, wanted, transform, seed)
        before, after = np.searchsorted(wanted, pairs.T)
        seen = {"rgb": crops[np.searchsorted(wanted, clip.frames)],
                "rgbdiff": differences(crops[after], crops[before])}
    elif "rgb" in transform.parts:
        seen["rgb"] = _crops(folder, clip, clip.frames, transform, seed)
    if "flow" in transform.parts:
        planes = source_fields(folder, clip.video, clip.frames, transform.flow_length)
        if cut:     # from each of the clip's frames to the one after the cut, by the folder's method
            flow, size = flow_of(str(folder)), planes.shape[2:0:-1]
            *before, after = (flow.prepare(cv2.resize(frame, size)) for video, frames in
                              ((clip.video, clip.frames), (cut.video, [cut.frame]))
                              for frame in source_frames(folder, video, frames))
            with _alone:
                planes = np.stack([flow.code(flow.between(frame, after)) for frame in before])
        box = crop_box(*planes.shape[1:3], transform, clip, seed)
        seen["flow"] = to_flow_input(planes, box, transform)
    return as_modality(seen, transform)


def _crops(folder, clip, indices, transform, seed):
    frames = source_frames(folder, clip.video, indices)
    crops = to_input(frames, crop_box(*frames.shape[1:3], transform, clip, seed), transform)
    return _coloured(crops, transform, clip, seed)
