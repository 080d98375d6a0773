"""One site's, or the server's, part of a round: encoders, data and the algorithm together; bytes in, bytes out."""
