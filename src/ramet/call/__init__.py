"""Python functions in clones of this process."""

from ramet.call.shared import call as call
