from django.apps import AppConfig


class HubsiteConfig(AppConfig):
    name = "hubsite"
    verbose_name = "LLM MCP Hub"

    def ready(self) -> None:
        import logging

        import prometheus_client
        from django.conf import settings

        from hubsite import checks  # noqa: F401 (registers the system checks)
        from hubsite.database_meter import meter_database

        # The log tells neither, and each line would ask the system for them.
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
        # When each series began is told in a series of its own otherwise.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        if settings.HUB_METRICS:
            meter_database()
