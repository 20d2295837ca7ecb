"""A loss, a store and a task for codistill."""
