"""The flags of train.py, and how a resumed run takes them from its checkpoint."""
import argparse
import re

from lrcn import checkpoints, runs
from lrcn.base import cli
from lrcn.base.cli import UserError
from lrcn.clips.streams import MODALITIES

READOUTS = ("last", "final", "mean", "sum", "max", "attention", "none")
MODEL_FLAGS = ("encoder", "encoder_weights", "img_dim", "modality", "latent_dim", "hidden_size",
               "lstm_layers", "bidirectional", "readout", "loss_per_step", "num_frames_video",
               "train_encoder", "dropout")


def blocks(text):
    """A type for none, all, or last:K with K >= 1."""
    if text in ("none", "all") or re.fullmatch(r"last:[1-9]\d*", text):
        return text
    raise argparse.ArgumentTypeError(f"expected none, all or last:K, not {text}")


def make_parser(description):
    parser = cli.Parser(description)
    add, switch = parser.add_argument, parser.add_boolean
    positive, real = cli.positive_int, cli.number
    add("--sampled_data_path", "--sampled_data_dir", dest="sampled_data_path", metavar="DIR",
        help="folder that preprocessing_data.py wrote")
    add("--ucf_list_dir", metavar="DIR", default=None,
        help="folder of the split lists; without it the split is drawn by group from the sampled data")
    add("--split", choices=["1", "2", "3", "all", "random"], default="1",
        help="official split; all: train and test on the three in turn; random: the leaky protocol, by "
             "video instead of group, for comparison only")
    add("--split_size", type=real(float, above=0, below=1), default=0.2,
        help="share of every class's training videos held out for validation, whole groups")
    add("--test_size", type=real(float, above=0, below=1), default=0.2,
        help="share held out for testing, where no list says it")
    add("--group_pattern", metavar="REGEX", default=None,
        help="what names a video's group in its file name (default: gNN of UCF-101, else the file)")
    add("--groups", metavar="CSV", default=None, help="a file with columns video,group instead")
    add("--number_of_classes", type=cli.none_or(positive), default=None,
        help="train on the first N classes (default: all)")
    switch("--smaller_dataset", default=False, help="a tenth of every class, for a quick look")

    add("--encoder", default="resnet152", help="torchvision model, or timm/NAME")
    add("--encoder_weights", default="DEFAULT", metavar="DEFAULT|none|PATH",
        help="the library's ImageNet weights, none, or a state dict file")
    add("--img_dim", type=cli.none_or(positive), default=None,
        help="side of the encoder's input in pixels (default: as its weights were trained)")
    add("--modality", choices=MODALITIES, default="rgb",
        help="what the encoder sees: frames, their differences from the frame before, or both, which takes "
             "twice as long and tells motions apart")
    add("--num_frames_video", type=positive, default=5, help="frames in a clip")
    add("--latent_dim", type=positive, default=512, help="size of the projected frame feature")
    add("--hidden_size", type=positive, default=256, help="LSTM units a direction")
    add("--lstm_layers", type=positive, default=2, help="LSTM layers")
    switch("--bidirectional", default=True, help="read the clip both ways")
    add("--readout", choices=READOUTS, default="final",
        help="how the LSTM's outputs become one vector; none: no LSTM, the mean of the frames")
    add("--dropout", type=real(float, low=0, below=1), default=0.5, help="share of units dropped")
    switch("--loss_per_step", default=False,
           help="predict at every time step and average, as in the LRCN paper")
    add("--init_from", metavar="RUN", default=None,
        help="start from another run's encoder and projection; what fits is taken, and said")
    add("--train_encoder", type=blocks, default="none", metavar="none|last:K|all",
        help="which blocks of the encoder are trained")
    add("--encoder_lr", type=real(float, above=0), default=1e-4, help="peak learning rate of those blocks")
    switch("--train_batch_norm", default=False, help="let their batch-norm statistics follow the data")
    switch("--recompute", default=False, help="gradient checkpointing in the encoder: less memory, slower")

    add("--epochs", type=positive, default=100, help="epochs in all")
    add("--stop_after", type=cli.none_or(positive), default=None, metavar="EPOCH",
        help="stop when this epoch is done; --resume goes on to --epochs")
    add("--batch_size", type=positive, default=32, help="clips a step")
    add("--accumulate", type=positive, default=1, help="steps whose gradients make one update")
    add("--lr", type=real(float, above=0), default=5e-4, help="peak learning rate")
    add("--weight_decay", type=real(float, low=0), default=0.01, help="AdamW's weight decay")
    add("--scheduler", choices=["cosine", "step", "plateau", "constant"], default="cosine",
        help="course of the learning rate after the warm-up")
    add("--warmup_epochs", type=real(float, low=0), default=2, help="epochs of linear warm-up")
    add("--label_smoothing", type=real(float, low=0, below=1), default=0.1,
        help="share of the target spread over all classes")
    add("--mixup", type=real(float, low=0), default=0,
        help="mix pairs of clips, shares from Beta(a, a); 0 is off")
    add("--clip_grad", type=real(float, low=0), default=1.0, help="largest norm of the gradient; 0 is off")
    add("--ema", type=real(float, low=0, below=1), default=0,
        help="decay a step of an average of the weights, which is what is tested; 0 is off")
    add("--views", type=positive, default=1,
        help="views of a training clip: 1 plain, the others with a random crop, flip and window")
    add("--amp", choices=["bfloat16", "float16", "none"], default="bfloat16",
        help="precision of training on CUDA")
    add("--seed", type=cli.count, default=42, help="of the split, the views, the weights and the order")

    add("--local_dir", default=".", metavar="DIR", help="where run folders are made")
    add("--open_new_folder", default="True", metavar="True|False|debug",
        help="a new folder named by the time, local_dir itself, or local_dir/debug")
    add("--checkpoint_interval", type=positive, default=5, help="epochs between checkpoints")
    add("--val_check_interval", type=positive, default=5, help="epochs between validations")
    add("--resume", metavar="RUN|auto", default=None,
        help="go on with a run folder, or with the newest one below local_dir")
    switch("--load_checkpoint", default=False, help="go on from --checkpoint_path")
    add("--checkpoint_path", default="", metavar="FILE", help="checkpoint to go on from")
    switch("--feature_cache", default=True, help="encode every clip once and keep the features on disk")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--num_workers", type=cli.count, default=4, help="processes that decode frames")
    switch("--compile", default=False, help="torch.compile the encoder: slow start, faster on long jobs")
    return parser


def parse(description, argv=None):
    """(flags, checkpoint path or None). A resumed run takes its flags from the checkpoint, save for
    those on the command line."""
    parser = make_parser(description)
    args = parser.parse_args(argv)
    path = None
    if args.resume:
        run = runs.newest_run(args.local_dir) if args.resume == "auto" else args.resume
        path = runs.checkpoint_path(run, "last.pth.tar", flag="resume")
    elif args.load_checkpoint:
        path = cli.file("checkpoint_path", args.checkpoint_path or ".", "give the checkpoint to go on from")
    if path is None:
        return args, None
    state = checkpoints.load_file(path, "checkpoint_path")
    saved = state.get("settings")
    if not isinstance(saved, dict) or "learner" not in state:
        raise UserError(f"--checkpoint_path {path}: not a checkpoint that training can go on from")
    known = {action.dest for action in parser._actions}
    parser.set_defaults(**{k: v for k, v in saved.items() if k in known - {"resume", "load_checkpoint",
                                                                           "stop_after", "checkpoint_path"}})
    args = parser.parse_args(argv)
    for name in MODEL_FLAGS:
        if getattr(args, name) != saved.get(name):
            raise UserError(f"--{name} {getattr(args, name)}: the checkpoint {path} was trained with "
                            f"{saved.get(name)}; leave the flag out, or start a new run")
    return args, path
