"""Turns jsonargparse's errors, which span many lines, into one that says how to mend it."""

import inspect
import pkgutil
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule

from lightning_seq import recipes
from lightning_seq.errors import InputError, did_you_mean

_GROUPS = {"trainer.callbacks": Callback, "data": LightningDataModule}
_BASES = {"model": LightningModule, "data": LightningDataModule, "callbacks": Callback}


def explain(message: str, options: Iterable[str]) -> str:
    """Returns ``message`` in one line, with the name that may have been meant.

    Args:
        message: Of an ``ArgumentError``.
        options: The option strings that the parser knows.
    """
    for rule in _RULES:
        if explained := rule(message, options):
            return explained
    return " ".join(message.split())


def unwrapped(error: Exception) -> Exception:
    """Returns what a constructor raised, which jsonargparse wraps into an error of many lines.

    A value that a constructor refuses becomes an :class:`InputError`; anything else stays what it is.
    """
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    ours = next((each for each in chain if isinstance(each, InputError)), None)
    if ours is not None:
        return ours
    refusals = (ValueError, ImportError, ZeroDivisionError, MisconfigurationException)
    if isinstance(chain[-1], refusals):
        return InputError(f"{first_line(chain[-1])} (--debug shows where)")
    return error


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _missing(message: str, options: Iterable[str]) -> str | None:
    if "arguments are required" not in message or "model" not in message:
        return None
    return "no model is chosen: give --config RECIPE (`lightning-seq recipes` lists them) or --model CLASS"


def _stray_word(message: str, options: Iterable[str]) -> str | None:
    found = re.match(r"unrecognized arguments: ([^-\s]\S*)", message, re.IGNORECASE)
    if not found:
        return None
    if found[1] in (*recipes.names(), *recipes.fragments()):
        return f"{found[1]!r} belongs to no option: give it as --config {found[1]}"
    return f"{found[1]!r} belongs to no option: if a pattern such as *.txt became several names, quote it"


def _unknown_option(message: str, options: Iterable[str]) -> str | None:
    found = re.match(r"unrecognized arguments: (-\S+)", message, re.IGNORECASE)
    if not found:
        return None
    name = found[1].partition("=")[0]
    return f"no option {name}{did_you_mean(name, options)}: `lightning-seq fit --help` lists them"


def _unknown_parameter(message: str, options: Iterable[str]) -> str | None:
    path, name = (
        _search(r"class_path '([\w.]+)'", message),
        _search(r"'(\w+)' is not (?:accepted|expected)", message),
    )
    if name is None:
        key = re.search(r"Key '([\w.]+)' is not expected|Unrecognized key.*?'([\w.]+)'", message)
        if key is None:
            return None
        name = key[1] or key[2]
        keys = [option.lstrip("-") for option in options]
        return f"no key {name!r} in a configuration{did_you_mean(name, keys)}"
    if path is None:
        return None
    if path.endswith(".LightningModule"):
        return f"no model is chosen for model.{name}: give --config RECIPE or --model CLASS before it"
    group = next(
        (key for key, base in _GROUPS.items() if issubclass(pkgutil.resolve_name(path), base)), "model"
    )
    more = f": `lightning-seq fit --{group}.help {_short(path)}` lists them"
    return f"{_short(path)} has no option {name!r}{did_you_mean(name, _parameters(path))}{more}"


def _wrong_value(message: str, options: Iterable[str]) -> str | None:
    found = re.search(r'Parser key "([\w.]+)":\s+Expected (?:a )?(.+?)\. Got value: (.*)', message, re.DOTALL)
    if not found:
        return None
    expected = re.sub(r"<class '([\w.]+)'>", r"\1", found[2])
    expected = re.sub(r"typing\.Literal\[(.+?)\]", r"one of \1", expected)
    return " ".join(f"{found[1]} is {found[3].split(chr(10))[0]!r}, and {expected} is expected".split())


def _wrong_for_all(message: str, options: Iterable[str]) -> str | None:
    """A value that is of none of several types: what jsonargparse says of them is the innermost part."""
    before, begins, tail = message.rpartition("Does not validate against any of the Union subtypes")
    found = re.match(r"\s+Subtypes: \[(.*)\]\s+Errors:.*?Given value: ([^\n]*)", tail, re.DOTALL)
    of_a_class = re.search("class_path|Expected a dot import path|abstract", tail)
    if not begins or found is None or of_a_class:
        return None
    key = ".".join(dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', before)))
    return f"{key} is {found[2]!r}, and {_one_of(found[1])} is expected"


def _one_of(types: str) -> str:
    """Lists types as ``list[int], <class 'NoneType'>`` names them, the values of Literals among them."""
    literal = r"typing\.Literal\[(.+?)\]"
    values = [value.strip("'") for found in re.findall(literal, types) for value in found.split(", ")]
    rest = re.sub(rf"{literal}(, )?", "", types).replace("<class 'NoneType'>", "null")
    rest = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", rest).removesuffix(", ")
    return ", ".join(filter(None, [*dict.fromkeys(values), rest])).replace(", null", " or null")


def _broken_import(message: str, options: Iterable[str]) -> str | None:
    found = re.search(r"Problem with given class_path '([\w.]+)':\s+(.+)", message)
    if not found:
        return None
    key = _search(r'Parser key "([\w.]+)"', message) or "class"
    return f"{key}: {found[1]}: {found[2].strip()}"


def _abstract(message: str, options: Iterable[str]) -> str | None:
    if "but is abstract" not in message:
        return None
    paths = re.findall(r"[A-Za-z_]\w*(?:\.\w+)+", message)
    for path in paths:
        with suppress(ImportError, AttributeError):
            if inspect.isabstract(cls := pkgutil.resolve_name(path)):
                missing = ", ".join(sorted(cls.__abstractmethods__))
                return f"{path} lacks {missing}: write what its base class asks for"
    return None


def _unknown_class(message: str, options: Iterable[str]) -> str | None:
    name = _search(r"Expected a dot import path string: (\S+)", message)
    if name is None:
        return None
    key = (_search(r'Parser key "([\w.]+)"', message) or "model").rpartition(".")[2]
    known = [cls.__name__ for cls in _subclasses(_BASES.get(key, object))] if key in _BASES else []
    return (
        f"no class {name!r} for {key}{did_you_mean(name, known)}: give its name, or module.Class for your own"
    )


def _search(pattern: str, message: str) -> str | None:
    found = re.findall(pattern, message)
    return found[-1] if found else None


def _short(path: str) -> str:
    return path.rpartition(".")[2]


def _parameters(path: str) -> set[str]:
    """Names that the constructors of a class and of its bases take."""
    cls: Any = pkgutil.resolve_name(path)
    return {p for base in cls.__mro__[:-1] for p in inspect.signature(base.__init__).parameters} - {
        "self",
        "kwargs",
    }


def _subclasses(cls: type) -> set[type]:
    direct: set[type] = set(cls.__subclasses__())
    return direct.union(*(_subclasses(c) for c in direct))


_RULES = (
    _missing,
    _stray_word,
    _unknown_option,
    _unknown_parameter,
    _wrong_value,
    _wrong_for_all,
    _broken_import,
    _abstract,
    _unknown_class,
)
