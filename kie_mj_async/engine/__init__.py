"""The road of a job, and what keeps its traffic within the account's limits."""
