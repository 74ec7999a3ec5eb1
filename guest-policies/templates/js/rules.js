// Every VM belongs to a team, and gets no more memory than there is for one.

const schema = {
  type: "object",
  additionalProperties: false,
  required: ["teams", "memory_mib"],
  properties: {
    teams: {
      description: "The teams whose tasks may run, as meta.team names them.",
      type: "array",
      items: { type: "string" },
    },
    memory_mib: {
      description: "The most memory of a guest in MiB.",
      type: "integer",
      minimum: 16,
      maximum: 4194304,
    },
  },
};

/** The settings. What is thrown is one sentence that names the setting. */
function read(text) {
  let settings;
  try {
    settings = JSON.parse(text);
  } catch (error) {
    throw `not JSON: ${error.message}`;
  }
  for (const key of Object.keys(settings)) {
    if (!Object.hasOwn(schema.properties, key)) throw `unknown setting ${key}`;
  }
  const { teams, memory_mib } = settings;
  if (!Array.isArray(teams) || !teams.every((team) => typeof team === "string")) {
    throw "teams: expected a list of names";
  }
  if (!Number.isInteger(memory_mib) || memory_mib < 16 || memory_mib > 4194304) {
    throw "memory_mib: expected a whole number from 16 to 4194304";
  }
  return settings;
}

export const decide = {
  describe() {
    return {
      name: "__name__",
      version: "0.1.0",
      description: "Every VM belongs to a team, with a cap on its memory.",
      settingsSchema: JSON.stringify(schema),
      tables: [],
      extensions: [],
    };
  },

  checkSettings(settings) {
    read(settings);
  },

  // To refuse here, throw a list of violations.
  choose(request, soFar) {
    const { memory_mib } = read(request.settings);
    if (soFar.resources.memoryMib > memory_mib) {
      soFar.resources.memoryMib = memory_mib;
      soFar.warnings.push(`memory was lowered to ${memory_mib} MiB`);
    }
    return soFar;
  },

  validate(request, launch) {
    const { teams, memory_mib } = read(request.settings);
    const violations = [];
    const team = new Map(request.task.meta).get("team");
    if (!teams.includes(team)) {
      violations.push({
        code: "no-team",
        field: "meta.team",
        message: "the task names no team of ours",
        hint: `teams: ${teams.join(", ")}`,
        extensions: [],
      });
    }
    // A later policy may have raised it again.
    if (launch.resources.memoryMib > memory_mib) {
      violations.push({
        code: "too-much-memory",
        field: "resources.memory-mib",
        message: `more than ${memory_mib} MiB`,
        hint: undefined,
        extensions: [],
      });
    }
    return violations;
  },

  // Consoles, commands and the like: nothing against any of them.
  permit(request, vm, operation, actor) {
    return [];
  },
};
