"""Breaking a run of peers in every way that is promised to be survived."""
