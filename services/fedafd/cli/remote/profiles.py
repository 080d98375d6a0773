"""`fedafd profile`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.output_format import AnswerCommand, Output, OutputFormat, print_answer
from fedafd.cli.profiles import Profile, Profiles, profiles_file, read_profiles, write_profiles
from fedafd.cli.remote.output import print_line, print_table
from fedafd.client.http import checked_url
from fedafd.domain.errors import ConfigurationError

__all__ = ["profile_app"]

profile_app = typer.Typer(
    help="Name control planes, so that `fedafd --profile NAME ...` goes to one.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="The profile's name.")]


@profile_app.command("set")
def set_one(
    name: Name,
    url: Annotated[str | None, typer.Option(help="The control plane.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="The file that holds your API key.")] = None,
    federation: Annotated[str | None, typer.Option("--federation", "-F", help="The federation.")] = None,
    default: Annotated[bool, typer.Option("--default", help="Use it where none is named.")] = False,
) -> None:
    """Make a profile, or change what is given of one; the first one is the default."""
    path = profiles_file()
    known = read_profiles(path)
    given = {
        "url": None if url is None else checked_url(url, "--url"),
        "api_key_file": None if api_key_file is None else str(api_key_file.absolute()),
        "federation": federation,
    }
    changed = replace(known.profiles.get(name, Profile()), **{key: value for key, value in given.items() if value})
    first = name if default or not known.profiles else known.default
    write_profiles(path, Profiles(default=first, profiles={**known.profiles, name: changed}))
    print_line(f"profile {name} is in {path}" + (", and the default" if first == name else ""))


@profile_app.command("list", cls=AnswerCommand)
def list_all(output: Output = OutputFormat.TABLE) -> None:
    """List profiles."""
    known = read_profiles(profiles_file())
    if output.is_data:
        print_answer(
            [{"name": name, "default": name == known.default} | asdict(p) for name, p in known.profiles.items()], output
        )
        return
    rows = [(name, name == known.default, p.url, p.api_key_file, p.federation) for name, p in known.profiles.items()]
    empty = "no profile yet; `fedafd profile set NAME --url URL --api-key-file FILE`"
    print_table(["NAME", "DEFAULT", "URL", "KEY FILE", "FEDERATION"], rows, empty)


@profile_app.command("remove")
def remove(name: Name) -> None:
    """Remove a profile; its key's file stays."""
    path = profiles_file()
    known = read_profiles(path)
    if name not in known.profiles:
        raise ConfigurationError(f"profile {name}: {path} has no such")
    left = {key: value for key, value in known.profiles.items() if key != name}
    write_profiles(path, Profiles(default=None if known.default == name else known.default, profiles=left))
    print_line(f"profile {name} is removed")
