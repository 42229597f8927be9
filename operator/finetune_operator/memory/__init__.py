"""The memory estimator: an architecture and a way to train it in, bytes per phase and component out. Pure, without torch."""
