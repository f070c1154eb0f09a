"""ONNX → Caffe: a network description and weights in the dialect that OpenCV and BVLC Caffe both run."""
