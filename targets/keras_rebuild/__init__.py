"""ONNX → the Python source of a Keras functional model, with its weights. Knows no Keras: it writes text."""
