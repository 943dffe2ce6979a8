"""The mixed-action study: does the majority of a window's frames decide, or the last frame?

    python test_continues_movie.py --model_dir RUN
    python test_continues_movie.py --model_dir RUN1 RUN2 RUN3 ...

joins test clips of different actions into movies and slides a window over each by one frame. It writes
metrics.json, windows.csv (a row for each window), figures (TensorBoard shows them too) and the first movie,
labelled, into RUN/test_continues_movie/. Several runs are compared, and those that differ only in their seed
pooled: comparison.csv, comparison.json and pictures in --output_dir.
"""
from dataclasses import replace

import numpy as np

import dataset
import utils
from lrcn.base import Lazy, UserError, cli, files
from lrcn.base.values import COUNT, POSITIVE, Number
from lrcn.data.frames import Clip, ClipSampler, Cut
from lrcn.features.features import encode_clips
from lrcn.features.rows import MeanFrame
from lrcn.runs import RunFolder, StudyFolder, checkpoint_path
from lrcn.study import graphs, results_table
from lrcn.study.movies import draw_movies, slide
from lrcn.study.network import Clips, analyse
from lrcn.training import recipe

torch = Lazy("torch")

PICTURES = ("*.png", "*.gif", "events.out.tfevents.*")     # of an earlier run, which the new ones replace


def parse_args():
    parser = cli.Parser(__doc__)
    utils.add_model_flags(parser, several=True, batch_size="clips in a movie, unless --movie_clips is given")
    utils.add_data_flags(parser)
    recipe.add_compared_flags(parser)
    parser.set_defaults(batch_size=None)
    study = parser.group("study")
    add = study.add_argument
    add("--num_movies", type=POSITIVE, default=100, help="movies")
    add("--movie_clips", type=Number(int, low=2), default=None,
        help="clips in a movie (default: --batch_size, where it is given, else 16)")
    add("--segment_frames", type=POSITIVE, nargs=2, metavar=("LOW", "HIGH"), default=None,
        help="join LOW to HIGH frames of each clip instead of a whole window's length")
    study.add_boolean("--cut_flow", default=False, help="show a run on optical flow the flow across every "
                      "cut, from a clip's last frame to the next one's first, instead of the clip's own")
    add("--seed", type=COUNT, default=42, help="of the movies and the shuffling")
    output = parser.group("output")
    output.add_boolean("--pictures", default=None,
                       help="draw the figures and the movie of every run (default: with one run only)")
    output.add_boolean("--gif", default=False, help="write the labelled movie as movie.gif too")
    output.add_argument("--output_dir", default=None, metavar="DIR", help="for the comparison of several "
                        "runs (default: test_continues_movie beside the first run)")
    args = parser.parse_args()
    if args.movie_clips is None and args.batch_size == 1:
        parser.error("--batch_size 1: a movie needs at least 2 clips; give --movie_clips")
    args.movie_clips = args.movie_clips or args.batch_size or 16
    return args


def load_clips(trained, args, options):
    """(dataset.TestData, [frames.Clip], network.Clips) of the test videos, with the features of every frame,
    of each clip's mean frame and of a grey one. UserError: --cut_flow needs one field of flow a frame."""
    encoder = trained.model.encoder.requires_grad_(False)
    if args.cut_flow:
        transforms = trained.transforms
        if any(t.flow_length > 1 for t in transforms if "flow" in t.parts):
            raise UserError("--cut_flow: a cut has one flow field, and this run uses a stack of them; give a "
                            "run of --flow_length 1")
        if not any("flow" in t.parts for t in transforms):
            raise UserError(f"--cut_flow: this run sees no optical flow (--modality "
                            f"{transforms[0].modality}); give one that does, or leave the flag out")
    if trained.sees.chunk:
        raise UserError(f"--model_dir {trained.folder}: its encoder reads chunks, and a movie is joined "
                        f"frame by frame; a chunk would lie across a cut: give a run of an image encoder")
    sampler = ClipSampler.of(trained.recipe)
    if sampler.whole or sampler.stride != 1:
        raise UserError(f"--model_dir {trained.folder}: its clips are not of neighbouring frames (--spread, "
                        f"--stride or --num_frames_video all), and a movie's windows are; give another run")
    data = dataset.test_data(trained, args.sampled_data_path, args.ucf_list_dir, args.split)
    if len(set(data.labels.tolist())) < 2:
        raise UserError(f"--sampled_data_path {data.folder}: test videos of one action; a movie needs two")
    cli.say(data.note)
    length = trained.length
    longest = max(length, args.segment_frames[1] if args.segment_frames else 0)
    clips = [ClipSampler(longest).windows(v)[0] for v in data.videos]
    means = [Clip(v, (0,), MeanFrame(ClipSampler(length).windows(v)[0].frames)) for v in data.videos]

    def features(clips, name):
        encoded = np.ascontiguousarray(encode_clips(encoder, clips, data.folder, options, name))
        return torch.from_numpy(encoded).to(options.device)

    whole = features(clips, "test")
    mean = features([*means, Clip(None, (0,), MeanFrame())], "mean frames of test")[:, 0].float()
    frames = [min(v.frames, longest) if args.segment_frames else length for v in data.videos]
    return data, clips, Clips([v.name for v in data.videos], data.groups, data.labels, np.array(frames),
                              whole, mean[:-1], mean[-1:])


def with_cut_flow(encoder, movies, source, clips, folder, options):
    """(movies.Movies, [frames.Clip] of the frames that clips.features (V, L, D) are of, network.Clips) in
    which the frame before a cut is one more frame of its clip, with the flow to the frame behind the cut."""
    def at(i):
        return source[movies.video[i]].video, source[movies.video[i]].frames[movies.frame[i]]

    cuts = movies.cuts - 1
    views = [Clip(video, (frame,), Cut(*at(i + 1))) for i in cuts for video, frame in [at(i)]]
    encoded = np.asarray(encode_clips(encoder, views, folder, options, "cuts"))
    more, column = [list(clip.frames) for clip in source], movies.frame.copy()
    for i, view in zip(cuts, views, strict=True):
        column[i] = len(more[movies.video[i]])
        more[movies.video[i]] += view.frames
    longer = max(map(len, more)) - clips.features.shape[1]
    features = torch.nn.functional.pad(clips.features, (0, 0, 0, longer))
    features[movies.video[cuts], column[cuts]] = torch.from_numpy(encoded[:, 0]).to(features)
    return (replace(movies, frame=column),
            [replace(clip, frames=tuple(frames)) for clip, frames in zip(source, more, strict=True)],
            replace(clips, features=features))


def join_clips(clips, args, length):
    """movies.Movies; UserError for segments that do not suit windows of `length` frames."""
    if args.segment_frames:
        low, high = args.segment_frames
        if low > high or 2 * low + 2 <= length:
            raise UserError(f"--segment_frames {low} {high}: LOW is at most HIGH, and at least "
                            f"{(length - 1) // 2} so that a window of {length} frames holds three actions "
                            f"at most")
        shortest = clips.frames.min()
        if shortest < high:
            cli.say(f"--segment_frames {low} {high}: the shortest sampled video has {shortest} frames, and "
                    f"a clip never has more than its video (preprocess with --num_frames_to_extract {high} "
                    f"or more for longer ones)")
        if shortest < low:
            raise UserError(f"--segment_frames {low} {high}: choose a LOW of at most {shortest}")
    try:
        movies = draw_movies(clips.labels, args.num_movies, args.movie_clips, clips.frames, args.seed,
                             args.segment_frames)
        slide(movies, clips.labels, length)
    except ValueError as error:
        raise UserError(f"--movie_clips {args.movie_clips}: {error}") from None
    return movies


def study_run(model_dir, args, drawn):
    """Study a run and write its folder -> (measured_on, recipe's choices, network.Study, StudyFolder)."""
    trained = utils.load_trained(model_dir, args.model_name, args.device)
    recipe.say_disagreement(args, trained)
    options = utils.encoding_options(args, trained, cache=args.feature_cache)
    data, source, clips = load_clips(trained, args, options)
    length, spec = trained.length, trained.model.head.spec
    movies = join_clips(clips, args, length)
    if args.cut_flow:
        movies, source, clips = with_cut_flow(trained.model.encoder, movies, source, clips, data.folder,
                                              options)
    study = analyse(trained.model.head, trained.classes, clips, movies, length, args.seed)
    measured_on = {
        "split": data.split, "classes": len(trained.classes), "test_videos": len(clips.labels),
        "groups": len(set(clips.groups)), "num_frames_video": length, "encoder": trained.model.encoder.name,
        **{key: spec[key] for key in ("readout", "bidirectional", "lstm_layers", "per_step")},
        "training_seed": trained.settings["seed"], "checkpoint": str(trained.checkpoint),
        "movie_clips": args.movie_clips, "segment_frames": args.segment_frames, "cut_flow": args.cut_flow,
        "seed": args.seed, "intervals": "95%, for other source groups of test videos"}
    folder = RunFolder(trained.folder).study
    with files.replaced_folder(folder.path, own=PICTURES if drawn else ()) as path:
        new = StudyFolder(path)
        files.write_json(new.metrics, results_table.metrics(study, measured_on))
        files.write_text(new.command, cli.command() + "\n")
        files.write_csv(new.windows, results_table.WINDOW_COLUMNS, results_table.window_rows(study))
        if drawn:
            name, seed = results_table.variant_name(measured_on), measured_on["training_seed"]
            note = f"{name}, training seed {seed}; {TESTED.format(**measured_on)}."
            graphs.show(path, graphs.draw(study, path, note))
            graphs.write_films(new, study, data.folder, source, args.gif)
    return measured_on, trained.recipe.compared(), study, folder


TESTED = "{test_videos} test videos of {groups} groups, {classes} classes, split {split}"


def compare(studied, args):
    """Pool the runs that differ in their training seed alone, print and write the table and pictures."""
    measured_on, _, first, own = studied[0]
    for *_, study, folder in studied:
        clips, others = study.clips, first.clips
        if clips.names != others.names or not np.array_equal(clips.labels, others.labels):
            raise UserError(f"--model_dir {folder.path.parent}: its test videos or classes are not those of "
                            f"the first run; compare runs of one data set and split")
    variants = results_table.variants([run[:3] for run in studied])
    beside = own.path.parent.parent / own.path.name
    folder = StudyFolder(files.output_folder("output_dir", args.output_dir or beside))
    files.write_csv(folder.comparison_table, *results_table.table(variants))
    files.write_json(folder.comparison, {"runs": [str(run.path.parent) for *_, run in studied],
                                         "movies": args.num_movies, "windows": len(first.windows.movie),
                                         "variants": {v.name: v.as_json() for v in variants}})
    note = f"{TESTED.format(**measured_on)}, {args.num_movies} movies."
    graphs.show(folder.path, graphs.draw_comparison(variants, folder.path, note))
    cli.say(*results_table.printed_table(variants), sep="\n")
    return folder


def main():
    args = parse_args()
    for model_dir in args.model_dir:    # before torch is loaded
        checkpoint_path(model_dir, args.model_name)
    drawn, studied = len(args.model_dir) == 1 if args.pictures is None else args.pictures, []
    for model_dir in args.model_dir:
        studied.append(study_run(model_dir, args, drawn))
        measured_on, _, study, folder = studied[-1]
        cli.say(f"{results_table.variant_name(measured_on)}, seed {measured_on['training_seed']}: "
                f"{results_table.sentence(study)}")
    cli.say(compare(studied, args) if len(studied) > 1 else folder)


if __name__ == "__main__":
    cli.run(main)
