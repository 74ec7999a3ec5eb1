// A job as text: JSON in either form, or Nomad's HCL. Problems say their lines, and lead there.

import { useRef } from "preact/hooks";

import { lineOf, offsetOf } from "../job";
import type { JobProblem } from "../shapes";
import { seen } from "../text";

export function JobText({ text, problems, change }: { text: string; problems: JobProblem[]; change: (text: string) => void }) {
  const area = useRef<HTMLTextAreaElement>(null);
  const show = (line: number): void => {
    const element = area.current;
    if (!element) return;
    const lines = text.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, line) => sum + line.length + 1, 0);
    element.focus();
    element.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
    element.scrollTop = Math.max(0, (line - 5) * 19);
  };
  return (
    <div class="field">
      <label for="job-text">Job: JSON in qhost's own form or Nomad's, or Nomad's HCL</label>
      <textarea
        id="job-text"
        ref={area}
        rows={18}
        spellcheck={false}
        wrap="off"
        value={text}
        aria-invalid={problems.length > 0 ? "true" : undefined}
        aria-describedby={problems.length > 0 ? "job-text-wrong" : undefined}
        onInput={(event) => change(event.currentTarget.value)}
      />
      {problems.length > 0 && (
        <ul class="wrong" id="job-text-wrong">
          {problems.map((problem) => {
            const line = problem.line ?? lineOf(text, offsetOf(text, problem.pointer));
            return (
              <li>
                <button type="button" class="plain" onClick={() => show(line)}>
                  line {line}
                </button>
                <code>{seen(problem.pointer) || "/"}</code>: {seen(problem.found)}; expected {seen(problem.expected)}
                {problem.hint && <>. {seen(problem.hint)}</>}
              </li>
            );
          })}
        </ul>
      )}
    </div>
  );
}
