"""The analyses, one question each."""
