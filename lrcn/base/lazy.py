"""Modules that take seconds to import, loaded when something of them is first used.

So a wrong flag is told at once. A module whose classes derive from torch's is itself Lazy where it is named.
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
            searched = self._name not in sys.modules and gc.isenabled()
            if searched:
                gc.disable()    # an import makes no garbage, and looking for it takes a fifth of the time
            try:
                self._module = importlib.import_module(self._name)
            finally:
                if searched:
                    gc.freeze()     # nor is it looked at later
                    gc.enable()
        return getattr(self._module, attribute)


def inference_mode(function):
    """torch.inference_mode() round a function, which does not import torch before it is called."""
    @functools.wraps(function)
    def call(*args, **kwargs):
        with Lazy("torch").inference_mode():
            return function(*args, **kwargs)
    return call
