"""The generation engine: continuous batching of one packed graph on plain ONNX Runtime.

From the bottom up: sampling_params, sequence, cache (slots and prefixes), scheduler (who runs in a
step), model_runner (the only file that knows ONNX Runtime), sampler, detokenizer, llm_engine (one
model version, synchronous) and async_engine (one thread, several versions, asyncio).
"""
