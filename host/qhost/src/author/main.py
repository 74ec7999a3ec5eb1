"""What is built of a policy in Python: its rules, and what they print in the policy's log."""

import io
import sys

from rules import *
from wit_world.imports import log


class _Log(io.TextIOBase):
    """A line of text is a line of the log."""

    def __init__(self, level):
        self._level = level
        self._line = ""

    def write(self, text):
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            log.log(self._level, line)
        return len(text)


# Without WASI there is no standard output: what is printed would trap.
sys.stdout = _Log(log.Level.INFO)
sys.stderr = _Log(log.Level.WARN)
