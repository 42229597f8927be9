"""Scores the memory estimator on measured runs that others published: `python bench/memory_accuracy.py CSV`."""
