"""A live view of a run, from what lies in its store: ``codistill watch`` shows it."""
