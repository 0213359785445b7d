"""Build the optional C module with the package.

Where there is no C compiler, or it fails, the package is built without it: everything is then done in Python. SEQUENT_PURE_PYTHON asks for
that; SEQUENT_REQUIRE_NATIVE makes a failure an error, for those who build wheels for others.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "sequent_py/_native.c"
PARTS = "sequent_py/c"
"""Where the files are that it includes."""


class NativeModule(BuildHookInterface[Any]):
    """Compiles ``sequent_py._native`` and puts it into the wheel, or beside its source in an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless that is not wanted or not possible."""
        if self.target_name != "wheel" or os.environ.get("SEQUENT_PURE_PYTHON"):
            return
        directory = Path(self.root) if version == "editable" else Path(tempfile.mkdtemp())
        try:
            built = _compile(Path(self.root), directory)
        except Exception as error:
            if os.environ.get("SEQUENT_REQUIRE_NATIVE"):
                raise
            self.app.display_warning(f"sequent_py is built without its C module: {error}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        if version != "editable":
            build_data["force_include"][str(built)] = f"sequent_py/{built.name}"


def _compile(root: Path, directory: Path) -> Path:
    from setuptools import Distribution, Extension

    extension = Extension(
        "sequent_py._native",
        [str(root / SOURCE)],
        depends=[str(part) for part in sorted((root / PARTS).glob("*.h"))],
        extra_compile_args=[] if sys.platform == "win32" else ["-O2"],
    )
    command: Any = Distribution({"name": "sequent_py", "ext_modules": [extension]}).get_command_obj(
        "build_ext"
    )
    command.build_lib, command.build_temp = str(directory), tempfile.mkdtemp()
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath("sequent_py._native"))
