"""The second graph of a quantized model version: the same model with its products in fp32.

Training writes it, the engine runs it for wide steps. It has the inputs, outputs and state of
model.onnx and reads the same file of tensors; what it unpacks from them exists in memory only.
"""

FILE_NAME = "wide.onnx"

# Of a session. ONNX Runtime unpacks constants while it loads a graph, but leaves quantized ones as
# they are, for kernels that take them so, unless it is told that there are none.
UNPACK_ENTRY = ("session.disable_quant_qdq", "1")
