"""An array module that stands in for CuPy: arrays of its own class, which refuse to meet NumPy's unasked.

As with CuPy, ``asarray`` moves to the device, ``.get()`` moves back, and an operation between a device array
and a NumPy array of one or more dimensions is an error. What passes here touches no array behind the
module's back; CuPy's own kernels are not tested by it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """A NumPy array behind a wall."""

    __array_priority__ = 1000

    def __init__(self, host: np.ndarray) -> None:
        self._host = host

    def get(self) -> np.ndarray:
        return self._host

    def __array__(self, *_args: Any, **_kwargs: Any) -> np.ndarray:
        raise TypeError("implicit conversion to a NumPy array is not allowed; use .get()")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _wrapped(getattr(ufunc, method)(*_unwrapped(inputs), **_unwrapped(kwargs)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the array protocols would let NumPy in
            raise AttributeError(name)
        value = getattr(self._host, name)
        return _callable(value) if callable(value) else _wrapped(value)

    def __getitem__(self, key: Any) -> Any:
        return DeviceArray(np.asarray(self._host[_unwrapped(key)]))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[_unwrapped(key)] = _unwrapped(value)

    def __len__(self) -> int:
        return len(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def __int__(self) -> int:
        return int(self._host)

    def __bool__(self) -> bool:
        return bool(self._host)

    @property
    def dtype(self) -> np.dtype:
        return self._host.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._host.shape


def _unwrapped(value: Any) -> Any:
    if isinstance(value, DeviceArray):
        return value.get()
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("a NumPy array met the device")
    if isinstance(value, tuple | list):
        return type(value)(_unwrapped(v) for v in value)
    if isinstance(value, dict):
        return {k: _unwrapped(v) for k, v in value.items()}
    return value


def _wrapped(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(np.asarray(value))
    if isinstance(value, tuple | list) and any(isinstance(v, np.ndarray) for v in value):
        return type(value)(_wrapped(v) for v in value)
    return value


def _callable(function: Any) -> Any:
    return lambda *args, **kwargs: _wrapped(function(*_unwrapped(args), **_unwrapped(kwargs)))


class Device(ModuleType):
    """``import device as xp``: NumPy's functions over device arrays."""

    def __init__(self, name: str = "device_stand_in", of: Any = np) -> None:
        super().__init__(name)
        self._of = of

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        if isinstance(value, ModuleType):
            return Device(name, value)
        if isinstance(value, type) or not callable(value):
            return value
        return _callable(value)

    def asarray(self, value: Any, dtype: Any = None) -> DeviceArray:
        return DeviceArray(np.asarray(value.get() if isinstance(value, DeviceArray) else value, dtype=dtype))


XP = Device()
sys.modules.setdefault(XP.__name__, XP)  # where ``metrics.module_of`` finds an array's module
DeviceArray.__module__ = XP.__name__
