from django.contrib import admin
from django.urls import path

from hubsite.api import api
from hubsite.health import health

urlpatterns = [
    path("v1/", api.urls),
    path("health", health),
    path("admin/", admin.site.urls),
]

handler400 = "hubsite.api.bad_request"
handler403 = "hubsite.api.forbidden"
handler404 = "hubsite.api.not_found"
handler500 = "hubsite.api.server_error"
