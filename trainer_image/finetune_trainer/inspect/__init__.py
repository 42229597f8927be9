"""The inspect pod: everything about model, data and output that can be known without a GPU and without torch."""
