"""benchmark.py: every rate apart."""
import subprocess

import pytest
from commands import call
from runs import data_flags, read_json

from lrcn.evaluation import results


def test_the_benchmark_leaves_every_rate_apart(demo, sampled, tmp_path, monkeypatch):
    def timed(words, **_):
        result = call(*words[1:], ok=False)
        return subprocess.CompletedProcess(words, result.code, result.out, result.err)
    monkeypatch.setattr(subprocess, "run", timed)
    monkeypatch.setattr(results, "draw", lambda *_: None)
    output, before = tmp_path / "rates.json", sorted(sampled.iterdir())
    result = call("benchmark.py", *data_flags(demo, sampled), "--row_data_dir", demo / "UCF-101",
                  "--encoder", "squeezenet1_1", "--img_dim", 32, "--frames", 10, "--clips", 6, "--epochs", 1,
                  "--repeats", 1, "--num_workers", 0, "--device", "cpu", "--encoder_backend", "torch",
                  "--end_to_end", "--output", output)
    figures = read_json(output)
    for name in ("sampling", "decode", "encode_bare", "encode_cached", "fraction", "head", "train", "test",
                 "epoch_without_cache", "times_faster"):
        assert figures[name]["median"] > 0 and figures[name]["values"], name
    assert figures["fraction"]["median"] == pytest.approx(
        figures["encode_cached"]["median"] / figures["encode_bare"]["median"])
    assert figures["machine"]["device"] == "cpu" and "frames/s" in result.out
    assert sorted(sampled.iterdir()) == before, "it measures on a copy"
