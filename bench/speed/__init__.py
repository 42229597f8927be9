"""How `throughput_accuracy.py` reads measured runs, predicts their speed and counts the errors."""
