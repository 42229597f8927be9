"""The policies of a job: what its children, conditions and status should be. Pure: everything it knows comes in as a frozen value."""
