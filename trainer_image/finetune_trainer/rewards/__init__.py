"""What generated answers are worth (objectives grpo and rloo): built-in verifiers and functions of the user."""
