"""What the tests of features share."""
import shutil

import pytest

from lrcn.features import features


@pytest.fixture
def folder(sampled, tmp_path):
    """A copy of the `sampled` clips without features."""
    return shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))


@pytest.fixture
def encoded(monkeypatch):
    """How many frames, or chunks, were encoded each time, those apart by which an engine is judged."""
    calls, real = [], features._encode

    def noted(encoder, blocks, *rest):
        calls.append(len(blocks.chosen))
        return real(encoder, blocks, *rest)
    monkeypatch.setattr(features, "_encode", noted)
    return calls
