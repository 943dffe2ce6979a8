"""What a value may be, said once: for a word of the command line and for what a file tells.

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
    """What all kinds have: `fault` says what is wrong with a value of a file, calling one reads a word."""
    none = False    # whether None is one too

    def __str__(self):
        return self.what

    def __call__(self, text):
        if not self._right(text):
            raise argparse.ArgumentTypeError(f"expected {self}, not {text}")
        return text

    def fault(self, value):
        """None, or why the value is none of this kind."""
        right = value is None and self.none or self._right(value)
        return None if right else f"expected {self}, not {shown(value)}"


@dataclass(frozen=True)
class Number(_Kind):
    """A finite number of `kind` with low <= x <= high and above < x < below; none: None is one too."""
    kind: type
    low: Any = None
    high: Any = None
    above: Any = None
    below: Any = None
    none: bool = False

    @property
    def __name__(self):     # what argparse calls a word that is no number at all
        return "whole number" if self.kind is int else "number"

    def __call__(self, text):
        if self.none and text.lower() == "none":
            return None
        value = self.kind(text)
        if not self._inside(value):
            raise argparse.ArgumentTypeError(f"expected {self}, not {text}")
        return value

    def _inside(self, x):
        return (math.isfinite(x)
                and (self.low is None or x >= self.low) and (self.high is None or x <= self.high)
                and (self.above is None or x > self.above) and (self.below is None or x < self.below))

    def _right(self, value):
        return (type(value) is int or self.kind is float and type(value) is float) and self._inside(value)

    def __str__(self):
        signs = ((">=", self.low), ("<=", self.high), (">", self.above), ("<", self.below))
        bounds = " and ".join(f"{sign} {bound:g}" for sign, bound in signs if bound is not None)
        return f"a {self.__name__} {bounds}".strip() + (" or None" if self.none else "")


class NumberOrAll(Number):
    """A Number, or the word all."""

    def __call__(self, text):
        return text if text == "all" else super().__call__(text)

    def _right(self, value):
        return value == "all" or super()._right(value)

    def __str__(self):
        return f"{super().__str__()}, or all"


COUNT, POSITIVE, POSITIVE_OR_NONE = Number(int, low=0), Number(int, low=1), Number(int, low=1, none=True)
number_or_all = NumberOrAll(int, low=1)


def number_or_source(text):
    """A number >= 0, or the word source, which is 0."""
    return 0.0 if text == "source" else Number(float, low=0)(text)


@dataclass(frozen=True)
class Choice(_Kind):
    """One of some words."""
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
    """Different names, none of them empty; on the command line with commas between."""
    none: bool = False
    longest: int = 255
    what = "a list of different names"

    def __call__(self, text):
        names = [name.strip() for name in text.split(",")]
        if self.fault(names):
            raise argparse.ArgumentTypeError(f"expected different names with commas between, not {text}")
        return names

    def _right(self, value):
        return (isinstance(value, list) and 0 < len(value) <= 100_000
                and all(isinstance(name, str) and 0 < len(name) <= self.longest and not Text().fault(name)
                        for name in value)
                and len(set(value)) == len(value))


@dataclass(frozen=True)
class Numbers(_Kind):
    """As many numbers as `count`, each as `each` says."""
    count: int
    each: Number

    def _right(self, value):
        return (isinstance(value, list | tuple) and len(value) == self.count
                and not any(map(self.each.fault, value)))

    def __str__(self):
        return f"{self.count} times {self.each}"


@dataclass(frozen=True)
class Either(_Kind):
    """What one of some kinds says."""
    kinds: tuple

    def _right(self, value):
        return not all(kind.fault(value) for kind in self.kinds)

    def __str__(self):
        return " or ".join(map(str, self.kinds))


class Switch(_Kind):
    """True or False."""
    what, __call__ = "True or False", staticmethod(cli.true_or_false)

    def _right(self, value):
        return isinstance(value, bool)


def check(described, table, source):
    """described {name: value} against table {name: what it may be}; a UserError names the first fault. Names
    that are not in the table are passed over; one that is missing is a fault."""
    if not isinstance(described, dict):
        raise cli.UserError(f"{source}: expected names and values, not {shown(described)}")
    for name, kind in table.items():
        fault = "it is missing" if name not in described else kind.fault(described[name])
        if fault:
            raise cli.UserError(f"{source}: {name}: {fault}")
