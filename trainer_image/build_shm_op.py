"""Compile DeepSpeed's shared-memory communication for CPU ranks while the image is built, where DeepSpeed looks for installed operators.

Otherwise the first rank compiles it at run time: 20 s or more per pod, a lock file that a read-only root refuses, and ranks that wait.
It needs no `-march`: the source chooses its vector instructions at run time, so one build serves every x86-64 machine.
"""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import deepspeed
import torch
from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
from torch.utils.cpp_extension import load


def main() -> None:
    """Compile the operator under the name that DeepSpeed imports, and record it as installed."""
    builder = ShareMemCommBuilder()
    package, _, module = builder.absolute_name().rpartition(".")
    folder = Path(deepspeed.__file__).parents[1] / package.replace(".", "/")
    folder.mkdir(exist_ok=True)
    with TemporaryDirectory() as scratch:
        load(
            name=module,
            sources=[str(builder.deepspeed_src_path(source)) for source in builder.sources()],
            extra_include_paths=[str(builder.deepspeed_src_path(path)) for path in builder.include_paths()],
            extra_cflags=[*builder.cxx_args(), "-UC10_USE_GLOG"],
            build_directory=scratch,
            is_python_module=False,
        )
        (folder / f"{module}.so").write_bytes((Path(scratch) / f"{module}.so").read_bytes())
    record = Path(deepspeed.__file__).with_name("git_version_info_installed.py")
    text, replaced = re.subn(f"'{builder.NAME}': False", f"'{builder.NAME}': True", record.read_text())
    version = ".".join(torch.__version__.split(".")[:2])
    text, stamped = re.subn(r"torch_info=\{'version': '[^']*'", f"torch_info={{'version': '{version}'", text)
    if not (replaced and stamped):
        raise SystemExit(
            f"DeepSpeed {deepspeed.__version__} records its installed operators in another way now: see {record}"
        )
    record.write_text(text)


if __name__ == "__main__":
    main()
