"""What the owner says of providers and rules while the hub runs. What is left empty is as the settings say."""

from __future__ import annotations

from django.db import models

from providers.row_checks import check_provider, check_rule

MAX_NAME = 32
MAX_RULE_NAME = 60


class ProviderRow(models.Model):
    """One provider. Empty columns leave it to the settings of its adapter (HUB_CLAUDE_FLOOR and its like).

    `generation` is raised to have its workers replaced in every hub.
    """

    name = models.CharField(max_length=MAX_NAME, unique=True)
    adapter = models.CharField(max_length=50)
    is_enabled = models.BooleanField("enabled", default=True)
    is_drained = models.BooleanField("drained", default=False)
    generation = models.PositiveIntegerField(default=0, editable=False)
    binary = models.CharField(max_length=1_000, blank=True, default="")
    command = models.JSONField(default=list, blank=True)
    extra_env = models.JSONField("extra environment names", default=list, blank=True)
    default_model = models.CharField(max_length=200, blank=True, default="")
    model_names = models.JSONField("models", default=list, blank=True)
    aliases = models.JSONField(default=dict, blank=True)
    context_tokens = models.PositiveIntegerField(null=True, blank=True)
    floor = models.PositiveIntegerField("workers kept ready", null=True, blank=True)
    ceiling = models.PositiveIntegerField("workers at most", null=True, blank=True)
    memory_mb = models.PositiveIntegerField("memory of all workers in MB", null=True, blank=True)
    rss_mb = models.PositiveIntegerField("memory of one worker in MB", null=True, blank=True)
    nice = models.PositiveIntegerField("niceness", null=True, blank=True)
    cpu_weight = models.PositiveIntegerField("weight for the processor", null=True, blank=True)
    cpu_s = models.PositiveIntegerField("processor seconds of one worker", null=True, blank=True)
    max_processes = models.PositiveIntegerField("processes of one worker", null=True, blank=True)
    memory_max_mb = models.PositiveIntegerField("hard bound of memory of one worker in MB", null=True, blank=True)
    ready_s = models.FloatField("seconds to get ready", null=True, blank=True)
    first_event_s = models.FloatField("seconds to the first event", null=True, blank=True)
    silence_s = models.FloatField("seconds of silence", null=True, blank=True)
    turn_s = models.FloatField("seconds of a whole turn", null=True, blank=True)
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    concurrent_turns = models.PositiveIntegerField(null=True, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "provider"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises ValidationError with every column that can't be as it is."""
        check_provider(self)


class RouteRule(models.Model):
    """One rule of routing, as providers/rules.py has it. The first that fits decides, by `position`."""

    name = models.CharField(max_length=MAX_RULE_NAME, unique=True)
    position = models.PositiveIntegerField(default=0)
    is_enabled = models.BooleanField("enabled", default=True)
    targets = models.JSONField(default=list, blank=True)
    fallback = models.JSONField(default=list, blank=True)
    least_tokens = models.PositiveIntegerField("tokens at least", null=True, blank=True)
    most_tokens = models.PositiveIntegerField("tokens at most", null=True, blank=True)
    is_code = models.BooleanField("code", null=True, blank=True)
    languages = models.JSONField(default=list, blank=True)
    has_images = models.BooleanField("images", null=True, blank=True)
    has_tools = models.BooleanField("tools", null=True, blank=True)
    wants_json = models.BooleanField("JSON output", null=True, blank=True)
    model_names = models.JSONField("models", default=list, blank=True)
    keys = models.JSONField(default=list, blank=True)
    session_providers = models.JSONField(default=list, blank=True)
    hours = models.CharField(max_length=11, blank=True, default="")
    time_zone = models.CharField(max_length=64, blank=True, default="UTC")
    days = models.JSONField(default=list, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "routing rule"
        ordering = ["position", "id"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises ValidationError with every column that can't be as it is."""
        check_rule(self)
