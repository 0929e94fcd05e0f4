"""Inference: the ONNX Runtime engine, the OpenAI-compatible API and the BentoML service."""
