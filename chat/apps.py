from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate


class ChatConfig(AppConfig):
    name = "chat"

    def ready(self) -> None:
        from chat.roles import ensure_roles

        # Told of the last room's tables: by then the permissions of all rooms are there.
        post_migrate.connect(ensure_roles, sender=apps.get_app_config("providers"))
