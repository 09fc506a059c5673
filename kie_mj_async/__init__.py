"""kie-mj-async."""
