"""Model versions, global and personalized, and their files."""
