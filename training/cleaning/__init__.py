"""Cleaning: the datatrove pipeline that a corpus passes before it becomes a dataset version."""
