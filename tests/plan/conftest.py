"""Settings for the tests of plans."""

from hypothesis import settings

# No database: the sources may not be the test user's to write to. A failure prints how to have it again.
settings.register_profile("ramet", database=None, print_blob=True)
settings.load_profile("ramet")
