"""The real programs against the stand-in vendors: every adapter's promises, shown by what the vendor received.

The versions are those pinned in providers/clis. A test takes an adapter's name from `REAL`, so a new adapter with a
pin and an entry in `dialects` joins every test here.
"""
