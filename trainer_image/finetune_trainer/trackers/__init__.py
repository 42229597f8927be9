"""Experiment trackers: TensorBoard's event files for every job, others where spec.tracking names them."""
