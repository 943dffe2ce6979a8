"""The whole job on the embedded data set, by the commands that a person would type: make demo

It leaves the videos in demo/data, the sampled clips in demo/sampled and two run folders in demo/runs: an
LRCN, and the same without its LSTM, which sees the mean of the frames and so cannot tell a pair's classes
apart. The last line is the path of a page that shows both. Exit status 1: the LRCN has less than 90% right.
"""
import shlex
import shutil
import time

from lrcn.base import cli, files
from lrcn.runs import RunFolder

DATA = "--sampled_data_path demo/sampled --ucf_list_dir demo/data/ucfTrainTestlist"
# Without weights nothing is downloaded, and a small network suffices for six classes.
TRAIN = (f"train.py {DATA} --encoder squeezenet1_1 --encoder_weights none --img_dim 112 "
         f"--latent_dim 256 --hidden_size 128 --lstm_layers 1 --dropout 0.2 --lr 4e-3 --epochs 80 "
         f"--val_check_interval 10 --checkpoint_interval 40 --num_workers 2 --open_new_folder False")
COMMANDS = (
    "demo_data.py --output_dir demo/data",
    "preprocessing_data.py --row_data_dir demo/data/UCF-101 --sampled_data_dir demo/sampled "
    "--ucf_list_dir demo/data/ucfTrainTestlist",
    f"{TRAIN} --readout final --local_dir demo/runs/lrcn",
    f"{TRAIN} --readout none --local_dir demo/runs/no_lstm",
    f"test.py {DATA} --model_dir demo/runs/lrcn",
    f"test.py {DATA} --model_dir demo/runs/no_lstm",
    f"test_continues_movie.py {DATA} --model_dir demo/runs/lrcn",
    "report.py demo/runs/lrcn demo/runs/no_lstm",
)
RUNS = (("LRCN", "demo/runs/lrcn"), ("mean of frames, no LSTM", "demo/runs/no_lstm"))


def main():
    cli.Parser(__doc__).parse_args()
    begin = time.monotonic()
    shutil.rmtree("demo/runs", ignore_errors=True)
    for command in COMMANDS:
        cli.say("", f"$ python {command}", sep="\n")
        status = cli.run_script(*shlex.split(command))
        if status:
            raise cli.UserError(f"this command ended with exit status {status}: python {command}")
    took, top1 = time.monotonic() - begin, {}
    cli.say("", f"Test accuracy on split 1 of the embedded data ({took:.0f} s in all):", sep="\n")
    for name, folder in RUNS:
        metrics = files.read_json(RunFolder(folder).test.metrics)
        top1[name], (low, high) = metrics["top1"], metrics["ci95"]
        cli.say(f"  {name:24} {metrics['top1']:6.1%}   95% interval {low:.1%} to {high:.1%}, "
                f"{metrics['videos']} videos of {metrics['classes']} classes")
    cli.say("The two classes of a pair show the same frames in another order: without order, half is chance.")
    if top1["LRCN"] < 0.9:
        cli.warn("demo: the LRCN should get 90% right")
        return 1
    cli.say("Open this page in a browser; the same and more lies beside it as files:")
    cli.say(RunFolder("demo/runs/lrcn").report)


if __name__ == "__main__":
    cli.run(main)
