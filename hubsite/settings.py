"""Django settings of the hub. Everything that is the owner's to choose comes from the environment or `.env`.

Paths are found from this file's place, never from the working directory.
"""

import os
from pathlib import Path

from dotenv import dotenv_values

from hubsite.database_settings import read_database
from hubsite.env import Env
from hubsite.private_redis import PrivateRedis
from hubsite.provider_settings import read_host_limits, read_provider_settings

VERSION = "0.1.0"
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

# --- Django ----------------------------------------------------------------------------------------------------------

DEBUG = env.flag("HUB_DEBUG", default=False)
SECRET_KEY = env.secret("HUB_SECRET_KEY", HUB_DATA_DIR / "secret.key")
ALLOWED_HOSTS = env.words("HUB_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
ROOT_URLCONF = "hubsite.urls"
ASGI_APPLICATION = "hubsite.asgi.application"
DATA_UPLOAD_MAX_MEMORY_SIZE = HUB_MAX_BODY_BYTES

INSTALLED_APPS = [
    "django.contrib.admin",
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

HUB_LOG_LEVEL = env.choice("HUB_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
HUB_LOG_FORMAT = env.choice("HUB_LOG_FORMAT", "text", ("text", "json"))

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
        },
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": HUB_LOG_FORMAT}},
    "root": {"handlers": ["stderr"], "level": HUB_LOG_LEVEL},
    "loggers": {
        "daphne": {"level": "WARNING"},
        # At INFO it names every MCP session, whose id is half of what it takes to speak in it.
        "mcp": {"level": "WARNING"},
        "django.channels.server": {"level": "WARNING"},
        # A passer-by with a wrong Host gets a 400; with a traceback each he could fill the log.
        "django.security.DisallowedHost": {"level": "CRITICAL"},
    },
}

HUB_ENV_FAULTS = env.faults
HUB_ENV_NAMES = env.names
