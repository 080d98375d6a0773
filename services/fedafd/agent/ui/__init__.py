"""`fedafd agent ui`: one page for the site engineer, served to this machine alone."""
