"""Client libraries as their users call them, each in an environment of its own (pyproject.toml, uv.lock).

Installed by the commands in `.ci/run`; run as programs that print what they got as JSON.
"""
