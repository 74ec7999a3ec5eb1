// A field of the job's form, with what is wrong under it.

import type { ComponentChildren } from "preact";

import { problemsAt } from "../job";
import type { JobProblem } from "../shapes";
import { seen } from "../text";

interface FieldProps {
  label: string;
  pointer: string;
  problems: JobProblem[];
  children: (props: { id: string; "aria-invalid"?: "true"; "aria-describedby"?: string }) => ComponentChildren;
}

export function Field({ label, pointer, problems, children }: FieldProps) {
  const own = problemsAt(problems, pointer);
  const id = `field${pointer.replaceAll("/", "-")}`;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children({ id, ...(own.length > 0 ? { "aria-invalid": "true", "aria-describedby": `${id}-wrong` } : {}) })}
      {own.length > 0 && <Wrong id={`${id}-wrong`} problems={own} />}
    </div>
  );
}

export function Wrong({ id, problems }: { id?: string; problems: JobProblem[] }) {
  return (
    <div class="wrong" {...(id ? { id } : {})}>
      {problems.map(({ found, expected, hint }) => (
        <p>
          {seen(found)}; expected {seen(expected)}
          {hint && <>. {seen(hint)}</>}
        </p>
      ))}
    </div>
  );
}

interface ChoiceProps {
  label: string;
  pointer: string;
  problems: JobProblem[];
  choices: Record<string, string>;
  text: (pointer: string) => string;
  set: (pointer: string, value: string | undefined) => void;
}

export function Choice({ label, pointer, problems, choices, text, set }: ChoiceProps) {
  return (
    <Field label={label} pointer={pointer} problems={problems}>
      {(props) => (
        <select {...props} value={text(pointer)} onChange={(event) => set(pointer, event.currentTarget.value || undefined)}>
          {Object.entries(choices).map(([value, shown]) => (
            <option value={value}>{shown}</option>
          ))}
        </select>
      )}
    </Field>
  );
}
