"""`fedafd doctor`: a deployment's machine, settings and servers, looked at as its processes would meet them."""
