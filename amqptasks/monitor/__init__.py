"""Watching a running system: what the dashboard and `amqptasks top` show, gathered by one observer.

`snapshot` are the values shown, `observer` is who gathers them and acts. Nothing here draws anything.
"""
