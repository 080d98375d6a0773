"""The query worker: embeds a caption or a picture with a model version, and finds what is nearest in its public set."""
