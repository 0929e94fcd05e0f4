"""The generation engine: continuous batching of one packed graph on plain ONNX Runtime.

From the bottom up: what a request asks (sampling_params, logits_processor, structured_output) and
what becomes of it (sequence, sequence_factory, request_table, detokenizer); slots and prefixes
(cache), the queue (fair_queue), how long steps take (step_times), drafts (draft_table, speculation)
and who runs in a step (scheduler); the state tensors (slot_state) and the only file that knows ONNX
Runtime (model_runner); from logits to tokens (row_sampler, sampler) or to an embedding (pooling),
and to outputs (output_processor); one model version, synchronous (llm_engine), and one thread with
several versions for asyncio (async_engine, loaded_version, output_stream).
"""
