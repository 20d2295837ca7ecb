"""A command line that is wrong in a way that its parser does not see."""


class UsageError(Exception):
    """The words of a command line do not go together."""
