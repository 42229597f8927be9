"""Readers of file formats: whatever a file is, its rows come out as `Line`s, in order and with constant memory."""
