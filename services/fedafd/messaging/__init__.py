"""Celery as the road to the distillers, Redis for wake-ups and presence. Losing either loses no round."""
