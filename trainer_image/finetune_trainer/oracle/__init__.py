"""The fake-tensor oracle: a training step of any transformers model, run on shapes alone, with every byte that it would hold on a GPU.

The closed form of `finetune_operator.memory` is proven against it, and an architecture that the closed form lacks is traced by it.
"""
