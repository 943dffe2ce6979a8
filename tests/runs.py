"""Tiny runs of train.py, what two runs have in common, and scripts that misbehave on purpose.

    folder = train(demo, sampled, tmp_path, "--epochs", 2)      # the run folder
    refused("train.py", "--lr", "x", says="--lr")               # one line on stderr and exit status 2
    assert_same_run(folder, other)                              # bit for bit, but for the seconds
    script = patched(tmp_path, "train.py", "from lrcn.base import files\\nfiles.flush_folder = ...")
"""
import csv
import dataclasses
import json
import socket
from pathlib import Path
from unittest import mock

from commands import ROOT, Result, call, start

from lrcn.base import Lazy
from lrcn.evaluation import results
from lrcn.training.recipe import Recipe

torch = Lazy("torch")   # the process of pytest-xdist that runs no test needs none

# SqueezeNet's random features differ from frame to frame; three quarters of a million weights
TINY = ("--encoder", "squeezenet1_1", "--encoder_weights", "none", "--img_dim", 32, "--num_workers", 0,
        "--latent_dim", 16, "--hidden_size", 8, "--batch_size", 4, "--device", "cpu",
        "--val_check_interval", 1, "--checkpoint_interval", 2, "--no-pictures",
        # what is installed beside PyTorch, and the machine's instructions, change no figure
        "--encoder_backend", "torch", "--encoder_precision", "float32")
# The head of a fusion of such runs
HEAD = ("--latent_dim", 16, "--hidden_size", 8, "--batch_size", 4, "--epochs", 3, "--val_check_interval", 1,
        "--no-pictures", "--num_workers", 0, "--device", "cpu", "--encoder_backend", "torch",
        "--encoder_precision", "float32")


def sample(demo, folder, *more):
    """Result of sampling the demo's videos, on its lists, into a folder."""
    return call("preprocessing_data.py", "--row_data_dir", demo / "UCF-101", "--ucf_list_dir",
                demo / "ucfTrainTestlist", "--sampled_data_dir", folder, *more)


def data_flags(demo, sampled):
    """The words for a folder of clips; without lists where `demo` is None."""
    return "--sampled_data_path", sampled, *(("--ucf_list_dir", demo / "ucfTrainTestlist") if demo else ())


def flags(demo, sampled, local_dir, *more):
    """The words of a tiny training; the later of two like flags counts."""
    return *data_flags(demo, sampled), *TINY, "--local_dir", local_dir, *more


def train(demo, sampled, local_dir, *more):
    """Run folder of a whole tiny training; without pictures, unless `more` has --pictures."""
    return last_line(call("train.py", *flags(demo, sampled, local_dir, *more)))


def report_of(folder, *more):
    """The report folder of test.py on a run; it draws nothing."""
    with mock.patch.object(results, "draw"):
        return last_line(call("test.py", "--model_dir", folder, "--num_workers", 0, "--num_videos", 0,
                              "--device", "cpu", *more))


def answered_run(folder, said, classes=("A", "B"), **metrics):
    """A run folder with nothing but the test results. said: {video: (class, probabilities)}."""
    (folder / "test").mkdir(parents=True)
    with open(folder / "test" / "predictions.csv", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(("video", "class", "label", "group", "predicted", "predicted_class", "right",
                         *(f"p_{cls}" for cls in classes)))
        for video, (cls, p) in said.items():
            best = max(range(len(p)), key=p.__getitem__)
            writer.writerow((video, cls, classes.index(cls), video[:7], best, classes[best],
                             int(classes[best] == cls), *p))
    (folder / "test" / "metrics.json").write_text(json.dumps(
        {"split": "1", "parameters": 7, "checkpoint": "best.pth.tar", "seed": 1, "encoder": folder.name,
         **metrics}))
    return folder


def launched(script, *words, ok=True):
    """Result of a launch on the CPU: two processes, with the environment that torchrun gives, which need not
    import torch anew. code: the worst; out: the first one's; err: both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"CUDA_VISIBLE_DEVICES": "", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2,
           "LOCAL_WORLD_SIZE": 2}
    processes = [start(script, *words, env={**env, "RANK": i, "LOCAL_RANK": i}) for i in range(2)]
    results = [process.wait() for process in processes]
    result = Result(max(abs(r.code) for r in results), results[0].out, "".join(r.err for r in results))
    assert result.code == 0 or not ok, result
    return result


def last_line(result):
    return Path(result.out.splitlines()[-1])


def load(folder, name="last"):
    return torch.load(Path(folder) / "Saved_model_checkpoint" / f"{name}.pth.tar", weights_only=True)


def weights(folder, name="last"):
    """{key: tensor} of a checkpoint's encoder (where it is in there) and head."""
    state = load(folder, name)
    return {f"{part}.{key}": value for part in ("encoder", "head")
            for key, value in (state[part] or {}).items()}


def other_value(name, recipe):
    """A value that a field of Recipe may have, and that this recipe has not."""
    [kind] = [f.metadata["kind"] for f in dataclasses.fields(Recipe) if f.name == name]
    special = {"img_dim": 40, "encoder": "squeezenet1_0", "encoder_weights": "none.pth",
               "train_encoder": "last:2", "streams": ["one", "two"], "chosen_classes": ["one", "two"],
               "stride": "random", "class_weights": "balanced"}
    candidates = [special.get(name, "other"), *getattr(kind, "words", ()), True, False, 3, 2, 0.3]
    return next(value for value in candidates if kind.fault(value) is None and value != getattr(recipe, name))


def table(path):
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def metrics(folder):
    """The rows of metrics.csv without the column that no two runs share."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in table(Path(folder) / "metrics.csv")]


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def differences(one, other, at=""):
    """Where two checkpoints differ, bit for bit; seconds and the flags of resuming are passed over."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = (one.keys() | other.keys()) - {"seconds", "settings"}
        absent = object()
        return [d for k in sorted(keys, key=str)
                for d in differences(one.get(k, absent), other.get(k, absent), f"{at}.{k}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [d for i, (a, b) in enumerate(zip(one, other, strict=True))
                for d in differences(a, b, f"{at}[{i}]")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [at]
    return [] if one == other else [at]


def assert_same_run(one, other, names=("last", "best")):
    """The same weights, optimiser, random states, metrics.csv and best checkpoint, bit for bit."""
    assert metrics(one) == metrics(other)
    for name in names:
        assert not differences(load(one, name), load(other, name)), name
    assert table(one / "splits.csv") == table(other / "splits.csv")


def half_files(folder):
    """Temporary files that somebody left."""
    return [str(p) for p in Path(folder).rglob(".*.tmp*")]


def patched(tmp_path, script, patch):
    """A script that runs `patch` and then `script` of the repository."""
    path = tmp_path / f"patched_{script}"
    path.write_text(f"import os, sys, runpy\nsys.path.insert(0, {str(ROOT)!r})\n{patch}\n"
                    f"sys.argv[0] = {str(ROOT / script)!r}\n"
                    f"runpy.run_path(sys.argv[0], run_name='__main__')\n")
    return path


def one_line(result, *says, code=2):
    """The one line on stderr, progress bars aside, of a script that ended without a traceback."""
    lines = [line for line in result.err.splitlines() if line.strip() and "%|" not in line]
    assert result.code == code and "Traceback" not in result.err, result
    assert len(lines) == 1, result
    for words in says:
        assert words in lines[0], result
    return lines[0]


def refused(*command, says=(), code=2):
    """The one line with which a script refuses its flags or what they name, told in this process."""
    return one_line(call(*command, ok=False), *([says] if isinstance(says, str) else says), code=code)
