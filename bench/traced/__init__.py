"""The closed form of `finetune_operator.memory` against the fake-tensor oracle, on configurations generated from a seed."""
