"""The app; its broker is named by the environment, or by the test."""

from amqptasks import App

app = App("src", include=["integration.apps.seed_src.tasks"])
