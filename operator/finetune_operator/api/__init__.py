"""The API: every value that crosses a process boundary, and every name that users see. It imports nothing of ours."""
