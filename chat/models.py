"""What the database keeps of callers and conversations. Redis holds the hot state, this is the record."""

from __future__ import annotations

from decimal import Decimal

from django.db import models
from django.utils import timezone

SCOPES = ("chat", "sessions", "mcp", "admin")


def default_scopes() -> list[str]:
    return ["chat", "sessions", "mcp"]


class ApiKey(models.Model):
    """A caller's key. Only its SHA-256 is kept: a random 256-bit secret needs no slow hash.

    After a rotation the replaced secret holds on until `previous_expires_at`; the key's limits, figures and its
    owner's sessions stay. An empty limit leaves it to the hub's settings, 0 means none.
    """

    name = models.CharField(max_length=100)
    owner = models.CharField(max_length=100, default="default", help_text="Keys of one owner share sessions.")
    prefix = models.CharField(max_length=16, help_text="The key's first characters, to tell keys apart.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    previous_prefix = models.CharField(max_length=16, blank=True, default="", editable=False)
    previous_digest = models.CharField(max_length=64, blank=True, default="", editable=False)
    previous_expires_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    scopes = models.JSONField(default=default_scopes, blank=True, help_text=f"Some of {', '.join(SCOPES)}.")
    allowed_providers = models.JSONField(
        default=list, blank=True, help_text="Providers it may use; none named means all."
    )
    allowed_models = models.JSONField(
        default=list, blank=True, help_text="Models it may use, * allowed; none means all."
    )
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_day = models.PositiveIntegerField(null=True, blank=True)
    concurrent_turns = models.PositiveIntegerField(null=True, blank=True)
    budget_day_usd = models.DecimalField(max_digits=12, decimal_places=4, null=True, blank=True)
    budget_month_usd = models.DecimalField(max_digits=12, decimal_places=4, null=True, blank=True)
    session_ttl_s = models.PositiveIntegerField("session TTL in seconds", null=True, blank=True)
    fallback = models.BooleanField(
        default=False, help_text="Another provider may answer for one that was named and fails."
    )

    class Meta:
        verbose_name = "API key"
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["prefix"], name="apikey_prefix"),
            models.Index(fields=["previous_prefix"], name="apikey_previous_prefix"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}...)"


class Session(models.Model):
    """The archive's copy of a conversation. One public id may have named several, one after the other."""

    uid = models.CharField(max_length=32, primary_key=True)
    owner = models.CharField(max_length=100)
    session_id = models.CharField("session id", max_length=128)
    title = models.CharField(max_length=120, blank=True, default="")
    system = models.TextField(blank=True, default="", help_text="As a JSON string, empty for none.")
    provider = models.CharField(max_length=50, blank=True, default="")
    model = models.CharField(max_length=200, blank=True, default="")
    message_count = models.PositiveIntegerField(default=0)
    revision = models.PositiveIntegerField(default=0, help_text="How many turns it has had.")
    chars = models.PositiveBigIntegerField(default=0)
    ttl_s = models.PositiveIntegerField("TTL in seconds", default=0)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-updated_at"]
        indexes = [
            models.Index(fields=["owner", "session_id", "-updated_at"], name="session_public"),
            models.Index(fields=["owner", "-updated_at"], name="session_owner"),
            models.Index(fields=["-updated_at"], name="session_newest"),
            models.Index(fields=["expires_at"], name="session_expiry"),
        ]

    def __str__(self) -> str:
        return self.title or self.session_id


class Message(models.Model):
    """One message of the archive. `content` is the JSON list of its texts: JSON also holds what no database's text
    column takes. One that a branch has replaced stays, marked; so does a turn that was cancelled in mid-answer."""

    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="messages")
    turn_id = models.CharField(max_length=32)
    index = models.PositiveIntegerField(help_text="Place within its turn.")
    position = models.PositiveIntegerField(help_text="Place within the conversation.")
    revision = models.PositiveIntegerField(default=0, help_text="The session's, after its turn.")
    role = models.CharField(max_length=10)
    content = models.TextField()
    provider = models.CharField(max_length=50, blank=True, default="")
    model = models.CharField(max_length=200, blank=True, default="")
    is_partial = models.BooleanField(default=False)
    reason = models.CharField(max_length=20, db_default="stop", help_text="Why the answer ended.")
    created_at = models.DateTimeField()
    replaced_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["position", "id"]
        constraints = [models.UniqueConstraint(fields=["turn_id", "index"], name="message_once")]
        indexes = [models.Index(fields=["session", "position"], name="message_place")]

    def __str__(self) -> str:
        return f"{self.role} {self.position} of {self.session_id}"


class TurnRecord(models.Model):
    """The figures of one turn, whatever its outcome; they outlive the conversation's text."""

    id = models.CharField(max_length=32, primary_key=True)
    key = models.ForeignKey(ApiKey, null=True, on_delete=models.SET_NULL, related_name="turns")
    owner = models.CharField(max_length=100)
    session_uid = models.CharField(max_length=32, blank=True, default="")
    request_id = models.CharField(max_length=100, blank=True, default="")
    provider = models.CharField(max_length=50, blank=True, default="")
    model = models.CharField(max_length=200, blank=True, default="")
    route = models.CharField(max_length=200, blank=True, default="")
    decision = models.TextField(
        blank=True, default="", help_text="As JSON: who was chosen, rejected and tried, and why."
    )
    start = models.CharField(max_length=10, blank=True, default="")
    outcome = models.CharField(max_length=40)
    input_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(default=0)
    reasoning_tokens = models.PositiveIntegerField(default=0)
    is_estimated = models.BooleanField(default=False, help_text="The turn was cancelled before its figures came.")
    cost_usd = models.DecimalField(max_digits=14, decimal_places=8, null=True)
    first_token_ms = models.PositiveIntegerField(null=True)
    total_ms = models.PositiveIntegerField()
    started_at = models.DateTimeField()

    class Meta:
        verbose_name = "turn"
        ordering = ["-started_at"]
        permissions = [("stop_turn", "Can stop a running turn")]
        indexes = [
            models.Index(fields=["key", "started_at"], name="turn_key_time"),
            models.Index(fields=["-started_at"], name="turn_newest"),
            models.Index(fields=["session_uid"], name="turn_session"),
            models.Index(fields=["request_id"], name="turn_request"),
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.outcome} at {self.started_at:%Y-%m-%d %H:%M:%S}"


class Price(models.Model):
    """What a model costs where its CLI does not tell, in US dollars per million tokens.

    `model` may end with `*`; of several that match, the longest decides.
    """

    provider = models.CharField(max_length=50)
    model = models.CharField(max_length=200)
    input_usd = models.DecimalField(max_digits=12, decimal_places=6)
    output_usd = models.DecimalField(max_digits=12, decimal_places=6)
    cached_input_usd = models.DecimalField(max_digits=12, decimal_places=6, default=Decimal(0))

    class Meta:
        constraints = [models.UniqueConstraint(fields=["provider", "model"], name="price_once")]
        ordering = ["provider", "model"]

    def __str__(self) -> str:
        return f"{self.provider}: {self.model}"


class HourlyUse(models.Model):
    """What the turns of one hour came to: of one provider, of one key, or with one outcome.

    Written by chat/rollups.py alone, so that figures over weeks need no look at the turns. `name` is the provider's,
    the key's id, or the outcome. `hour` counts from 1970 in UTC. `priced` are the turns whose cost is known.
    """

    hour = models.PositiveIntegerField()
    facet = models.CharField(max_length=10)
    name = models.CharField(max_length=50)
    turns = models.PositiveBigIntegerField(default=0)
    errors = models.PositiveBigIntegerField(default=0)
    cancelled = models.PositiveBigIntegerField(default=0)
    input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    cached_tokens = models.PositiveBigIntegerField(default=0)
    priced = models.PositiveBigIntegerField(default=0)
    cost_nano_usd = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["facet", "hour", "name"], name="hourly_use_once")]

    def __str__(self) -> str:
        return f"{self.facet} {self.name} in hour {self.hour}"


class HourlyFirstToken(models.Model):
    """How many of an hour's turns of a provider had their first token within which time; see chat/rollups.py."""

    hour = models.PositiveIntegerField()
    provider = models.CharField(max_length=50)
    bucket = models.PositiveSmallIntegerField()
    turns = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["hour", "provider", "bucket"], name="hourly_first_token_once")]

    def __str__(self) -> str:
        return f"{self.provider}, bucket {self.bucket} in hour {self.hour}"
