"""The OpenAI-compatible API over the engine: plain Starlette, testable without BentoML."""
