"""An application as a user lays it out: `app.py` has the app, `tasks.py` the tasks."""
