"""Side-by-side measurements against peers, one file per question: python -m benchmarks.NAME."""
