"""One run: a plan with its folders, provider and weights; planned from a request, frozen, and loaded by jobs."""
