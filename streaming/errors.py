"""Errors that are the user's to mend: the command line prints their message, without a traceback, and ends with status 1."""


class UserError(Exception):
    """Something outside the program is wrong; the message says what, and what to do about it.

    >>> raise UserError("no broker answers at 127.0.0.1:9092; start one with `trendcast up`")
    Traceback (most recent call last):
        ...
    streaming.errors.UserError: no broker answers at 127.0.0.1:9092; start one with `trendcast up`
    """
