"""`python -m finetune_trainer.oracle --config config.json [--method lora …]`: traces a training step, prints JSON (bytes)."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

from finetune_trainer.oracle.setting import TraceSetting


def main(arguments: list[str] | None = None) -> None:
    """Trace and print."""
    parser = argparse.ArgumentParser(
        prog="python -m finetune_trainer.oracle",
        description="Trace a training step on shapes alone and print the bytes that each phase holds on a GPU.",
    )
    parser.add_argument("--config", type=Path, required=True, help="the model's config.json")
    parser.add_argument(
        "--architecture", action="store_true", help="print what a generic estimate needs instead (trace_architecture)"
    )
    _add_setting(parser)
    options = vars(parser.parse_args(arguments))
    try:
        config = json.loads(options.pop("config").read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"--config: {error}")
    # transformers and PEFT warn about what does not matter to shapes; the output is one JSON document.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    # Importing torch takes seconds: only once the arguments are known to be good.
    from finetune_trainer.oracle.architecture import trace_architecture
    from finetune_trainer.oracle.extrapolation import trace_extrapolated

    whole_architecture = options.pop("architecture")
    try:
        setting = TraceSetting(**{name: _typed(name, value) for name, value in options.items()})
        if whole_architecture:
            print(trace_architecture(config).model_dump_json(indent=1, by_alias=True))
            return
        traced = trace_extrapolated(config, setting)
    except Exception as error:
        # Any model's code may raise anything on shapes alone.
        sys.exit(f"cannot be traced: {type(error).__name__}: {' '.join(str(error).split())[:500]}")
    print(
        json.dumps(
            {
                "peak_bytes": traced.peak,
                "peak_phase": traced.peak_phase,
                "parameters": traced.parameters,
                "trained_parameters": traced.trained_parameters,
                "phases": {phase: dataclasses.asdict(part) for phase, part in traced.phases.items()},
            },
            indent=1,
        )
    )


def _add_setting(parser: argparse.ArgumentParser) -> None:
    """One option per field of TraceSetting."""
    hints = get_type_hints(TraceSetting)
    for field in dataclasses.fields(TraceSetting):
        option, hint, default = f"--{field.name.replace('_', '-')}", hints[field.name], field.default
        if hint is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, StrEnum):
            parser.add_argument(option, choices=[choice.value for choice in type(default)], default=default.value)
        elif isinstance(default, tuple):
            parser.add_argument(option, nargs="+", default=list(default))
        else:
            parser.add_argument(option, type=hint, default=default)


def _typed(name: str, value: Any) -> Any:
    default = next(field.default for field in dataclasses.fields(TraceSetting) if field.name == name)
    if isinstance(default, StrEnum):
        return type(default)(value)
    return tuple(value) if isinstance(default, tuple) else value


if __name__ == "__main__":
    main()
