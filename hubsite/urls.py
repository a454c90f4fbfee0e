from django.contrib import admin
from django.urls import path

from hubsite.api import api
from hubsite.health import health, live, ready
from hubsite.metrics_view import metrics
from hubsite.views import stream_page

urlpatterns = [
    path("v1/", api.urls),
    path("health", health),
    path("health/live", live),
    path("health/ready", ready),
    path("metrics", metrics),
    path("admin/", admin.site.urls),
    path("", stream_page, name="page"),
]

handler400 = "hubsite.api.bad_request"
handler403 = "hubsite.api.forbidden"
handler404 = "hubsite.api.not_found"
handler500 = "hubsite.api.server_error"
