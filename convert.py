"""Make a run folder of a checkpoint of one of two public programs.

    python convert.py epoch_30.pth.tar --classes ucfTrainTestlist/classInd.txt    (ConvLstm, of 5 frames)
    python convert.py ConvLSTM_150.pth --classes ucfTrainTestlist/classInd.txt    (ConvLSTM, of 40 frames)

The networks are the same here, layer by layer, and frames are squeezed and normalised as there. The file is
read, never unpickled. The last line is the run folder, for all scripts: docs/originals.md. It is not known
which videos it was trained on, and test.py says so.
"""
import re

from lrcn import checkpoints
from lrcn.base import Lazy, UserError, cli, files
from lrcn.base.values import POSITIVE, Number
from lrcn.data import split_lists, splits
from lrcn.data.learned import Learned
from lrcn.features import backbones
from lrcn.runs import RunFolder, new_run_folder, versions
from lrcn.training.recipe import Recipe

models = Lazy("models")

# Names there and here, of ConvLstm, and of ConvLSTM in its three versions: the last step, each, attention.
NAMES = ((r"conv_model\.conv_model\.fc\.", "head.projection.0."),
         (r"conv_model\.conv_model\.", "encoder."),
         (r"Lstm\.Lstm\.", "head.lstm."),
         (r"output_layer\.0\.", "head.classifier.1."),
         (r"encoder\.feature_extractor\.", "encoder."),
         (r"encoder\.final\.", "head.projection."),
         (r"lstm\.lstm\.", "head.lstm."),
         (r"attention_layer\.", "head.score."),
         (r"(?:lstm\.)?(?:output_layers|final)\.0\.", "head.classifier.1."),
         (r"(?:lstm\.)?(?:output_layers|final)\.1\.", "head.classifier.2."),
         (r"(?:lstm\.)?(?:output_layers|final)\.3\.", "head.classifier.4."))
RESNETS = {60: 18, 108: 34, 159: 50, 312: 101, 465: 152}      # by weights and biases, without the classifier


def make_parser():
    parser = cli.Parser(__doc__)
    parser.add_argument("checkpoint", metavar="FILE", help="checkpoint file of the other program")
    parser.add_argument("--classes", required=True, metavar="TXT",
                        help="classInd.txt: a number and a name a line, in the order of the labels")
    parser.add_argument("--img_dim", type=Number(int, low=1, high=4096), default=None,
                        help="side of the frames in pixels (default: 224, or 112 of ConvLSTM)")
    parser.add_argument("--num_frames_video", "--sequence_length", dest="num_frames_video", type=POSITIVE,
                        default=None, help="frames in a clip (default: 5, or 40)")
    parser.add_argument("--sampling_rate", type=Number(float, above=0), default=None, metavar="X",
                        help="clips have FPS / X frames a second, FPS 25 (default: 10, or 4)")
    parser.add_argument("--local_dir", default=".", metavar="DIR", help="where the run folder is made")
    return parser


def renamed(path):
    """({part: {name here: tensor}}, whether it is ConvLSTM) of a checkpoint; UserError: neither program's."""
    state = checkpoints.load_file(path, "checkpoint")
    state = state.get("model_state_dict", state)
    checkpoints.check_weights(state, f"--checkpoint {path}")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    parts = {"encoder": {}, "head": {}}
    for name, value in state.items():
        pattern, here = next(((p, h) for p, h in NAMES if re.match(p, name)), (None, None))
        if not pattern:
            raise UserError(f"checkpoint {path}: {name} is a weight of neither ConvLstm nor ConvLSTM; "
                            f"train.py --encoder_weights takes image networks")
        part, _, here = re.sub(pattern, here, name, count=1).partition(".")
        parts[part][here] = value
    return parts, any(name.startswith("encoder.") for name in state)


def sizes(parts, convlstm):
    """(classes, {flag of train.py: value}) of a network, by the names and shapes of its weights."""
    head, learned = parts["head"], [n for n in parts["encoder"] if n.endswith(("weight", "bias"))]
    both, each = "lstm.weight_ih_l0_reverse" in head, convlstm and "score.weight" not in head
    flags = dict(encoder=f"resnet{RESNETS[len(learned)]}", latent_dim=head["projection.0.weight"].shape[0],
                 hidden_size=head["lstm.weight_hh_l0"].shape[1], bidirectional=both, dropout=0.0,
                 lstm_layers=sum("weight_ih" in n and "reverse" not in n for n in head),
                 projection="batchnorm" if convlstm else "linear",
                 classifier_hidden=len(head["classifier.1.weight"]) if convlstm else None,
                 readout="last" if not convlstm or each else "attention",
                 loss_per_step=each and both)   # the first version had one direction, and read the last step
    return len(head["classifier.4.bias" if convlstm else "classifier.1.bias"]), flags


def main():
    args = make_parser().parse_args()
    cli.file("checkpoint", args.checkpoint, "give the file that the program saved")
    table = cli.file("classes", args.classes, "give classInd.txt of the split lists")
    names = sorted(index := split_lists.read_class_index(table.parent, table.name), key=index.get)
    parts, convlstm = renamed(args.checkpoint)
    try:
        count, flags = sizes(parts, convlstm)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"checkpoint {args.checkpoint}: not the whole network ({error})") from None
    if count > len(names):
        raise UserError(f"--classes {args.classes}: it names {len(names)} classes, and the network has "
                        f"{count}; give the table that it was trained with")
    if count < len(names):
        cli.say(f"the network has {count} classes: the first of the {len(names)} of {args.classes}")
    classes = names[:count]
    side, length = args.img_dim or (224, 112)[convlstm], args.num_frames_video or (5, 40)[convlstm]
    recipe = Recipe(num_frames_video=length, img_dim=side, encoder_weights="none", resize="squeeze", **flags)
    encoder = models.encoder_from_spec(
        {"name": recipe.encoder, "resize": side, "crop": side, "fit": "squeeze", "modality": "rgb",
         "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
         "interpolation": "bicubic" if convlstm else "bilinear"})
    model = models.LRCN(encoder, models.Head.of(recipe, encoder.feature_dim, count))
    for part, module in (("encoder", model.encoder.backbone), ("head", model.head)):
        weights = backbones.state_of(parts[part], module)
        backbones.check_fit(module, weights, f"checkpoint {args.checkpoint}, {part},")
        module.load_state_dict(weights)
    run = RunFolder(new_run_folder(args.local_dir, "True"))
    settings = {**recipe.as_settings(), "test_split": "1", "FPS": 25.0, "num_frames_to_extract": length,
                "sampling_rate": args.sampling_rate or (10, 4)[convlstm]}
    run.checkpoints.mkdir()
    splits.write_splits(run.splits, [])
    files.write_json(run.settings, {**settings, "classes": classes, "versions": versions()})
    checkpoints.save_file(run.checkpoint("best"), {
        **checkpoints.describe(model, classes, settings), "encoder_digest": model.encoder.digest(),
        "encoder": model.encoder.state_dict(), "head": model.head.state_dict(),
        "learned": Learned(known=False).state()})
    cli.say(f"{recipe.encoder}, {count} classes, clips of {length} frames of {side} pixels")
    cli.say(run)


if __name__ == "__main__":
    cli.run(main)
