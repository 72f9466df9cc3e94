"""The error that is for people: the command line prints it as one line and exits with code 2."""


class UserError(Exception):
    """Input that a person can correct: the message says what is wrong and what would be right."""
