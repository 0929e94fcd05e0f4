"""Readers of the user's own data: files in many formats, local or by URL, and hub datasets."""
