"""Which clips were cut from one recording, and show nearly the same picture: their group, by their names, a
pattern, or a table."""
import contextlib
import re
import signal
import threading
from collections import Counter, defaultdict

from lrcn.base import UserError, cli, files
from lrcn.base.files import composed

MATCHING = 2    # seconds of CPU for a name, by --group_pattern
# Names that tell the recording: UCF-101's gNN (of a class), HMDB-51's before the clip's number (body parts,
# motion, people, view, quality), Kinetics' YouTube address and find_clips.py's film before the seconds.
FRAME = r"(?:[-_. ]*(?:frame|image|img)?[-_. ]*\d+)?"     # after it, where a clip is one picture of a video
UCF_NAME = re.compile(rf"_(g\d+)_c\d+{FRAME}$")
HMDB_NAME = re.compile(rf"(.+_[fuhl]_[cn]m_np\d_(?:fr|ba|le|ri)_(?:bad|med|goo))_\d+{FRAME}")
KINETICS_NAME = re.compile(r"(.{11})_\d{6}_\d{6}")
WHOLE_NAME = re.compile(r"v_(.+)_g\d+_c\d+")      # of UCF-101, which says the class too
FILM_NAME = re.compile(r"(.+)_\d{5,}\.\d{3}(?:-\d{5,}\.\d{3})?")
# What cameras and phones call their files: the number after it says nothing of the recording.
CAMERA = re.compile(r"[PC]?[\W_\d]*|(?:.*_)?(?:IMG|MVI|MOV|VID|DSC[NF]?|SDC|CIMG|PXL|GOPR|G[HXLP]|DJI|MAH|"
                    r"CLIP|VIDEO|FILE|SCREEN.?RECORDING|SIGNAL|WHATSAPP.?VIDEO|WA)[\W_\d]*", re.IGNORECASE)


def find_groups(names, pattern=None, table=None):
    """{(class, video): group} of [(class, video)]: by `table` (a CSV file with columns video, group), else by
    `pattern` (a regular expression; its first group, or all that matched), else by a name of UCF-101 (gNN in
    a class), HMDB-51, Kinetics or find_clips.py, else the video. UserError: a video has no group."""
    if table:
        table = cli.file("groups", table, "give a CSV file with the columns video and group")
        named = {composed(row["video"]): row["group"] for row in files.read_csv(table, ("video", "group"))}
        groups = {(c, v): named.get(composed(f"{c}/{v}"), named.get(composed(v))) for c, v in names}
        if absent := [v for (_, v), group in groups.items() if group is None]:
            raise UserError(f"--groups {table}: no group for video {absent[0]} and {len(absent) - 1} more")
        return groups
    if not pattern:
        return {(c, v): _recording(v) or f"{c}/{match[1] if (match := UCF_NAME.search(v)) else v}"
                for c, v in names}
    try:
        finder = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"--group_pattern {pattern}: not a regular expression ({error})") from None
    groups = {}
    for cls, video in names:
        try:
            with _time_limit():
                match = finder.search(video)
        except TimeoutError:
            raise UserError(f"--group_pattern {pattern}: more than {MATCHING:g} s for {cls}/{video}; "
                            "a repetition in a repetition, as (a+)+, takes forever: remove one") from None
        if not match:
            raise UserError(f"--group_pattern {pattern}: does not match the video {cls}/{video}")
        groups[cls, video] = (match[1] or "") if finder.groups else match[0]
    return groups


@contextlib.contextmanager
def _time_limit():
    """TimeoutError after MATCHING seconds of CPU: a signal stops a regular expression, in the main thread."""
    def stop(*_):
        raise TimeoutError

    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MATCHING)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _recording(video):
    """The recording in a name of HMDB-51, Kinetics or find_clips.py, whatever the class; else None."""
    match = HMDB_NAME.fullmatch(video) or KINETICS_NAME.fullmatch(video) or FILM_NAME.fullmatch(video)
    return match and match[1]


def tells_clip(name):
    """Whether the name of a clip, or of a frame of it, tells the recording."""
    return bool(_recording(name) or UCF_NAME.search(name))


def look_alike(names):
    """A sentence on those of [(class, video)] that share their name up to its last number, or None: such
    clips are often cut from one recording. Passed over: names that tell their recording, a camera's, such as
    IMG_0001, and classes in which all names differ only in their number: one group could not be split."""
    stems, of_class = defaultdict(list), defaultdict(set)
    for cls, name in names:
        stem = re.sub(r"\d+$", "", name)
        of_class[cls].add(stem)
        if stem != name and not (tells_clip(name) or CAMERA.fullmatch(stem)):
            stems[cls, stem].append(name)
    alike = [(key, sorted(members)) for key, members in stems.items()
             if len(members) > 1 and len(of_class[key[0]]) > 1]
    if not alike:
        return None
    (cls, _), members = max(alike, key=lambda item: (len(item[1]), item[0]))
    count = sum(len(names) for _, names in alike)
    size = Counter(cls for cls, _ in names)
    splits_all = all(len(members) > 1 or size[cls] == 1 for cls, members in of_class.items())
    pattern = "--group_pattern '^(.*?)\\d*$' or with " if splits_all else ""
    return (f"{count} of {len(names)} videos share their name up to the last number with another, such as "
            f"{cli.first(members, 3)} of {cls}; if such clips were cut from one recording, say so with "
            f"{pattern}a table (--groups), or near copies of training clips are tested; if each is a "
            "recording of its own, ignore this")
