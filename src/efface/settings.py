"""A method's settings are its dataclass's fields: their names, types, defaults and explanations.

The explanation is the string literal under the field. The command line, the help and the checks of
the Python API all read them here.
"""

import ast
import inspect
import math
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from efface.core import EffaceError


class Setting(NamedTuple):
    """One field of a method."""

    name: str
    kinds: tuple[Any, ...]
    """What it may be: int, float, bool, str, NoneType, or a literal value standing for itself."""
    default: Any
    text: str

    @property
    def type(self) -> str:
        """The type as the help shows it: "int or none", "last, last_to_end or all"."""
        words = [_word(kind) for kind in self.kinds]
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def describe(method: type) -> list[Setting]:
    """Every setting of a method, in the order of its fields."""
    hints, texts = get_type_hints(method), _texts(method)
    return [
        Setting(
            f.name,
            _kinds(hints[f.name]),
            f.default_factory() if f.default_factory is not MISSING else f.default,
            texts.get(f.name, ""),
        )
        for f in fields(method)
    ]


def parse(name: str, method: type, words: Mapping[str, str]) -> dict[str, Any]:
    """Settings from the words of a command line; `name` is the method's."""
    known = {s.name: s for s in describe(method)}
    _check_names(name, known, words)
    return {key: _value(name, known[key], word) for key, word in words.items()}


def check(name: str, method: type, values: Mapping[str, Any]) -> None:
    """Refuse settings that the method has not, or of another type."""
    known = {s.name: s for s in describe(method)}
    _check_names(name, known, values)
    for key, value in values.items():
        if not any(_fits(value, kind) for kind in known[key].kinds):
            raise EffaceError(
                f"{name} takes for {key}: {known[key].type}; {value!r} is none of these"
            )


def at_least(settings: Any, least: int, *names: str) -> None:
    """Refuse settings of these names that are below."""
    for name in names:
        if getattr(settings, name) < least:
            raise EffaceError(f"{name} must be at least {least}: got {getattr(settings, name)}")


def positive(settings: Any, *names: str) -> None:
    """Refuse settings of these names that are not above 0."""
    for name in names:
        if getattr(settings, name) <= 0:
            raise EffaceError(f"{name} must be above 0: got {getattr(settings, name)}")


def _check_names(name: str, known: Mapping[str, Setting], given: Mapping[str, Any]) -> None:
    for key in given:
        if key not in known:
            raise EffaceError(f"{name} has no setting {key!r}: it has {', '.join(known)}")


def _value(name: str, setting: Setting, word: str) -> Any:
    for kind in setting.kinds:
        value = _read(word, kind)
        if value is not MISSING and _fits(value, kind):
            return value
    raise EffaceError(f"{name} takes for {setting.name}: {setting.type}; {word!r} is none of these")


def _read(word: str, kind: Any) -> Any:
    """The word as a value of one kind; MISSING where it is none."""
    if kind is NoneType:
        return None if word.lower() == "none" else MISSING
    if kind is bool:
        return {"true": True, "false": False}.get(word.lower(), MISSING)
    if kind in (int, float, str):
        try:
            return kind(word)
        except ValueError:
            return MISSING
    return kind if word == str(kind) else MISSING


def _fits(value: Any, kind: Any) -> bool:
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else bool(value == kind)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """`int | None` -> (int, NoneType); Literal["a", "b"] -> ("a", "b")."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if inner := get_args(hint):
        return tuple(kind for part in inner for kind in _kinds(part))
    return (hint,)


def _word(kind: Any) -> str:
    if kind is NoneType:
        return "none"
    return str(getattr(kind, "__name__", kind))


def _texts(method: type) -> dict[str, str]:
    """Field name -> the string literal that follows it in the source, its own or a parent's."""
    found = {}
    for cls in reversed([c for c in method.__mro__ if is_dataclass(c)]):
        [body] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(body, ast.ClassDef)
        for above, below in zip(body.body, body.body[1:], strict=False):
            match above, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                    found[name] = " ".join(text.split())
    return found
