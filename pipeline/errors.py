"""The one exception that means: the user can fix this."""


class UserError(Exception):
    """Something outside the program is wrong, and its owner can mend it.

    The message is one line: what is wrong, where, and what to do. Every command prints it without a traceback and
    exits with code 2; anything else that is raised is a bug of ours and keeps its traceback.
    """
