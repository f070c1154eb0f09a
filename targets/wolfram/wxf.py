"""The parameters' file: an association of NumericArray in Wolfram's exchange format (WXF), version 1.

https://reference.wolfram.com/language/tutorial/WXFFormatDescription.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from optim.contract import Array
from optim.errors import InternalError


def write(parameters: Mapping[str, Array], file: Path) -> None:
    """Write ``parameters`` (float32) and read them back: they must be the same bits.

    Raises:
        InternalError: what was read differs.
        ImportError: wolframclient is not installed.
    """
    from wolframclient.serializers import export

    with file.open("wb") as stream:
        export(dict(parameters), stream, target_format="wxf")
    back = read(file)
    for name, array in parameters.items():
        found = back.get(name)
        if found is None or found.dtype != np.float32 or found.shape != array.shape:
            raise InternalError("did not survive the round trip through WXF", where=name)
        if found.tobytes() != array.tobytes():
            raise InternalError("changed its bits on the round trip through WXF", where=name)


def read(file: Path) -> dict[str, Array]:
    """The association in ``file``."""
    from wolframclient.deserializers import binary_deserialize

    with file.open("rb") as stream:
        found = binary_deserialize(stream)
    return {str(name): np.asarray(array) for name, array in found.items()}
