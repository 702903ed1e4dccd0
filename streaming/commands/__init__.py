"""The commands: each module registers its own with the command line, and imports what is heavy only when it runs."""

from streaming.errors import UserError
from streaming.settings import Settings


def load_settings() -> Settings:
    """The settings from the environment. Raises UserError that names each wrong variable."""
    from pydantic import ValidationError

    try:
        return Settings()
    except ValidationError as error:
        raise UserError("wrong settings:\n" + "\n".join(f"  {line}" for line in _lines(error))) from None


def _lines(error: Exception) -> list[str]:
    from pydantic import ValidationError

    assert isinstance(error, ValidationError)
    lines = []
    for fault in error.errors(include_url=False, include_input=False):  # inputs may be secrets
        name = f"TRENDCAST_{fault['loc'][0]}".upper() if fault["loc"] else "settings"
        lines.append(f"{name}: {fault['msg'].removeprefix('Value error, ')}")
    return lines
