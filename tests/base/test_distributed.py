"""Processes that torchrun starts: what does not fit is one line, and nobody waits for ever."""
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest
from commands import ROOT
from runs import launched, patched

from lrcn.base import distributed
from lrcn.base.cli import UserError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
CPU = SimpleNamespace(type="cpu")
WAITING = """
from types import SimpleNamespace
from lrcn.base import cli, distributed
cli.run(lambda: distributed.ranks(SimpleNamespace(type="cpu")).__enter__())
"""


@pytest.fixture
def second_of_two(monkeypatch):
    """This process is 1 of 2, and what listens where 0 should be says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name, value in (("RANK", 1), ("WORLD_SIZE", 2), ("MASTER_ADDR", "127.0.0.1"),
                            ("MASTER_PORT", server.getsockname()[1])):
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        yield server


def test_the_others_that_do_not_come_are_one_line(second_of_two, monkeypatch):
    monkeypatch.setattr(distributed, "MEET", timedelta(milliseconds=10))
    second_of_two.close()
    for port in (os.environ["MASTER_PORT"], None):
        if port is None:
            monkeypatch.delenv("MASTER_PORT")
        with pytest.raises(UserError) as error, distributed.ranks(CPU):
            raise AssertionError
        text = str(error.value)
        assert text.startswith("RANK=1 and WORLD_SIZE=2 are set") and "use torchrun, or unset" in text
        assert "\n" not in text and f"MASTER_PORT={port} (" in text


def test_a_process_that_waits_for_the_others_ends_when_it_is_asked(second_of_two):
    process = subprocess.Popen([sys.executable, "-c", WAITING], stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    peer, _ = second_of_two.accept()    # it has come so far, and waits for an answer
    process.terminate()
    _, err = process.communicate(timeout=60)
    peer.close()
    assert process.returncode == -signal.SIGTERM and not err


def test_a_lost_process_is_one_line_of_the_others(tmp_path):
    script = patched(tmp_path, "train.py", """
import os, sys
import torch
from types import SimpleNamespace
from lrcn.base import cli, distributed
def main():
    with distributed.ranks(SimpleNamespace(type="cpu")) as rank:
        assert rank.gather(rank.number) == [0, 1] and rank.broadcast(rank.number) == 0
        assert rank.all_reduce_max(rank.number) == 1
        if not rank.first:
            os._exit(9)
        rank.barrier()
cli.run(main)
""")
    result = launched(script, ok=False)
    assert len(result.err.splitlines()) == 1 and result.code == 9, result
    assert "process 0 of 2: another one has ended, or did not answer within 30 minutes" in result.err
