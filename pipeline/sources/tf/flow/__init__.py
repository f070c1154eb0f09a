"""Control flow and arrays of TensorFlow in the form that ONNX has: If, Loop, and dense tensors.

TensorFlow has two forms. Version 1 lies flat in the graph: Switch and Merge, and frames of Enter, Merge,
NextIteration and Exit. Version 2 calls functions: If, Case, While. Here

1. ``flatten`` brings version 2 into version 1, by TensorFlow's own optimiser, so that one form is left,
2. ``arrays`` turns TensorArrays and TensorLists into dense tensors,
3. ``loops`` and ``branches`` make functions of the flat form again, now over plain tensors only.
"""
