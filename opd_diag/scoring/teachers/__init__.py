"""Where the teacher's part comes from when its weights are not here."""
