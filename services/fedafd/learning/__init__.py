"""The work of one site or of the server in a round: encoders, data and `algorithm` together; bytes in, bytes out."""
