"""Plan, run, recover and publish language-model fine-tuning on Kubernetes."""

__version__ = "0.1.0"
