"""Errors that are the user's to mend: shown as one message without a traceback, exit code 2."""


class UserError(ValueError):
    """What is wrong, where, and what to do."""


class ConfigError(UserError):
    """Everything that is wrong with a configuration, in one message."""
