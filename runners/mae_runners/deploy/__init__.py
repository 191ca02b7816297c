"""Artifacts: ONNX files proven against torch, reduced precision, TensorRT engines, and how to run
them."""
