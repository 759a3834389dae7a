"""What not everybody needs: classes of tasks for one purpose, and ties to frameworks."""
