"""A Caffe net in OpenCV's dnn module."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx_ir as ir

from optim.contract import Feeds, Outputs, TensorSpec
from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from optim.model import signature
from targets.validate_feeds import validate_feeds


def framework() -> str:
    """Name and version of the OpenCV on this machine."""
    return f"caffe net in opencv {_cv2().__version__}"


class CaffeSession:
    """Runs a net with the inputs and outputs of the model that was converted from it.

    Raises:
        MissingRuntimeError: there is no OpenCV, or one without the importer.
        UserError: OpenCV does not load the net.
    """

    def __init__(self, prototxt: Path, caffemodel: Path | None, converted: ir.Model) -> None:
        cv2 = _cv2()
        self._error = cv2.error
        self.inputs, self.outputs = signature(converted)
        arguments = [str(prototxt)] if caffemodel is None else [str(prototxt), str(caffemodel)]
        try:
            self._net: Any = cv2.dnn.readNetFromCaffe(*arguments)
        except cv2.error as error:
            raise UserError(f"OpenCV cannot load it: {_told(error)}", where=str(prototxt)) from error
        self._net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        self._net.enableFusion(False)
        self._net.enableWinograd(False)

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs by name.

        Raises:
            UserError: the feeds do not fit.
            UnsupportedModelError: OpenCV cannot compute a layer.
        """
        validate_feeds(self.inputs, feeds)
        for name, array in feeds.items():
            self._net.setInput(np.ascontiguousarray(array), name)
        return {spec.name: self._shaped(spec, self._compute(spec)) for spec in self.outputs}

    def _compute(self, spec: TensorSpec) -> Any:
        try:
            return np.array(self._net.forward(self._layer(spec.name)))
        except self._error as error:
            raise UnsupportedModelError(
                f"OpenCV cannot compute it: {_told(error)}", where=spec.name
            ) from error

    def _layer(self, blob: str) -> str:
        """The layer that makes an output: OpenCV knows results by layer."""
        names = self._net.getLayerNames()
        unconnected = self._net.getUnconnectedOutLayersNames()
        return blob if blob in names or len(unconnected) != 1 else str(unconnected[0])

    @staticmethod
    def _shaped(spec: TensorSpec, array: Any) -> Any:
        """OpenCV drops or adds axes of size 1."""
        shape = tuple(d for d in spec.shape if isinstance(d, int))
        return array.reshape(shape) if array.size == int(np.prod(shape)) else array

    def close(self) -> None:
        self._net = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingRuntimeError(str(error), hint="pip install 'fairlead[caffe]'") from error
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise MissingRuntimeError(
            f"OpenCV {cv2.__version__} has no Caffe importer", hint="pip install 'fairlead[caffe]'"
        )
    return cv2
