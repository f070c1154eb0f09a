"""Python functions of the user that build a model: ``module:function``, run only when allowed."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from optim.errors import UnsupportedModelError, UserError
from pipeline.sources.contract import ConvertRequest


def call_factory(name: str, request: ConvertRequest) -> Any:
    """The result of ``module:function()``; modules beside the working directory are found.

    Raises:
        UserError: custom code is not allowed, or there is no such function.
        UnsupportedModelError: the function failed.
    """
    if not request.allow_custom_code:
        raise UserError(
            f"'{name}' is Python code, which is not run unasked",
            hint="if you trust it: --allow-custom-code, or model.allow_custom_code: true",
        )
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        raise UserError(f"'{name}' names no function", expected="module:function")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    path = Path(module_name)
    if path.suffix == ".py":
        sys.path.insert(0, str(path.absolute().parent))
        module_name = path.stem
    try:
        function = getattr(import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"cannot import {name}: {error}", expected="module:function, importable from here"
        ) from error
    try:
        return function()
    except Exception as error:
        raise UnsupportedModelError(
            f"{name}() failed: {type(error).__name__}: {error}", where=name, hint="call it by itself first"
        ) from error
