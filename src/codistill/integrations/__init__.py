"""Peers under trainers that others have written; each module needs the extra of its name."""
