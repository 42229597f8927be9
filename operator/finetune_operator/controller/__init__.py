"""The controller: everything that touches a cluster, a clock or the event loop. Decisions live in `jobs` and are pure."""
