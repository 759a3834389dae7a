"""The scheduler: any number of beats run, one leads; what is due becomes messages."""
