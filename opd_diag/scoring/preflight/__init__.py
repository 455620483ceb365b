"""What can be said of a scoring job before it starts."""
