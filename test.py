"""Test a trained model on the official test list (or on the test part of your own data).

    python test.py --model_dir 20261121-110128

takes the best checkpoint of the run and the folders that it was trained with, counts every test
video once, and leaves <model_dir>/test/ with metrics.json, predictions.csv, mistakes.csv (the most
confident first), confusion_matrix and accuracy_per_class (.png and .csv), figures/ and
videos/<Class>/. An earlier test/ stands until the new one is whole. Prints that folder as the last line.
"""
import dataset
import utils
from lrcn import checkpoints
from lrcn.base import cli
from lrcn.base.distributed import ranks
from lrcn.base.values import COUNT
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
    testing, output = parser.group("testing"), parser.group("output")
    utils.add_windows_flags(testing)
    output.add_argument("--num_videos", type=COUNT, default=30,
                        help="test clips drawn into videos/, half of them wrong where there are so many")
    output.add_argument("--seed", type=COUNT, default=42, help="of the choice of clips that are drawn")
    parser.group("machine").add_boolean("--compile", default=False, help="torch.compile the encoder")
    return parser


def main():
    args = make_parser().parse_args()
    checkpoint_path(args.model_dir, args.model_name)    # before torch is loaded
    device = utils.choose_device(args.device)
    with ranks(device) as rank:
        trained = utils.load_trained(args.model_dir, args.model_name, device)
        data = dataset.test_data(trained, args.sampled_data_path, args.ucf_list_dir, args.split)
        if rank.first:
            recipe.say_disagreement(args, trained)
            cli.say(data.note)
        options = utils.encoding_options(args, trained, device, cache=args.feature_cache,
                                         compile=args.compile, rank=rank)
        data.probabilities = predict_videos(trained.model, trained.recipe.num_frames_video, data, options,
                                            args.test_windows, args.flip)
    if not rank.first:
        return
    if args.test_windows != 1 and all(v.frames <= trained.settings["num_frames_video"] for v in data.videos):
        cli.say("one window a video is all that was sampled; preprocessing_data.py "
                "--num_frames_to_extract all keeps more")
    test = RunFolder(trained.folder).test
    tested_with = {"windows": args.test_windows, "flip": args.flip, "note": data.note,
                   "checkpoint": trained.checkpoint.name, "epoch": trained.epoch,
                   "encoder": trained.model.encoder.name, "readout": trained.settings["readout"],
                   "num_frames_video": trained.settings["num_frames_video"],
                   "sampling_rate": sampling_settings(data.folder).get("sampling_rate"),
                   "seed": trained.settings["seed"],
                   "parameters": checkpoints.count_parameters(trained.model)}
    cli.say(results.write(test, data, tested_with, args.num_videos, args.seed))
    cli.say(test)


if __name__ == "__main__":
    cli.run(main)
