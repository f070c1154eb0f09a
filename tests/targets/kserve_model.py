"""MLServer's side of the Triton test: ONNX models of a repository, run in MLServer's own environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor


class OnnxModel(MLModel):  # type: ignore[misc]
    """Loads the ONNX file at ``parameters.uri``."""

    async def load(self) -> bool:
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, providers=["CPUExecutionProvider"]
        )
        self.inputs = [self._described(t) for t in self._session.get_inputs()]
        self.outputs = [self._described(t) for t in self._session.get_outputs()]
        return True

    def _described(self, tensor: Any) -> MetadataTensor:
        shape = [d if isinstance(d, int) else -1 for d in tensor.shape]
        datatype = {"tensor(float)": "FP32", "tensor(uint8)": "UINT8"}[tensor.type]
        return MetadataTensor(name=tensor.name, datatype=datatype, shape=shape)

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        types = {"FP32": np.float32, "UINT8": np.uint8}
        feeds = {
            one.name: NumpyCodec.decode_input(one).astype(types[one.datatype]).reshape(one.shape)
            for one in payload.inputs
        }
        names = [t.name for t in self._session.get_outputs()]
        arrays = self._session.run(names, feeds)
        outputs = [NumpyCodec.encode_output(n, a) for n, a in zip(names, arrays, strict=True)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
