"""The data format: columns, files, manifest and runs."""
