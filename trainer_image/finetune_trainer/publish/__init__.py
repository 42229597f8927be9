"""From the final checkpoint to a model that others can load, in every place and format that `output` names."""
