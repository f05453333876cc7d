"""Teachers from ONNX files."""
