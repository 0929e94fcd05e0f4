"""Training: corpus, clean dataset, tokenizer, checkpoint, and the export to a model version."""
