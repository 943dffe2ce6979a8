"""Test a trained model on the official test list (or on the test part of your own data).

    python test.py --model_dir 20261121-110128

takes the best checkpoint of the run and the folders that it was trained with, counts every test
video once, and writes <model_dir>/test/: metrics.json, predictions.csv, mistakes.csv (the most
confident first), confusion_matrix and accuracy_per_class (.png and .csv), reliability.png, figures/
and videos/<Class>/. An earlier test/ stays until the new one is complete. The last line is that folder.

    python test.py --model_dir 20261121-110128 --labelled_folder more_videos

tests it on a folder of raw videos, one folder per class: sampled as the run's own clips were, into
<model_dir>/test_on_folder/more_videos/sampled, with the report beside that. Only videos of classes that the
run knows count; the other classes are named.
"""
from pathlib import Path

import dataset
import utils
from lrcn import checkpoints
from lrcn.base import UserError, cli
from lrcn.base.distributed import ranks
from lrcn.base.values import COUNT
from lrcn.data.frames import ClipSampler
from lrcn.data.manifest import sampling_settings
from lrcn.evaluation import results
from lrcn.features.features import predict_videos
from lrcn.runs import RunFolder, checkpoint_path
from lrcn.training import recipe


def make_parser():
    parser = cli.Parser(__doc__)
    utils.add_model_flags(parser)
    utils.add_data_flags(parser)
    recipe.add_compared_flags(parser)
    parser.group("data").add_argument("--labelled_folder", metavar="DIR",
                                      help="test on this folder of raw videos, one folder per class")
    testing, output = parser.group("testing"), parser.group("output")
    utils.add_windows_flags(testing)
    output.add_argument("--num_videos", type=COUNT, default=30,
                        help="labelled test clips to write into videos/, up to half of them wrong answers")
    output.add_argument("--seed", type=COUNT, default=42, help="seed of the choice of these clips")
    parser.group("machine").add_boolean("--compile", default=False, help="torch.compile the encoder")
    return parser


def sample(folder, trained, sampled):
    """Sample a folder of classes as the clips of a run were; the exit status of preprocessing_data.py."""
    words, flow = ["--row_data_dir", folder, "--sampled_data_dir", sampled, "--no-report"], trained.flow
    for name in ("FPS", "sampling_rate", "num_frames_to_extract"):
        if trained.settings.get(name) is not None:
            words += [f"--{name}", trained.settings[name]]
    if flow:
        words += ["--flow", flow.backend, "--flow_length", flow.length, "--flow_bound", flow.bound,
                  "--flow_preset", flow.preset, *(["--flow_weights", flow.weights] if flow.weights else [])]
    return cli.run_script(Path(__file__).with_name("preprocessing_data.py"), *words)


def main():
    args = make_parser().parse_args()
    checkpoint_path(args.model_dir, args.model_name)    # before torch is loaded
    labelled = args.labelled_folder and cli.folder(
        "labelled_folder", args.labelled_folder, "give a folder of class folders with videos").resolve()
    for name in ("sampled_data_path", "ucf_list_dir", "split"):
        if labelled and getattr(args, name):
            raise UserError(f"--{name} {getattr(args, name)}: --labelled_folder is tested; leave one out")
    device = utils.choose_device(args.device)
    with ranks(device) as rank:
        trained = utils.load_trained(args.model_dir, args.model_name, device, stored=True)
        test = RunFolder(trained.folder).test
        if labelled:
            test = RunFolder(trained.folder).test_on(labelled.name)
            args.sampled_data_path, args.split = test.path / "sampled", "folder"
            status = sample(labelled, trained, args.sampled_data_path)
            if status not in (0, 1):    # 1: more than a tenth could not be read, which is said
                return status
            rank.barrier()
        data = dataset.test_data(trained, args.sampled_data_path, args.ucf_list_dir, args.split)
        if rank.first:
            recipe.say_disagreement(args, trained)
            cli.say(data.note)
        sampler = ClipSampler.of(trained.recipe)
        options = utils.encoding_options(args, trained, cache=args.feature_cache,
                                         compile=args.compile, rank=rank)
        data.probabilities, data.uncalibrated = predict_videos(
            trained.model, sampler, data, options, args.test_windows, args.flip, temperature=1.0)
    if not rank.first:
        return 0
    if args.test_windows != 1 and all(len(sampler.windows(v, args.test_windows)) == 1 for v in data.videos):
        cli.say("one window a video is all that was sampled; preprocessing_data.py "
                "--num_frames_to_extract all keeps more")
    tested_with = {"windows": args.test_windows, "flip": args.flip, "note": data.note,
                   "checkpoint": trained.checkpoint.name, "epoch": trained.epoch,
                   "encoder": trained.model.encoder.name,
                   **{name: trained.settings[name] for name in ("readout", "num_frames_video", "seed")},
                   "sampling_rate": sampling_settings(data.folder).get("sampling_rate"),
                   **{name: trained.model.head.spec[name] for name in ("temperature", "min_probability")},
                   "parameters": checkpoints.count_parameters(trained.model)}
    cli.say(results.write(test, data, tested_with, args.num_videos, args.seed))
    cli.say(test)
    return 0


if __name__ == "__main__":
    cli.run(main)
