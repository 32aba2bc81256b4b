"""Errors that end a command with one line that says what to do."""


class OpsError(Exception):
    """The message is for a person; `exit_code` as DESIGN §7 has it: 1 failed, 2 usage."""

    exit_code = 1


class UsageError(OpsError):
    """A setting or an argument is wrong."""

    exit_code = 2
