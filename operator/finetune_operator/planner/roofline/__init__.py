"""The roofline of a training step: what has to be computed and moved (work), and how long a GPU and its links take for it."""
