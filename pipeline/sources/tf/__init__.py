"""What all TensorFlow sources share: a GraphDef or concrete function to ONNX. Loaded only in children."""
