"""The dashboard: pages that show a running system and steer it, served by Starlette.

    from amqptasks import dashboard

    routes = [Mount("/tasks", app=dashboard.asgi(app))]

Draws what `monitor` tells; knows neither broker nor workers. Needs the extra: pip install 'amqptasks[dashboard]'.
"""

from amqptasks.errors import ImproperlyConfigured

try:
    import jinja2
    import starlette
except ImportError as error:
    raise ImproperlyConfigured(
        f"the dashboard needs {error.name}; run: pip install 'amqptasks[dashboard]'"
    ) from None

from amqptasks.dashboard.access import Access
from amqptasks.dashboard.application import Dashboard, asgi

__all__ = ["Access", "Dashboard", "asgi"]
