"""The worker: a parent that moves bytes and a pool of children that run tasks."""
