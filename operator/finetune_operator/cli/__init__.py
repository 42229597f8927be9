"""The command line: `finetune` and `kubectl finetune`."""
