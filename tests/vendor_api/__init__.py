"""Stand-in Anthropic, Gemini and OpenAI HTTP APIs on loopback, for the real CLIs to talk to in tests and benchmarks."""

from tests.vendor_api.record import Received
from tests.vendor_api.script import Script
from tests.vendor_api.server import VendorApi

__all__ = ["Received", "Script", "VendorApi"]
