"""A program `adb` for tests: its phone is a folder, where commands run in the sh of this machine.

    python fake_adb.py SETTINGS.json adb-arguments

Settings: `devices`: {serial: state}; `root`: the folder that stands for /data/local/tmp;
`properties`: of `getprop`; `program`: the Python file that stands for any `benchmark_model` that
is pushed, as this machine cannot run what is for a phone; `space`: bytes that one file may have;
`gone`: whether the phone is unplugged when a program is to run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


def devices(settings):
    # As adb prints it when its server was not running yet.
    print("* daemon not running; starting now at tcp:5037\n* daemon started successfully")
    print("List of devices attached")
    for serial, state in settings["devices"].items():
        print(f"{serial}\t{state}")
    print()


def push(settings, source, target):
    target = Path(settings["root"]) / Path(target).relative_to("/data/local/tmp")
    size = os.path.getsize(source)
    if size > settings.get("space", 1 << 40):
        print(
            f"adb: error: failed to copy '{source}' to '{target}': remote couldn't write file: No "
            f"space left on device\n{source}: 0 files pushed. 5.2 MB/s ({size} bytes in 0.1s)"
        )
        return 1
    if not target.parent.is_dir():
        print(f"adb: error: failed to copy '{source}': remote couldn't create file")
        return 1
    shutil.copy(source, target)
    if target.name == "benchmark_model":
        program = settings["program"]
        target.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
        target.chmod(0o644)
    print(f"{source}: 1 file pushed, 0 skipped. 53.7 MB/s ({size} bytes in 0.028s)")
    return 0


def shell(settings, command):
    if settings.get("gone") and "benchmark_model --" in command:
        print(f"adb: device '{next(iter(settings['devices']))}' not found")
        return 1
    asked = re.fullmatch(r"getprop (\S+)", command)
    if asked:
        print(settings["properties"].get(asked[1], ""), end="\r\n")
        return 0
    with open(Path(settings["root"]) / "commands.txt", "a") as file:
        file.write(command + "\n")
    return subprocess.run(
        ["sh", "-c", command.replace("/data/local/tmp", settings["root"])]
    ).returncode


def main():
    settings, arguments = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:]
    if arguments == ["devices"]:
        return devices(settings)
    assert arguments[0] == "-s"
    assert settings["devices"][arguments[1]] == "device"
    verb, rest = arguments[2], arguments[3:]
    return {"push": push, "shell": shell}[verb](settings, *rest)


if __name__ == "__main__":
    sys.exit(main())
