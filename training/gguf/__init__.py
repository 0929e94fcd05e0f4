"""Models in GGUF files: read into a Hugging Face folder, and written from one."""
