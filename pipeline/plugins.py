"""Plug-ins: files in pipeline/methods/, teachers/, students/, datasets/ and others. The file name is their name.

Files whose name starts with `_` are shared machinery of the folder, not plug-ins.
"""

import ast
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from pipeline.errors import UserError, listed, suggestion

LIBRARY = Path(__file__).parent


def plugins(kind: str) -> list[str]:
    """The names of the plug-ins in `pipeline/<kind>/`."""
    return sorted(m.name for m in iter_modules([str(LIBRARY / kind)]) if not m.name.startswith("_"))


def plugin(kind: str, name: Any, where: str = "") -> ModuleType:
    """The module `pipeline/<kind>/<name>.py`, imported on demand.

    Raises:
        UserError: there is no such file; the message lists the existing ones.
    """
    names = plugins(kind)
    if name not in names:
        place = f"{where}: " if where else ""
        wrong = f"{listed([repr(name)])} in pipeline/{kind}/{suggestion(str(name), names)}"
        raise UserError(f"{place}no {wrong}; there are {listed(names)}")
    return import_module(f"pipeline.{kind}.{name}")


def function(factory: str, where: str) -> Callable[..., Any]:
    """The function that `package.module:name` names; the module may lie in the current folder.

    Args:
        factory: its name.
        where: the place of the name, for messages.

    Raises:
        UserError: there is no such module, it cannot be imported, or has no such function.
    """
    module, _, name = factory.partition(":")
    if not module or not name:
        raise UserError(f"{where}: {factory!r}: write it as package.module:function")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{where}: no module {error.name!r}; put it into the project's folder, or install its package"
        ) from None
    except Exception as error:  # it may be any code
        raise UserError(f"{where}: {factory}: {in_user_code(error, module)}") from error
    finally:
        sys.path.remove(here)
    named = getattr(found, name, None)
    if not callable(named):
        raise UserError(f"{where}: {module} has no function {name!r}{suggestion(name, dir(found))}")
    made: Callable[..., Any] = named
    return made


def in_user_code(error: BaseException, module: str) -> str:
    """An error of a user's code in one line, with its place: the last one in the user's module, if there is one.

    Args:
        error: as it was raised.
        module: the name of the user's module.
    """
    file = getattr(sys.modules.get(module), "__file__", None)
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:  # the module was not imported
        frames, message = [(error.filename, error.lineno)], error.msg
    else:
        message = " ".join(str(error).split())[:300]
    name, line = ([frame for frame in frames if frame[0] == file] or frames or [("?", None)])[-1]
    return f"{type(error).__name__}: {message} ({Path(name).name}, line {line})"


def describe(kind: str) -> dict[str, str]:
    """Each plug-in of a kind and the first line of its documentation, without importing any of them."""
    files = {name: ast.parse((LIBRARY / kind / f"{name}.py").read_text(encoding="utf-8")) for name in plugins(kind)}
    return {name: (ast.get_docstring(tree) or "").partition("\n")[0] for name, tree in files.items()}
