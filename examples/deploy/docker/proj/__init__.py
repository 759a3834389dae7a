"""The application that the deployment examples run."""
