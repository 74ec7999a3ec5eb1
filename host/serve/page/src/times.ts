// Times that are asked for often, by the reader's clock.

export interface Range {
  name: string;
  of: (now: Date) => { since: Date; until?: Date };
}

function at(now: Date, days: number, hour: number): Date {
  return new Date(now.getFullYear(), now.getMonth(), now.getDate() + days, hour);
}

export const LAST_NIGHT: Range = { name: "Last night", of: (now) => ({ since: at(now, -1, 18), until: at(now, 0, 8) }) };

export const RANGES: readonly Range[] = [
  { name: "Last hour", of: (now) => ({ since: new Date(now.getTime() - 3_600_000) }) },
  LAST_NIGHT,
  { name: "Today", of: (now) => ({ since: at(now, 0, 0) }) },
  { name: "7 days", of: (now) => ({ since: at(now, -7, 0) }) },
];

const two = (number: number): string => String(number).padStart(2, "0");

// A time in the form of an input for local times.
export function local(of: Date): string {
  return `${of.getFullYear()}-${two(of.getMonth() + 1)}-${two(of.getDate())}T${two(of.getHours())}:${two(of.getMinutes())}`;
}

// A time in the API's form; empty if there is none.
export function asTime(text: string): string {
  const when = new Date(text);
  return text && !Number.isNaN(when.getTime()) ? when.toISOString() : "";
}
