"""Every decision, pure: values in, values out. No clock, no chance and no I/O of their own."""
