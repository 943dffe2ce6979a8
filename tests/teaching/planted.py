"""How many of the wrong labels that were planted in a data set are among the first suspects of teach.py.

    python tests/teaching/planted.py SAMPLED --encoder timm/tf_efficientnet_lite0 --encoder_weights FILE

SAMPLED: a copy of a folder of preprocessing_data.py, whose review.csv is written anew. Prints the table of
docs/reviewing.md.
"""
import sys
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import teach
from lrcn.teaching.review import of_clips

WRONG, SEEDS = 0.05, 3


def planted(folder, seed):
    """A Review of the clips with one in twenty of another class, and their numbers."""
    (folder / "review.csv").unlink(missing_ok=True)
    review, rng = of_clips(folder), np.random.default_rng(seed)
    wrong = rng.permutation(sorted(review.entries))[:round(WRONG * len(review.entries))].tolist()
    for number in wrong:
        others = [name for name in review.names if name != review.entry(number).decision.cls]
        review.item({"number": number, "class": str(rng.choice(others))})
    return review, wrong


def main():
    folder, *words = sys.argv[1:]
    args = teach.make_parser().parse_args(["--sampled_data_path", folder, *words])
    encoder, options = teach.make_encoder(args, folder)[:2]
    print("| seed | clips | planted | among the first tenth | among as many as were planted |")
    for seed in range(SEEDS):
        review, wrong = planted(Path(folder), seed)
        review.judge(encoder, options)
        order = [item["number"] for item in sorted(review.items(), key=lambda item: -item["suspicion"])]
        tenth, first = (len(set(order[:n]) & set(wrong)) for n in (len(order) // 10, len(wrong)))
        print(f"| {seed} | {len(order)} | {len(wrong)} | {tenth} | {first} |", flush=True)


if __name__ == "__main__":
    main()
