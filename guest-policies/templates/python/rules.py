"""Every VM belongs to a team, and gets no more memory than there is for one."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.types import About, Actor, Launch, Operation, Request, Running, Violation

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["teams", "memory_mib"],
    "properties": {
        "teams": {
            "description": "The teams whose tasks may run, as meta.team names them.",
            "type": "array",
            "items": {"type": "string"},
        },
        "memory_mib": {
            "description": "The most memory of a guest in MiB.",
            "type": "integer",
            "minimum": 16,
            "maximum": 4194304,
        },
    },
}


def read(text: str) -> tuple[list[str], int]:
    """The teams and the memory in MiB. An error is one sentence that names the setting."""
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise Err(f"not JSON: {error}")
    for key in settings:
        if key not in SCHEMA["properties"]:
            raise Err(f"unknown setting {key}")
    teams, memory_mib = settings.get("teams"), settings.get("memory_mib")
    if not isinstance(teams, list) or not all(isinstance(team, str) for team in teams):
        raise Err("teams: expected a list of names")
    if type(memory_mib) is not int or not 16 <= memory_mib <= 4194304:
        raise Err("memory_mib: expected a whole number from 16 to 4194304")
    return teams, memory_mib


class Decide(exports.Decide):
    def describe(self) -> About:
        return About(
            name="__name__",
            version="0.1.0",
            description="Every VM belongs to a team, with a cap on its memory.",
            settings_schema=json.dumps(SCHEMA),
            tables=[],
            extensions=[],
        )

    def check_settings(self, settings: str) -> None:
        read(settings)

    # To refuse here, raise Err([Violation(…)]).
    def choose(self, request: Request, so_far: Launch) -> Launch:
        _, memory_mib = read(request.settings)
        if so_far.resources.memory_mib > memory_mib:
            so_far.resources.memory_mib = memory_mib
            so_far.warnings.append(f"memory was lowered to {memory_mib} MiB")
        return so_far

    def validate(self, request: Request, launch: Launch) -> list[Violation]:
        teams, memory_mib = read(request.settings)
        violations = []
        if dict(request.task.meta).get("team") not in teams:
            message, hint = "the task names no team of ours", f"teams: {', '.join(teams)}"
            violations.append(Violation("no-team", "meta.team", message, hint, []))
        # A later policy may have raised it again.
        if launch.resources.memory_mib > memory_mib:
            message = f"more than {memory_mib} MiB"
            violations.append(Violation("too-much-memory", "resources.memory-mib", message, None, []))
        return violations

    # Consoles, commands and the like: nothing against any of them.
    def permit(self, request: Request, vm: Running, operation: Operation, actor: Actor) -> list[Violation]:
        return []
