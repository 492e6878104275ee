"""What goes into a package, read from the feed's Makefile, so that both ways to build say the same.

Of make's language this knows what that file needs: assignments, `define`, `$(NAME)`, `$(call NAME)` and `$$`. A name that
is not defined is empty, as in make; a line of `install` that it does not understand is an error.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MODES = {"BIN": 0o755, "CONF": 0o600, "DATA": 0o644}  # of OpenWrt's INSTALL_*


@dataclass(frozen=True)
class File:
    """A file as it is installed, owned by root."""

    path: str  # without the leading slash
    mode: int
    data: bytes


@dataclass(frozen=True)
class Package:
    """A package for one architecture, before it takes one of its two forms."""

    name: str
    version: str  # with the release: 1.2.3-r1
    arch: str
    epoch: int  # the time of every file, seconds since 1970
    source_name: str  # of the feed's directory, the same for each variant
    license: str
    license_files: str
    section: str
    user: str  # name=uid:group=gid
    url: str
    maintainer: str
    description: tuple[str, ...]  # lines
    depends: tuple[str, ...]
    conflicts: tuple[str, ...]
    provides: tuple[str, ...]
    default: bool  # the variant that the bare name stands for
    conffiles: tuple[str, ...]
    postinst: str  # the body, without the first line
    files: tuple[File, ...]

    @property
    def source(self) -> str:
        """Where a feed of this repository has its Makefile."""
        return f"feeds/{self.source_name}/openwrt"


def package(name: str, version: str, release: int | None, arch: str, epoch: int, program: bytes) -> Package:
    """The package `name` of the Makefile around `program`."""
    make = Makefile((ROOT / "openwrt/Makefile").read_text())
    own = make.assignments(make.define(f"Package/{name}"))
    return Package(
        name=name,
        version=f"{version}-r{make.variables['PKG_RELEASE'] if release is None else release}",
        arch=arch,
        epoch=epoch,
        source_name=make.variables["PKG_NAME"],
        license=make.variables["PKG_LICENSE"],
        license_files=make.variables["PKG_LICENSE_FILES"],
        section=own["SECTION"],
        user=own["USERID"],
        url=own["URL"],
        maintainer=make.variables["PKG_MAINTAINER"],
        description=tuple(line.strip() for line in make.define(f"Package/{name}/description").splitlines()),
        # A word without "+" or with "@" is a matter of the build's configuration.
        depends=("libc", *(word[1:] for word in own["DEPENDS"].split() if word.startswith("+"))),
        conflicts=tuple(own.get("CONFLICTS", "").split()),
        provides=tuple(own.get("PROVIDES", "").split()),
        default=own.get("DEFAULT_VARIANT") == "1",
        conffiles=tuple(make.define(f"Package/{name}/conffiles").split()),
        postinst=make.define(f"Package/{name}/postinst").removeprefix("#!/bin/sh\n"),
        files=tuple(sorted(make.installed(f"Package/{name}/install", program), key=lambda file: file.path)),
    )


class Makefile:
    """Variables and defines of a Makefile."""

    def __init__(self, text: str) -> None:
        self.defines = {
            found[1]: found[2] for found in re.finditer(r"^define (\S+)\n(.*?)^endef$", text, re.MULTILINE | re.DOTALL)
        }
        rest = re.sub(r"^define .*?^endef$", "", text, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
        for name, other in re.findall(r"^(\S+) = \$\((\S+)\)$", rest, re.MULTILINE):  # a variant that does as another
            self.defines[name] = self.defines[other]
        self.variables: dict[str, str] = {}
        self.variables = self.assignments(rest)

    def assignments(self, text: str) -> dict[str, str]:
        """Each `NAME:=value`, `NAME=value` and `NAME+=value` of a text."""
        found: dict[str, str] = {}
        for name, operator, value in re.findall(r"^[ ]*([\w/-]+) ?([:+]?=) *(.*)$", text, re.MULTILINE):
            value = self.expand(value, found).strip()
            found[name] = f"{found.get(name, '')} {value}".strip() if operator == "+=" else value
        return found

    def define(self, name: str) -> str:
        """The expanded text of a define."""
        return self.expand(self.raw(name))

    def raw(self, name: str) -> str:
        """The text of a define as it is written."""
        if name not in self.defines:
            raise SystemExit(f"openwrt/Makefile: no define {name}")
        return self.defines[name]

    def expand(self, text: str, more: dict[str, str] | None = None) -> str:
        """`text` with the values of what it names."""

        def value(found: re.Match[str]) -> str:
            if found[0] == "$$":
                return "$"
            if found[1].startswith("call "):
                return self.define(found[1].removeprefix("call "))
            return (more or {}).get(found[1]) or self.variables.get(found[1], "")

        return re.sub(r"\$\$|\$\(([^()$]+)\)", value, text)

    def installed(self, name: str, program: bytes) -> list[File]:
        """The files that a define of that name installs."""
        files = []
        for line in self.raw(name).splitlines():
            if line.startswith("\t$(INSTALL_DIR) "):
                continue
            found = re.fullmatch(r"\t\$\(INSTALL_(BIN|CONF|DATA)\) \$\((\w+)\)/(\S+) \$\(1\)/(\S+)", line)
            if not found:
                raise SystemExit(f"openwrt/Makefile: not understood: {line}")
            kind, origin, path, installed = found.groups()
            data = program if origin == "PKG_INSTALL_DIR" else (ROOT / path).read_bytes()
            files.append(File(installed, MODES[kind], data))
        return files
