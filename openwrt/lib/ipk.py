"""The package of opkg, for releases up to 24.10: what OpenWrt's scripts/ipkg-build makes, and the list of a feed.

A gzipped tar of `debian-binary`, `data.tar.gz` and `control.tar.gz` in that order. Tar is GNU's format without names of
owners, sorted by name, every time that of the package.
"""

import hashlib
import io
import tarfile
from pathlib import Path, PurePosixPath

from deflate import gzip, quick
from recipe import File, Package

POSTINST = """#!/bin/sh
[ "${IPKG_NO_SCRIPT}" = "1" ] && exit 0
[ -s "${IPKG_INSTROOT}/lib/functions.sh" ] || exit 0
. "${IPKG_INSTROOT}/lib/functions.sh"
default_postinst "$0" "$@"
"""

PRERM = """#!/bin/sh
[ -s "${IPKG_INSTROOT}/lib/functions.sh" ] || exit 0
. "${IPKG_INSTROOT}/lib/functions.sh"
default_prerm "$0" "$@"
"""


def build(package: Package) -> tuple[str, bytes]:
    """The package's file name and bytes."""
    data = tar(tree(package.files), package.epoch)
    control = [
        File("control", 0o644, control_file(package, len(data)).encode()),
        File("conffiles", 0o644, "".join(f"{path}\n" for path in sorted(package.conffiles)).encode()),
        File("postinst", 0o755, POSTINST.encode()),
        File("postinst-pkg", 0o755, f"#!/bin/sh\n{package.postinst}".encode()),
        File("prerm", 0o755, PRERM.encode()),
    ]
    outer = [
        ("debian-binary", b"2.0\n"),
        ("data.tar.gz", gzip(data)),
        ("control.tar.gz", gzip(tar(tree(control), package.epoch))),
    ]
    entries = [(f"./{name}", File(name, 0o644, content)) for name, content in outer]
    return f"{package.name}_{package.version}_{package.arch}.ipk", gzip(tar(entries, package.epoch), quick)


def control_file(package: Package, installed_size: int) -> str:
    """The fields in the order of OpenWrt; those without a value are left out."""
    fields = {
        "Package": package.name,
        "Version": package.version,
        "Depends": ", ".join(package.depends),
        "Conflicts": ", ".join(package.conflicts),
        "Provides": ", ".join(package.provides),
        "Source": package.source,
        "SourceName": package.source_name,
        "License": package.license,
        "LicenseFiles": package.license_files,
        "Section": package.section,
        "Require-User": package.user,
        "SourceDateEpoch": str(package.epoch),
        "URL": package.url,
        "Maintainer": package.maintainer,
        "Architecture": package.arch,
        "Installed-Size": str(installed_size),
        "Description": "\n".join(f" {line}" for line in package.description),
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def index(folder: Path) -> bytes:
    """The `Packages` of every package in `folder`."""
    stanzas = []
    for path in sorted(folder.glob("*.ipk")):
        content = path.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(content)) as outer:
            control = outer.extractfile("./control.tar.gz")
            assert control is not None
            with tarfile.open(fileobj=control) as inner:
                fields = inner.extractfile("./control")
                assert fields is not None
                text = fields.read().decode()
        digest = hashlib.sha256(content).hexdigest()
        added = f"Filename: {path.name}\nSize: {len(content)}\nSHA256sum: {digest}\n"
        stanzas.append(text.replace("Description:", f"{added}Description:", 1))
    return "".join(f"{stanza}\n" for stanza in stanzas).encode()


def tree(files: list[File] | tuple[File, ...]) -> list[tuple[str, File | None]]:
    """Files with the directories above them, as tar sorts them: a directory's content right after it."""
    entries: dict[PurePosixPath, File | None] = {PurePosixPath(): None}
    for file in files:
        path = PurePosixPath(file.path)
        entries.update({parent: None for parent in path.parents})
        entries[path] = file
    return [(f"./{path}" if path.parts else "./", entries[path]) for path in sorted(entries, key=lambda path: path.parts)]


def tar(entries: list[tuple[str, File | None]] | list[tuple[str, File]], epoch: int) -> bytes:
    """A tar of files, and of directories where there is no file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, file in entries:
            info = tarfile.TarInfo(name)
            info.mtime = epoch
            if file is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            else:
                info.mode, info.size = file.mode, len(file.data)
                archive.addfile(info, io.BytesIO(file.data))
    return out.getvalue()
