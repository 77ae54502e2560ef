"""Settings from the environment and from a file, so that whatever is wrong with them is told with all the rest, by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError, TomlConfigSettingsSource

_PREFIX, _DELIMITER = "flashbulb_", "__"


class _NotJson(str):
    """What stood where JSON was wanted. Goes on to the validation, which refuses it together with all else that is wrong."""

    problem = ""


class Environment(EnvSettingsSource):
    """Variables. One that is no JSON where it should be does not hide what else is wrong."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ANN401  # as declared above it
        """The value, decoded."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError as err:
            wrong = _NotJson(value)
            wrong.problem = f"must be JSON: {err}"
            return wrong

    def unknown(self) -> list[str]:
        """Variables that look like settings, of a part that there is not. Without a part (`FLASHBULB_KEY`) they are other programs'."""
        names = (name for name in self.env_vars if name.startswith(_PREFIX) and _DELIMITER in name)
        return [name.upper() for name in names if name[len(_PREFIX) :].split(_DELIMITER)[0] not in _parts(self)]


class ConfigFile(TomlConfigSettingsSource):
    """A TOML file. Raises SettingsError, which names the file, for one that cannot be read."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path, variable: str) -> None:
        if not path.is_file():
            raise SettingsError(f"{variable} names {path}, which is no file")
        try:
            super().__init__(settings_cls, toml_file=path)
        except (OSError, ValueError) as err:
            raise SettingsError(f"{variable}: {path}: {err}") from err


def described(problem: ErrorDetails, known: Mapping[str, Mapping[str, object]]) -> str:
    """A problem of the validation as a line for the operator. `known`: the names of the settings by part. Never holds a value."""
    words = [str(word) for word in problem["loc"]]
    if not words:  # of the file as a whole, which the message names
        return _message(problem)
    variable = f"{_PREFIX}{_DELIMITER.join(words[:2])}".upper()
    return f"{'.'.join(words)} ({variable}): {_what(problem, words, known)}"


def unknown_variable(name: str, parts: Mapping[str, object]) -> str:
    """A line about a variable that means nothing."""
    part, _, rest = name.removeprefix(_PREFIX.upper()).partition(_DELIMITER)
    close = get_close_matches(part.lower(), parts, n=1)
    return f"{name}: there is no such setting" + (
        f"; is {_PREFIX.upper()}{close[0].upper()}{_DELIMITER}{rest} meant?" if close else ""
    )


def _what(problem: ErrorDetails, words: list[str], known: Mapping[str, Mapping[str, object]]) -> str:
    if isinstance(problem["input"], _NotJson):
        return problem["input"].problem
    if problem["type"] == "extra_forbidden":
        names = known if len(words) == 1 else known.get(words[0], {})
        close = get_close_matches(words[-1], names, n=1)
        return "there is no such setting" + (f"; is {'.'.join((*words[:-1], close[0]))} meant?" if close else "")
    return _message(problem)


def _message(problem: ErrorDetails) -> str:
    return problem["msg"].removeprefix("Value error, ")


def _parts(source: EnvSettingsSource) -> Mapping[str, object]:
    return source.settings_cls.model_fields
