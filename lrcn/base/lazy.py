"""Modules that take seconds to import, imported at their first use: a wrong flag is reported at once. A
module whose classes derive from torch's is itself Lazy where it is named.
"""
import functools
import gc
import importlib
import sys


class Lazy:
    """Stands for the module `name`: every attribute is that module's."""

    def __init__(self, name):
        self._name, self._module = name, None

    def __getattr__(self, attribute):
        if self._module is None:
            collecting = self._name not in sys.modules and gc.isenabled()
            if collecting:
                gc.disable()    # an import makes no garbage, and collecting takes a fifth of its time
            try:
                self._module = importlib.import_module(self._name)
            finally:
                if collecting:
                    gc.freeze()
                    gc.enable()
        return getattr(self._module, attribute)


def inference_mode(function):
    """A decorator: torch.inference_mode(), which imports torch when the function is called."""
    @functools.wraps(function)
    def call(*args, **kwargs):
        with Lazy("torch").inference_mode():
            return function(*args, **kwargs)
    return call
