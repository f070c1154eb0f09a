"""Evaluation of ONNX graphs in float64, on NumPy or CuPy arrays: what rounding is measured against."""
