"""The distiller: a Celery worker that trains the global model, folds and distils."""
