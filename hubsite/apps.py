from django.apps import AppConfig


class HubsiteConfig(AppConfig):
    name = "hubsite"
    verbose_name = "LLM MCP Hub"

    def ready(self) -> None:
        from hubsite import checks  # noqa: F401 (registers the system checks)
