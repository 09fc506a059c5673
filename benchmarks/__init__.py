"""What this package costs and reaches, beside its peers; see README.md."""
