"""TFLite operators in ONNX's words, one idea a file; ``catalog`` is the table."""
