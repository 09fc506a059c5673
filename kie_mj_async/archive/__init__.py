"""Results on disk: complete, verified, never in place of anything else."""
