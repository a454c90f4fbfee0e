"""What Django's debug page (HUB_DEBUG) leaves out: addresses of stores hold their passwords."""

from __future__ import annotations

import re

from django.views.debug import SafeExceptionReporterFilter


class QuietFilter(SafeExceptionReporterFilter):
    """Django hides what is called a key, a password or the like; these hold some under other names."""

    hidden_settings = re.compile(
        f"{SafeExceptionReporterFilter.hidden_settings.pattern}|ENVIRON|REDIS|DATABASE|CACHES|CHANNEL_LAYERS",
        flags=re.IGNORECASE,
    )
