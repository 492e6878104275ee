"""The package of apk-tools 3, for releases from 25.12: what OpenWrt's include/package-pack.mk and `apk mkpkg` make, and the
index that `apk mkndx` makes.

A deflated file of blocks: one ADB with everything but the files' contents, signatures of it, and a block of data for each
file that is not empty. The numbers of the fields are those of apk-tools' src/apk_adb.h.
"""

import hashlib
import re
import struct
from pathlib import Path, PurePosixPath

import adb
from deflate import deflate, inflate
from keys import Key
from recipe import File, Package

# Package information, in a package and in an index.
NAME, VERSION, HASHES, DESCRIPTION, ARCH, LICENSE, ORIGIN, MAINTAINER, URL = range(1, 10)
INSTALLED_SIZE, FILE_SIZE, PRIORITY, DEPENDS, PROVIDES = range(12, 17)

UNIQUE_ID = bytes(20)  # the place of a package's own hash within itself

PREAMBLE = """\
[ -s "${{IPKG_INSTROOT}}/lib/functions.sh" ] || exit 0
. "${{IPKG_INSTROOT}}/lib/functions.sh"
export root="${{IPKG_INSTROOT}}"
export pkgname="{name}"
"""

POST_INSTALL = (
    """\
[ "${{IPKG_NO_SCRIPT}}" = "1" ] && exit 0
"""
    + PREAMBLE
    + """\
add_group_and_user
default_postinst
{postinst}"""
)

PRE_DEINSTALL = PREAMBLE + "default_prerm\n"


def build(package: Package, key: Key | None) -> tuple[str, bytes]:
    """The package's file name and bytes."""
    writer = adb.Writer()
    files = sorted([*package.files, *lists(package)], key=lambda file: file.path)
    folders = grouped(files)
    post_install = POST_INSTALL.format(name=package.name, postinst=package.postinst)
    scripts = {
        3: f"#!/bin/sh\n{post_install}",
        4: f"#!/bin/sh\n{PRE_DEINSTALL.format(name=package.name)}",
        7: f"#!/bin/sh\nexport PKG_UPGRADE=1\n{post_install}",
    }
    root = writer.object(
        {
            1: information(writer, package, sum(len(file.data) for file in files)),
            2: writer.array([directory(writer, path, inside, package.epoch) for path, inside in folders]),
            3: writer.object({number: writer.blob(text) for number, text in scripts.items()}),
        }
    )
    content = bytearray(writer.finish(root))
    # Its own hash, taken with zeros in its place.
    at = writer.known[bytes([len(UNIQUE_ID)]) + UNIQUE_ID] + 1
    content[at : at + len(UNIQUE_ID)] = sha256(content)[: len(UNIQUE_ID)]
    data = (
        adb.block(adb.DATA, struct.pack("<II", folder, number) + file.data)
        for folder, (_, inside) in enumerate(folders, 1)
        for number, file in enumerate(inside, 1)
        if file.data
    )
    return f"{package.name}-{package.version}.apk", container(adb.PACKAGE, bytes(content), key, b"".join(data))


def information(writer: adb.Writer, package: Package, installed_size: int) -> int:
    """The object that describes the package."""
    provides = [(name, package.version) for name in package.provides]
    return writer.object(
        {
            NAME: writer.blob(package.name),
            VERSION: writer.blob(package.version),
            HASHES: writer.blob(UNIQUE_ID),
            DESCRIPTION: writer.blob(" ".join(package.description)),
            ARCH: writer.blob(package.arch),
            LICENSE: writer.blob(package.license),
            ORIGIN: writer.blob(package.source),
            MAINTAINER: writer.blob(package.maintainer),
            URL: writer.blob(package.url),
            INSTALLED_SIZE: writer.integer(installed_size),
            PRIORITY: writer.integer(100) if package.default else 0,
            DEPENDS: writer.array([dependency(writer, name) for name in sorted(package.depends)]),
            PROVIDES: writer.array([dependency(writer, name, version) for name, version in sorted(provides)]),
        }
    )


def dependency(writer: adb.Writer, name: str, version: str = "") -> int:
    """A package by name, of exactly that version if there is one."""
    return writer.object({1: writer.blob(name), 2: writer.blob(version)})


def lists(package: Package) -> list[File]:
    """What OpenWrt's scripts want to know of a package, as files."""
    base = f"lib/apk/packages/{package.name}"
    users = File(f"{base}.rusers", 0o644, f"{package.user}\n".encode())
    paths = sorted(f"/{file.path}\n" for file in (*package.files, users))
    contents = {f"/{file.path}": file.data for file in package.files}
    static = "".join(f"{path} {sha256(contents[path]).hex()}\n" for path in package.conffiles)
    return [
        users,
        File(f"{base}.list", 0o644, "".join(paths).encode()),
        File(f"{base}.conffiles", 0o644, "".join(f"{path}\n" for path in package.conffiles).encode()),
        File(f"{base}.conffiles_static", 0o644, static.encode()),
    ]


def grouped(files: list[File]) -> list[tuple[str, list[File]]]:
    """Every directory with what lies directly in it, the root first."""
    folders: dict[str, list[File]] = {}
    for file in files:
        for parent in PurePosixPath(file.path).parents:
            folders.setdefault(str(parent) if parent.parts else "", [])
        folders[file.path.rpartition("/")[0]].append(file)
    return sorted(folders.items())


def directory(writer: adb.Writer, path: str, files: list[File], epoch: int) -> int:
    """The object of a directory and its files."""
    rows = [
        writer.object(
            {
                1: writer.blob(PurePosixPath(file.path).name),
                2: access(writer, file.mode),
                3: writer.integer(len(file.data)),
                4: writer.integer(epoch),
                5: writer.blob(sha256(file.data)),
            }
        )
        for file in files
    ]
    return writer.object({1: writer.blob(path), 2: access(writer, 0o755), 3: writer.array(rows)})


def access(writer: adb.Writer, mode: int) -> int:
    """The object of a mode and an owner, which is root."""
    return writer.object({1: writer.integer(mode), 2: writer.blob("root"), 3: writer.blob("root")})


def index(folder: Path, key: Key | None) -> bytes:
    """The `packages.adb` of every package in `folder`."""
    writer = adb.Writer()
    packages = []
    for path in folder.glob("*.apk"):
        packed = path.read_bytes()
        if not packed.startswith(b"ADBd"):
            raise SystemExit(f"{path}: not a deflated package of version 3")
        content = next(adb.blocks(inflate(packed[4:])))[1]
        reader = adb.Reader(content)
        values = reader.fields(reader.fields(reader.root())[1])
        order = (reader.blob(values[NAME]), [int(digits) for digits in re.findall(rb"\d+", reader.blob(values[VERSION]))])
        fields = {number: reader.copy(value, writer) for number, value in enumerate(values) if number != HASHES}
        fields |= {HASHES: writer.blob(sha256(content)), FILE_SIZE: writer.integer(len(packed))}
        packages.append((order, writer.object(fields)))
    root = writer.object({2: writer.array([package for _, package in sorted(packages)])})
    return container(adb.INDEX, writer.finish(root), key, b"")


def container(schema: bytes, content: bytes, key: Key | None, data: bytes) -> bytes:
    """The deflated file of an ADB, its signature and its data."""
    file = adb.MAGIC + schema + adb.block(adb.ADB, content)
    if key:
        # Version 0 of the signature, SHA-512, the name of the key: signed with the schema and the content's hash.
        head = bytes([0, 4]) + key.digest[:16]
        file += adb.block(adb.SIG, head + key.sign(schema + head + hashlib.sha512(content).digest()))
    return b"ADBd" + deflate(file + data)


def sha256(data: bytes | bytearray) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()
