"""ONNX → Wolfram Language: a text that builds the net, its parameters in WXF, and what checks it there."""
