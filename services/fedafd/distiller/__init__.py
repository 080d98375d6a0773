"""The distiller: a Celery worker that trains the global model, folds and distils. Talks to the aggregator and the store."""
