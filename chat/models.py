from __future__ import annotations

from django.db import models
from django.utils import timezone


class ApiKey(models.Model):
    """A caller's key. Only its SHA-256 is kept: a random 256-bit secret needs no slow hash."""

    name = models.CharField(max_length=100)
    owner = models.CharField(max_length=100, default="default", help_text="Keys of one owner share sessions.")
    prefix = models.CharField(max_length=16, help_text="The key's first characters, to tell keys apart.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "API key"
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}...)"
