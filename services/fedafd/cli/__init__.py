"""The command line `fedafd`: one module for each command or group of commands."""
