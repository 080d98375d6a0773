"""Alembic's environment and the revisions of the schema. `fedafd.persistence.migrate` runs them."""
