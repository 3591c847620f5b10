"""What a user sees when something is wrong: one paragraph, never a traceback."""

from __future__ import annotations


class StepwellError(Exception):
    """A mistake that the user can mend.

    The message is one paragraph that says what is wrong, where (file and line, or an id), why it matters
    and what to do. The command line prints it and exits with status 2; nothing is overwritten.
    """
