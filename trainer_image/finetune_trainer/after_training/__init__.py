"""The evaluation after the training (`evaluation.metrics`): the base model and the tuned one on rows that were not trained; or that of the last step.

It runs in the first training pod, in a process of its own, when the ranks are gone and their memory is free.
"""
