"""SQLAlchemy models, migrations and repositories. Repositories add and flush; their callers commit."""
