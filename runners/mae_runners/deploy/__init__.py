"""Artefacts: ONNX that is proven against torch, reduced precision, TensorRT engines, and what runs them."""
