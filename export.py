"""A trained run as files that other programs run: ONNX, or PyTorch's exported programs.

    python export.py RUN                    # RUN/export/model.onnx encoder.onnx head.onnx
    python export.py RUN --format torch     # RUN/export/model.pt2 encoder.pt2 head.pt2

model is the whole network, frames uint8 (B, T, 3, H, W) -> probabilities float32 (B, classes); encoder and
head are its two halves, for films. Every file is compared with PyTorch before it is kept. The last line is
the folder. Everything else is described in docs/export.md.
"""
import json
from collections import OrderedDict
from pathlib import Path

import numpy as np

import utils
from lrcn.base import Lazy, UserError, cli, files
from lrcn.base.values import POSITIVE
from lrcn.data.frames import ClipSampler, clip_frames
from lrcn.data.manifest import read_sampled
from lrcn.features import onnx
from lrcn.features.engines import clouds
from lrcn.runs import ExportFolder, RunFolder
from lrcn.watching import exported

torch = Lazy("torch")
surgery = Lazy("lrcn.features.surgery")
nn = Lazy("torch.nn")
models = Lazy("models")

LARGEST = 1e-3      # difference of a probability that is accepted
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}


def make_parser():
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", help="run folder of train.py, its Saved_model_checkpoint, or a checkpoint file")
    add("--model_name", default=None, metavar="FILE", help="checkpoint in it (default: best.pth.tar)")
    add("--format", choices=list(PACKAGES), default="onnx", help="onnx, or torch: torch.export's programs")
    add("--output_dir", metavar="DIR", help="where the files go (default: <run>/export)")
    add("--sampled_data_path", "--sampled_data_dir", dest="sampled_data_path", metavar="DIR",
        help="clips to compare on (default: clips of the training; random pictures where these are gone)")
    add("--clips", type=POSITIVE, default=4, help="clips to compare on")
    return parser


def parts(trained, format="onnx"):
    """{part: (module, input for a batch of 2, names of input and output, names of axes of any size)}."""
    head, encoder = trained.model.head, surgery.for_inference(trained.model.encoder)
    modules, examples = {"model": models.LRCN(encoder, head), "encoder": encoder, "head": head}, {}
    for part, module in modules.items():
        if part != "encoder":
            module = nn.Sequential(OrderedDict(network=module, probabilities=nn.Softmax(-1)))
        (entry, kind, shape), (output, *_) = exported.layout_of(trained, part, format)
        axes = ("batch", "frames")[:1 + ("T" in shape)]
        example = torch.zeros(2, *(7 if n == "T" else n for n in shape), dtype=getattr(torch, kind))
        examples[part] = module.eval(), example, (entry, output), axes
    return examples


def write_onnx(path, module, example, names, axes, about):
    """Write the file; the function that runs it, numpy -> numpy, with all checks of test_on_video.py."""
    graph = onnx.exported(module, example, *names, axes)
    graph.metadata_props.add(key=exported.KEY, value=json.dumps(about))
    path.write_bytes(onnx.sealed(graph.SerializeToString()))
    return exported.File(path, f"--format onnx: {path.name}").run


def write_torch(path, module, example, names, axes, about):
    """The same with torch.export."""
    with torch.no_grad(), onnx.without_words():
        program = torch.export.export(module, (example,), dynamic_shapes=onnx.any_size(*axes))
        torch.export.save(program, path, extra_files={f"{exported.KEY}.json": json.dumps(about)})
        loaded = torch.export.load(path).module()

    @torch.no_grad()
    def run(values):
        return loaded(torch.from_numpy(np.ascontiguousarray(values))).numpy()
    return run


def comparison_clips(trained, args):
    """(uint8 (N, T, [M,] 3, S, S): clips spread over a folder of sampled data, their origin in words)."""
    folder = args.sampled_data_path or trained.settings.get("sampled_data_path")
    length, transform = trained.length, trained.model.encoder.transform
    try:
        path = cli.folder("sampled_data_path", folder, "give the folder that preprocessing_data.py wrote")
        videos = read_sampled(path)
        chosen = np.unique(np.linspace(0, len(videos) - 1, args.clips).round().astype(int))
        clips = [clip_frames(path, ClipSampler(length).windows(videos[i])[0], transform, 0) for i in chosen]
        return np.stack([np.moveaxis(clip, -1, -3) for clip in clips]), f"{len(clips)} clips of {folder}"
    except UserError as error:
        if args.sampled_data_path:
            raise
        cli.say(f"compared on made-up clips, because {error}")
    made = clouds(transform, args.clips * length).movedim(-1, -3).numpy()
    return made.reshape(args.clips, length, *made.shape[1:]), f"{args.clips} made-up clips"


def differences(run, clips, shorter, trained):
    """{"model", "encoder and head": largest difference of a probability to PyTorch's}, in a few batches."""
    model = trained.model.eval()
    largest = {"model": 0.0, "encoder and head": 0.0}
    for batch in filter(len, (clips[:1], clips[1:], shorter)):
        with torch.inference_mode():
            wanted = model(torch.from_numpy(batch)).softmax(-1).numpy()
        features = run["encoder"](batch.reshape(-1, *batch.shape[2:])).reshape(*batch.shape[:2], -1)
        for name, values in (("model", run["model"](batch)), ("encoder and head", run["head"](features))):
            error = float(np.abs(values - wanted).max())
            largest[name] = max(largest[name], error) if np.isfinite(error) else np.inf
    return largest


def main():
    args = make_parser().parse_args()
    trained = utils.load_trained(args.run, args.model_name, flag="run")
    lacking = onnx.lacking(*PACKAGES[args.format])
    if lacking:
        raise UserError(f"--format {args.format}: {' and '.join(lacking)} not installed; pip install "
                        f"{' '.join(lacking)}, or give --format torch")
    if hasattr(trained.model.encoder, "streams"):
        raise UserError(f"{trained.folder}: a fused run has several encoders, and a file takes the frames of "
                        f"one; export each of the runs that it was made of")
    size = sum(p.numel() * p.element_size() for p in trained.model.parameters())
    if args.format == "onnx" and size > 2e9:
        raise UserError(f"--format onnx: one ONNX file holds 2 GB, and this network has "
                        f"{files.gigabytes(size)}; give --format torch")
    clips, origin = comparison_clips(trained, args)
    write = write_onnx if args.format == "onnx" else write_torch
    folder = Path(args.output_dir).expanduser() if args.output_dir else RunFolder(trained.folder).export.path
    with files.replaced_folder(folder) as new:
        run = {}
        for part, (module, example, names, axes) in parts(trained, args.format).items():
            path = ExportFolder(new).part(part, args.format)
            about = exported.describe(trained, part, args.format)
            run[part] = write(path, module, example, names, axes, about)
            cli.say(f"{path.name}: {about['input']} -> {about['output']}, {path.stat().st_size / 1e6:.1f} MB")
        shorter = clips[:, ::2] if exported.any_length(trained, args.format) else ()
        for name, error in differences(run, clips, shorter, trained).items():
            cli.say(f"{name}: largest difference of a probability to PyTorch {error:.1e}, {origin}")
            if error > LARGEST:
                raise UserError(f"--format {args.format}: {name} differs from PyTorch by {error:.1e}, more "
                                f"than {LARGEST:g}; nothing was written")
    cli.say(folder)


if __name__ == "__main__":
    cli.run(main)
