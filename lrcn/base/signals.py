"""What Ctrl-C and SIGTERM do: end a script, stop a loop between two steps, or nothing in a worker."""
import contextlib
import os
import signal
import threading

ASKED = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM: it ends a script as Ctrl-C does, with another exit status."""


@contextlib.contextmanager
def handled(handler):
    """Inside, SIGINT and SIGTERM go to `handler`; to signal.SIG_DFL at once, also in C code."""
    before = {number: signal.signal(number, handler) for number in ASKED}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class Stop(contextlib.ExitStack):
    """SIGINT and SIGTERM as a flag: `signal`, its number or None. A second one ends the process at once."""

    def __init__(self):
        super().__init__()
        self.signal = None

    def __enter__(self):
        def note(number, frame):
            self.signal = number
            signal.signal(number, signal.SIG_DFL)
        self.enter_context(handled(note))
        return self


def quiet():
    """Leave signals to the parent: Ctrl-C and often SIGTERM reach all processes at once, and the parent may
    still want the worker's next answer. It ends the worker by a SIGTERM of its own."""
    for one in ASKED:
        signal.signal(one, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):      # macOS and Windows do not say who sent a signal
        parent = os.getppid()

        def await_parent():
            while True:
                info = signal.sigwaitinfo(ASKED)
                if info.si_signo == signal.SIGTERM and info.si_pid == parent:
                    os._exit(0)
        signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)
        threading.Thread(target=await_parent, daemon=True).start()
