"""People of an identity provider (OpenID Connect): their tokens, their logins, and the roles that they have."""
