"""Code of a user's part that runs without its package: a function of torch alone, whose text an export carries.

An activation is such a function itself, if it names nothing but torch, math and numbers. What needs more, and a class,
says it by a static function ``exported``, beside what it computes here.
"""

import ast
import builtins
import inspect
import math
import symtable
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_KNOWN = {"torch": torch, "nn": nn, "functional": functional, "math": math}
"""What an export has under these names."""


def code_of(part: object) -> str:
    """The text of a part's function ``exported``, or of a plain function itself.

    Args:
        part: a function, or an object whose class has ``exported``.

    Returns:
        A definition of ``made``, which makes the function when it is called.

    Raises:
        ValueError: there is no such function, or it needs more than torch; the reason, in one line.
    """
    function = getattr(part, "exported", part)
    name = getattr(function, "__name__", "")
    if (known := _known(function)) is not None:
        return f"def made():\n    return {known}\n"
    if not isinstance(function, FunctionType):
        raise ValueError(
            "its `exported` is no plain function; write @staticmethod before it"
            if hasattr(part, "exported")
            else "it has no function `exported`"
        )
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, SyntaxError, ValueError):
        tree = None
    if not isinstance(tree, ast.FunctionDef) or tree.name != name:
        raise ValueError(f"the text of {name} cannot be read; write it with def in a file")
    # Not called here: it is only told what a function of a class, or of a registry, is.
    tree.decorator_list = [one for one in tree.decorator_list if not _is_label(one)]
    _strip_hints(tree)
    names = {name: _written(function, name) for name in sorted(_free(function, ast.unparse(tree)) - {name})}
    lines = [f"{name} = {written}" for name, written in names.items() if written != name]
    body = "\n".join([*lines, ast.unparse(tree), f"return {tree.name}"])
    return f"def made():\n{textwrap.indent(body, '    ')}\n"


def compiled(text: str) -> Callable[..., Any]:
    """The function of a text that `code_of` wrote."""
    names = dict(_KNOWN)
    exec(text, names)
    return names["made"]()  # pyright: ignore[reportCallIssue]


def _is_label(decorator: ast.expr) -> bool:
    """``@staticmethod``, or ``@REGISTRY.add("name")``."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in ("staticmethod", "add")


def _strip_hints(tree: ast.FunctionDef) -> None:
    tree.returns = None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)


def _free(function: FunctionType, text: str) -> set[str]:
    """Names that a definition reads from around it, but for those of Python itself."""
    found, scopes = set[str](), [symtable.symtable(text, "exported", "exec")]
    while scopes:
        scope = scopes.pop()
        outside = [one for one in scope.get_symbols() if scope.get_type() == "module" or one.is_global()]
        found |= {one.get_name() for one in outside if one.is_referenced()}
        scopes += scope.get_children()
    own = {*function.__globals__, *function.__code__.co_freevars}
    return {name for name in found if name in own or not hasattr(builtins, name)}


def _written(function: FunctionType, name: str) -> str:
    """What stands for one of a function's free names in an export."""
    missing = object()
    value = function.__globals__.get(name, missing)
    if name in function.__code__.co_freevars or value is missing:
        raise ValueError(f"{function.__name__} names {name}, which it does not make")
    for kind in (bool, int, float):  # What derives from one, as NumPy's numbers do, may write itself otherwise.
        if isinstance(value, kind) and math.isfinite(value):
            return repr(kind(value))
    if (known := _known(value)) is not None:
        return known
    raise ValueError(f"{function.__name__} names {name}, which is nothing of torch or math and no number")


def _known(value: Any) -> str | None:
    """What an export calls a module that it has, or what is in one."""
    name = getattr(value, "__name__", "")
    for known, module in _KNOWN.items():
        if value is module:
            return known
        if name and getattr(module, name, None) is value:
            return f"{known}.{name}"
    return None
