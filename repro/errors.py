"""The error for people: the command line prints its message as one line and exits with code 2."""


class UserError(Exception):
    """The input is wrong and a person can correct it. The message says what is wrong and what would be right."""
