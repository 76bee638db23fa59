"""One small probe for each thing that a child shares, copies or gets anew.

All work alike: the caller leaves a mark, the child says whether it finds it, then leaves one of its own, and the
caller looks. Whoever sees the child's mark shares the thing; a child that found the caller's has a copy; one that
found nothing has a new one.
"""
