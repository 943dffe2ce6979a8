"""What a value may be: one definition for words of the command line and for values in files.

A checkpoint may come from a stranger: what is read from one passes `fault` before anything is built from it.
"""
import argparse
import math
import re
import reprlib
from dataclasses import dataclass
from typing import Any

from lrcn.base import cli

LONGEST = 10_000    # letters of a name or path
shown = reprlib.repr    # a value in a few words, however large or deep it is


class _Kind:
    """`fault` checks a value of a file; calling a kind reads a word of the command line."""
    none = False    # whether None is allowed too

    def __str__(self):
        return self.what

    def __call__(self, text):
        value = self._read(text)
        if self.fault(value):
            raise argparse.ArgumentTypeError(f"expected {self}, not {text}")
        return value

    def _read(self, text):
        return text

    def fault(self, value):
        """None, or what is wrong with the value."""
        right = value is None and self.none or self._right(value)
        return None if right else f"expected {self}, not {shown(value)}"


@dataclass(frozen=True)
class Number(_Kind):
    """A finite number of `kind` with low <= x <= high and above < x < below, or `word`."""
    kind: type
    low: Any = None
    high: Any = None
    above: Any = None
    below: Any = None
    none: bool = False
    word: str = ""

    @property
    def __name__(self):     # what argparse calls a word that is no number at all
        return "whole number" if self.kind is int else "number"

    def _read(self, text):
        if self.none and text.lower() == "none":
            return None
        return text if text == self.word else self.kind(text)

    def _right(self, x):
        if isinstance(x, str):
            return x and x == self.word
        return ((type(x) is int or self.kind is float and type(x) is float) and math.isfinite(x)
                and (self.low is None or x >= self.low) and (self.high is None or x <= self.high)
                and (self.above is None or x > self.above) and (self.below is None or x < self.below))

    def __str__(self):
        signs = ((">=", self.low), ("<=", self.high), (">", self.above), ("<", self.below))
        bounds = " and ".join(f"{sign} {bound:g}" for sign, bound in signs if bound is not None)
        return (f"a {self.__name__} {bounds}".strip() + " or None" * self.none
                + (f", or {self.word}" if self.word else ""))


COUNT, POSITIVE, POSITIVE_OR_NONE = Number(int, low=0), Number(int, low=1), Number(int, low=1, none=True)
number_or_all = Number(int, low=1, word="all")


def number_or_source(text):
    """A number >= 0, or the word source, which is 0."""
    return 0.0 if text == "source" else Number(float, low=0)(text)


@dataclass(frozen=True)
class Choice(_Kind):
    words: tuple

    def _right(self, value):
        return isinstance(value, str) and value in self.words

    def __str__(self):
        return f"one of {', '.join(self.words)}"


@dataclass(frozen=True)
class Pattern(_Kind):
    """A word of a form; what: the form in words."""
    pattern: str
    what: str

    def _right(self, value):
        return isinstance(value, str) and re.fullmatch(self.pattern, value)


@dataclass(frozen=True)
class Text(_Kind):
    """Any words that can be written into a file."""
    none: bool = False
    what = f"text of at most {LONGEST} characters"

    def __call__(self, text):
        return text

    def _right(self, value):
        try:
            return isinstance(value, str) and len(value) <= LONGEST and value.encode() is not None
        except UnicodeEncodeError:
            return False


@dataclass(frozen=True)
class Names(_Kind):
    """Different names, none of them empty; on the command line separated by commas."""
    none: bool = False
    longest: int = 255
    what = "a list of different names"

    def _read(self, text):
        return [name.strip() for name in text.split(",")]

    def _right(self, value):
        return (isinstance(value, list) and 0 < len(value) <= 100_000
                and all(isinstance(name, str) and 0 < len(name) <= self.longest and not Text().fault(name)
                        for name in value)
                and len(set(value)) == len(value))


@dataclass(frozen=True)
class Numbers(_Kind):
    """`count` numbers, each as `each` says."""
    count: int
    each: Number

    def _right(self, value):
        return (isinstance(value, list | tuple) and len(value) == self.count
                and not any(map(self.each.fault, value)))

    def __str__(self):
        return f"{self.count} times {self.each}"


@dataclass(frozen=True)
class Either(_Kind):
    kinds: tuple

    def _right(self, value):
        return not all(kind.fault(value) for kind in self.kinds)

    def __str__(self):
        return " or ".join(map(str, self.kinds))


class Switch(_Kind):
    what, __call__ = "True or False", staticmethod(cli.true_or_false)

    def _right(self, value):
        return isinstance(value, bool)


def check(described, table, source):
    """Compare described {name: value} with table {name: kind}; a UserError names the first fault. Names that
    are not in the table are ignored; one that is missing is a fault."""
    if not isinstance(described, dict):
        raise cli.UserError(f"{source}: expected names and values, not {shown(described)}")
    for name, kind in table.items():
        fault = "it is missing" if name not in described else kind.fault(described[name])
        if fault:
            raise cli.UserError(f"{source}: {name}: {fault}")
