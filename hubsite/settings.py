"""Django settings of the hub. Everything that is the owner's to choose comes from the environment or `.env`.

Paths are found from this file's place, never from the working directory.
"""

import os
from pathlib import Path

from django.templatetags.static import static
from dotenv import dotenv_values

from hubsite.database_settings import read_database
from hubsite.env import Env
from hubsite.private_redis import PrivateRedis
from hubsite.provider_settings import read_host_limits, read_provider_settings
from hubsite.public_url import HSTS_S, read_public_url

VERSION = "0.1.0"
LEAST_TOKEN_CHARS = 16
BASE_DIR = Path(__file__).resolve().parent.parent

# The environment wins over .env. Nothing is put into os.environ, so no child can inherit it from there.
HUB_ENVIRON = {name: value for name, value in dotenv_values(BASE_DIR / ".env").items() if value} | dict(os.environ)
env = Env(HUB_ENVIRON)

# --- the hub ---------------------------------------------------------------------------------------------------------

HUB_DATA_DIR = env.path("HUB_DATA_DIR", BASE_DIR / "var", base=BASE_DIR)
HUB_MAX_BODY_BYTES = env.integer("HUB_MAX_BODY_BYTES", 16 * 1024 * 1024, least=1_024)
HUB_MEDIA_MAX_BYTES = env.integer("HUB_MEDIA_MAX_BYTES", 10 * 1024 * 1024, least=1_024)
HUB_MEDIA_MAX_COUNT = env.integer("HUB_MEDIA_MAX_COUNT", 20, least=0)
HUB_REMOTE_MEDIA = env.flag("HUB_REMOTE_MEDIA", default=False)
HUB_SHUTDOWN_GRACE_S = env.number("HUB_SHUTDOWN_GRACE_S", 30.0, most=3_600)
HUB_DRAIN_S = env.number("HUB_DRAIN_S", 0.0, most=3_600)
HUB_HEARTBEAT_S = env.number("HUB_HEARTBEAT_S", 10.0, least=0.1, most=60)
HUB_MAX_STARTS = env.integer("HUB_MAX_STARTS", min(2, os.cpu_count() or 1), least=1, most=1_024)
HUB_PROVIDER_SETTINGS = read_provider_settings(env)
HUB_HOST_LIMITS = read_host_limits(env)
HUB_FALLBACK_TRIES = env.integer("HUB_FALLBACK_TRIES", 3, least=1, most=20)
HUB_FALLBACK_S = env.number("HUB_FALLBACK_S", 60.0, most=3_600)
HUB_FALLBACK_FIRST_TOKEN_S = env.number("HUB_FALLBACK_FIRST_TOKEN_S", 30.0, least=0.1, most=3_600)

# --- callers ---------------------------------------------------------------------------------------------------------

HUB_KEY_CACHE_S = env.number("HUB_KEY_CACHE_S", 0.5, most=60)
HUB_KEY_REQUESTS_PER_MINUTE = env.integer("HUB_KEY_REQUESTS_PER_MINUTE", 6_000)
HUB_AUTH_FAILURES_PER_MINUTE = env.integer("HUB_AUTH_FAILURES_PER_MINUTE", 30)
HUB_TRUSTED_PROXIES = env.networks("HUB_TRUSTED_PROXIES")
HUB_RETRY_JOIN_S = env.number("HUB_RETRY_JOIN_S", 30.0, most=3_600)
HUB_RETRY_KEEP_S = env.number("HUB_RETRY_KEEP_S", 600.0, most=86_400)

# --- sessions --------------------------------------------------------------------------------------------------------

HUB_PRIVATE_REDIS_DIR = HUB_DATA_DIR / "redis"
HUB_REDIS_URL = env.url("REDIS_URL", ("redis", "rediss", "unix"))  # empty: the hub runs a private server
HUB_REDIS_LOCATION = HUB_REDIS_URL or PrivateRedis(HUB_PRIVATE_REDIS_DIR).url
HUB_REDIS_TIMEOUT_S = env.number("HUB_REDIS_TIMEOUT_S", 2.0, least=0.05, most=60)
HUB_SESSION_TTL_S = env.integer("HUB_SESSION_TTL_S", 3_600, least=1, most=31_536_000)
HUB_SESSION_ARCHIVE = env.flag("HUB_SESSION_ARCHIVE", default=True)
HUB_SESSION_BUSY = env.choice("HUB_SESSION_BUSY", "wait", ("wait", "refuse"))
HUB_SESSION_WAIT_S = env.number("HUB_SESSION_WAIT_S", 60.0, most=3_600)
HUB_SESSION_LOCK_S = env.number("HUB_SESSION_LOCK_S", 15.0, least=1, most=300)
HUB_SESSION_MAX_CHARS = env.integer("HUB_SESSION_MAX_CHARS", 64_000_000, least=1_024)
HUB_ARCHIVE_DAYS = env.integer("HUB_ARCHIVE_DAYS", 30, most=36_500)

# --- MCP -------------------------------------------------------------------------------------------------------------

HUB_MCP_SOFT_DEADLINE_S = env.number("HUB_MCP_SOFT_DEADLINE_S", 200.0, least=1, most=86_400)
HUB_MCP_IDLE_S = env.number("HUB_MCP_IDLE_S", 600.0, least=1, most=86_400)
HUB_MCP_MAX_SESSIONS = env.integer("HUB_MCP_MAX_SESSIONS", 500, least=1, most=100_000)
HUB_ALLOWED_ORIGINS = env.words("HUB_ALLOWED_ORIGINS", "")

# --- the page and its WebSocket --------------------------------------------------------------------------------------

HUB_STREAM_KEEP_S = env.number("HUB_STREAM_KEEP_S", 600.0, least=10, most=86_400)
HUB_STREAM_UNWATCHED_S = env.number("HUB_STREAM_UNWATCHED_S", 120.0, least=1, most=86_400)

# --- Django ----------------------------------------------------------------------------------------------------------

DEBUG = env.flag("HUB_DEBUG", default=False)
SECRET_KEY = env.secret("HUB_SECRET_KEY", HUB_DATA_DIR / "secret.key")
HUB_PUBLIC = read_public_url(env)
# This machine's own names always: a balancer's health checks come by them, and no foreign page can have one.
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
ALLOWED_HOSTS = [*dict.fromkeys([*LOOPBACK_NAMES, *env.words("HUB_ALLOWED_HOSTS", ""), *HUB_PUBLIC.hosts])]
CSRF_TRUSTED_ORIGINS = HUB_PUBLIC.origins
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HUB_PUBLIC.is_tls
SECURE_SSL_HOST = HUB_PUBLIC.authority or None
SECURE_HSTS_SECONDS = HSTS_S if HUB_PUBLIC.is_tls else 0
# The proxy in front says what the caller used; a caller that says so itself gains nothing by it.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HUB_PUBLIC.is_tls else None
# Other names below the domain, and browsers' built-in lists, are not this program's to decide on.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
ROOT_URLCONF = "hubsite.urls"
ASGI_APPLICATION = "hubsite.asgi.application"
DATA_UPLOAD_MAX_MEMORY_SIZE = HUB_MAX_BODY_BYTES

INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",
    "chat.dashboard.apps.HubAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "channels",
    "ninja",
    "hubsite",
    "mcpbridge",
    "chat",
    "providers",
]

# Admin and pages only: /v1 and /health run on the lean chain of hubsite/lean.py.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {"default": read_database(env, HUB_DATA_DIR)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": HUB_REDIS_LOCATION,
        "KEY_PREFIX": "hub:cache",
        # Whatever is cached can be found out again: without Redis it is slower, not broken.
        "OPTIONS": {"IGNORE_EXCEPTIONS": True, "SOCKET_TIMEOUT": HUB_REDIS_TIMEOUT_S},
    },
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [HUB_REDIS_LOCATION], "prefix": "hub:channel"},
    },
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

UNFOLD = {
    "SITE_TITLE": "LLM MCP Hub",
    "SITE_HEADER": "LLM MCP Hub",
    "SITE_SUBHEADER": VERSION,
    "SITE_SYMBOL": "hub",
    "STYLES": [lambda request: static("chat/admin.css")],
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("chat/dashboard/hub.svg")},
    ],
    "BORDER_RADIUS": "6px",
    "COLORS": {
        "primary": {
            "50": "oklch(97.7% .013 236.62)",
            "100": "oklch(95.1% .026 236.824)",
            "200": "oklch(90.1% .058 230.902)",
            "300": "oklch(82.8% .111 230.318)",
            "400": "oklch(74.6% .16 232.661)",
            "500": "oklch(62% .15 241.966)",
            "600": "oklch(50% .134 242.749)",
            "700": "oklch(44.3% .11 240.79)",
            "800": "oklch(39.1% .09 240.876)",
            "900": "oklch(29.3% .066 243.157)",
            "950": "oklch(24% .06 243.2)",
        },
    },
}

# Where a login leads that does not say where it came from, or says a place elsewhere.
LOGIN_REDIRECT_URL = "admin:index"
DEFAULT_EXCEPTION_REPORTER_FILTER = "hubsite.debug_page.QuietFilter"

HUB_LOG_LEVEL = env.choice("HUB_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
HUB_LOG_FORMAT = env.choice("HUB_LOG_FORMAT", "text", ("text", "json"))
HUB_ACCESS_LOG = env.flag("HUB_ACCESS_LOG", default=True)
HUB_METRICS = env.flag("HUB_METRICS", default=True)
HUB_METRICS_TOKEN = env.text("HUB_METRICS_TOKEN")
if 0 < len(HUB_METRICS_TOKEN) < LEAST_TOKEN_CHARS:
    env.refuse("HUB_METRICS_TOKEN", "is too easy to guess", f"Use at least {LEAST_TOKEN_CHARS} characters")
    HUB_METRICS_TOKEN = ""
# For django-prometheus' histogram of the database's questions, in seconds.
PROMETHEUS_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"text": {"()": "hubsite.logs.TextLines"}, "json": {"()": "hubsite.logs.JsonLines"}},
    "filters": {"ids": {"()": "hubsite.logs.WithIds"}, "pathless": {"()": "hubsite.logs.WithoutPath"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": HUB_LOG_FORMAT, "filters": ["ids"]}},
    "root": {"handlers": ["stderr"], "level": HUB_LOG_LEVEL},
    "loggers": {
        "hubsite.access": {"level": HUB_LOG_LEVEL if HUB_ACCESS_LOG else "WARNING"},
        "daphne": {"level": "WARNING"},
        # It brings handlers of its own, and an access log with paths.
        "uvicorn": {"handlers": [], "propagate": True},
        "uvicorn.access": {"handlers": [], "propagate": True, "level": "WARNING"},
        # At INFO it names every MCP session, whose id is half of what it takes to speak in it.
        "mcp": {"level": "WARNING"},
        "django.channels.server": {"level": "WARNING"},
        # That there is nothing at a path is told by hubsite.access, without the path.
        "django.request": {"level": "ERROR", "filters": ["pathless"]},
        "django.security.csrf": {"filters": ["pathless"]},
        # A passer-by with a wrong Host gets a 400; with a traceback each he could fill the log.
        "django.security.DisallowedHost": {"level": "CRITICAL"},
    },
}

HUB_ENV_FAULTS = env.faults
HUB_ENV_NAMES = env.names
