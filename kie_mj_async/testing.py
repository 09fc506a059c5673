"""Doubles for tests: virtual time."""
