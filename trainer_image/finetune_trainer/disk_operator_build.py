"""DeepSpeed's operator for local disks (async_io), compiled in one piece: by the image's build, elsewhere when it is first needed.

DeepSpeed 0.19.8 compiles 15 sources, each with all of torch's headers, and for GPUs looks for CUDA's headers, which the image lacks and no source
needs: what is read and written are buffers in host memory. Joined they compile in 21 s of a processor, for any machine (DeepSpeed's way: over 70,
for this machine's own instructions). Not optimised, as DeepSpeed has it: disks are what takes time.

One thing is left out: mlock. Its buffers would be locked in memory, of which a container may lock 8 MiB (RLIMIT_MEMLOCK, without the capability
IPC_LOCK, which the restricted Pod Security standard does not grant); where that fails the process is aborted (met with 64 MiB as user 65532).
Reads and writes beside the page cache (O_DIRECT) need aligned buffers, not locked ones, and pods do not swap.

Imports nothing of this project: the image compiles before the code is copied (python disk_operator_build.py).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

MODULE: Final = "finetune_async_io"
_FOLDERS: Final = ("pin_memory", "aio/common", "aio/py_lib")
_LEFT_OUT: Final = ("py_ds_pin_memory.cpp", "deepspeed_pin_tensor_client.cpp")
"""What makes a module of its own of the buffers, and looks for them in it."""
_START: Final = """\
#include <sys/mman.h>
#define mlock(address, length) 0
#define munlock(address, length) 0
"""
_LEANER: Final = {"#include <torch/extension.h>": ["#include <torch/types.h>", "#include <torch/csrc/utils/pybind.h>"]}
"""Of torch only what is used, not all of its C++ interface: 21 s of a processor instead of 32."""
_FLAGS: Final = ("-std=c++20", "-O0", "-fopenmp", "-UC10_USE_GLOG")


def installed_file() -> Path:
    """Return where the image has the operator."""
    import deepspeed

    return Path(deepspeed.__file__).parent / "ops" / "aio" / f"{MODULE}.so"


def compile_operator(folder: Path, *, as_module: bool = True) -> Any:
    """Compile the operator into a folder, where that is not done yet, and return it as a module. Needs a C++ compiler and libaio-dev.

    Raises:
        RuntimeError, OSError: it cannot be compiled, or not be loaded.
    """
    from torch.utils.cpp_extension import load

    folder.mkdir(parents=True, exist_ok=True)
    source, text = folder / f"{MODULE}.cpp", _joined_sources()
    if not source.exists() or source.read_text() != text:
        # Ranks do this at once, and a file that is written anew is compiled anew.
        written = source.with_suffix(f".{os.getpid()}")
        written.write_text(text)
        written.replace(source)
    return load(
        name=MODULE,
        sources=[str(source)],
        extra_cflags=[*_FLAGS],
        extra_ldflags=["-laio", "-fopenmp"],
        build_directory=str(folder),
        is_python_module=as_module,
    )


def _joined_sources() -> str:
    import deepspeed

    folders = [Path(deepspeed.__file__).parent / "ops" / "csrc" / name for name in _FOLDERS]
    sources = [path for folder in folders for path in sorted(folder.glob("*.cpp")) if path.name not in _LEFT_OUT]
    seen: set[Path] = set()
    lines = [_START]
    for number, source in enumerate(sources):
        # Constants of a file's own: two files each have a c_block_size.
        own = re.findall(r"^(?:static )?const [\w:]+ (\w+) =", source.read_text(), re.MULTILINE)
        lines += [f"#define {name} {name}_{number}" for name in own]
        lines += _with_headers(source, folders, seen)
        lines += [f"#undef {name}" for name in own]
    return "\n".join(lines) + "\n"


def _with_headers(path: Path, folders: list[Path], seen: set[Path]) -> list[str]:
    """Return a file's lines with DeepSpeed's headers in place of their names, each once: they do not guard themselves."""
    lines = []
    for line in path.read_text().splitlines():
        named = re.match(r'\s*#include\s+["<]([\w./]+)[">]', line)
        places = [folder / named[1] for folder in (path.parent, *folders)] if named else []
        header = next((place.resolve() for place in places if place.is_file()), None)
        if header is None:
            lines += _LEANER.get(line.strip(), [line])
        elif header not in seen:
            seen.add(header)
            lines += _with_headers(header, folders, seen)
    return lines


def main() -> None:
    """Compile the operator and put it where `disk_operator.py` looks for it."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as scratch:
        compile_operator(Path(scratch), as_module=False)
        installed_file().write_bytes((Path(scratch) / f"{MODULE}.so").read_bytes())


if __name__ == "__main__":
    main()
